"""An image is to a model what it is to the checkpoint's own processor, transparency included."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.conftest import by_tier
from tests.models.harness import settings
from tokenlab.compressors import PixelChange
from tokenlab.data.media.image import read_image
from tokenlab.data.samples import Frames
from tokenlab.models.families import FAMILIES
from tokenlab.models.mllm import LoadedModel


def _save(folder) -> list[str]:
    """A picture of every way to be transparent, among them the palette's."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 110, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    palette = rgba.convert("RGB").quantize(16)
    clear = tuple(pixels[0, 0, :3].tolist())
    written = {
        "rgba.png": (rgba, {}),
        "rgba.webp": (rgba, {"lossless": True, "exact": True}),
        "palette.png": (palette, {"transparency": 3}),
        "grey and alpha.png": (rgba.convert("LA"), {}),
        "trns.png": (rgba.convert("RGB"), {"transparency": clear}),
        "clear.gif": (palette, {"transparency": 3}),
        "opaque.png": (rgba.convert("RGB"), {}),
    }
    for name, (image, options) in written.items():
        image.save(folder / name, **options)
    return list(written)


@pytest.fixture(scope="module", params=by_tier(FAMILIES))
def processor(request, checkpoints):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoints[request.param]).image_processor


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_how_far_pixels_are_from_those_a_step_before(checkpoints, family):
    """Two frames a step: the first of one against the last of the next, of black to white 1."""
    loaded = LoadedModel.load(settings(checkpoints[family]))
    grey = np.full((6, 128, 128, 3), 100, dtype=np.uint8)
    grey[3, :64] += 51  # the second step's last frame, its upper half
    grey[4:] += 102  # the third step
    frames = Frames(grey, tuple(range(6)), np.arange(6) / 2)
    tokens = loaded.encode(frames, frozenset({PixelChange()})).tokens
    change = tokens.evidence[PixelChange()].reshape(tokens.grid)
    assert change[0].isinf().all()
    assert torch.allclose(change[1, 0], torch.tensor(0.2), atol=1e-3)
    assert torch.allclose(change[1, -1], torch.tensor(0.0), atol=1e-3)
    assert torch.allclose(change[2], torch.tensor(0.4), atol=1e-3)


def test_pixels_are_the_processor_s_own(processor, tmp_path):
    for name in _save(tmp_path):
        (ours,) = read_image(tmp_path / name).pixels
        with Image.open(tmp_path / name) as image:
            own = processor(images=[image], return_tensors="pt")
        for key, value in processor(images=[Image.fromarray(ours)], return_tensors="pt").items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(own[key])), (name, key)
