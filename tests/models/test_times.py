"""What prompts say of time, for frames at uneven times."""

import re
from pathlib import Path

import pytest

from tokenlab.data import decode
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM

SCREEN = Path(__file__).parents[1] / "data" / "media" / "files" / "screen-recording-vfr.mp4"


@pytest.mark.parametrize("sampling", ["number", "time"])
def test_qwen3_marks_pairs_of_frames_with_their_true_times(checkpoints, sampling):
    loaded = LoadedModel.load(MLLM(checkpoint=str(checkpoints["qwen3_vl"])))
    frames = decode(SCREEN, 8, sampling)
    (replacement,) = loaded.media.process(frames).replacements
    marked = [float(text) for text in re.findall(r"<([\d.]+) seconds>", replacement)]
    pairs = frames.seconds.reshape(4, 2).mean(1)
    assert marked == pytest.approx(pairs.tolist(), abs=0.051)
    if sampling == "number":
        assert marked == pytest.approx([0.2, 1.05, 1.9, 7.1], abs=0.06)
