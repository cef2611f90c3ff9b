"""What a run is said to need, against what the tensors of a real run hold."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tokenlab.compressors import Pipeline
from tokenlab.data.samples import Clip, Sample
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.memory import MemoryNeed, free_memory, needed_memory
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.testing.media import noise_video

FRAMES = 24
CPU = torch.device("cpu")


class Held(TorchDispatchMode):
    """Counts the bytes that tensors hold, and the most since `forget`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.start = 0
        self.known: set[int] = set()

    def forget(self, *_: object) -> None:
        self.most = self.start = self.now

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place and place not in self.known:
            self.known.add(place)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl"])
def test_needed_memory_is_what_a_run_holds(checkpoints, family):
    settings = MLLM(checkpoint=str(checkpoints[family]), max_new_tokens=1)
    loaded, held, peaks = LoadedModel.load(settings), Held(), {}
    costs = ModelCosts(loaded.config)
    video = noise_video(1, FRAMES)
    clip = Clip("v", (Sample("v#0", "v", "what is there ?"),), (video,))
    modules = {"tower": costs.vision.tower(loaded.model), "llm": loaded.model.model.get_decoder()}
    held.known = {weight.untyped_storage().data_ptr() for weight in loaded.model.parameters()}
    for name, module in modules.items():
        module.register_forward_pre_hook(held.forget)
        module.register_forward_hook(lambda *_, name=name: peaks.update({name: held.most - held.start}))
    with held:
        loaded.generate([loaded.prepare(clip, clip.samples[0], Pipeline(), EncodeCache(frozenset()))])

    medium = costs.vision.shape(FRAMES, video.pixels.shape[1:3])
    need = needed_memory(costs, settings, 1, [medium])
    assert need.weights == 4 * loaded.model.num_parameters()
    assert max(peaks.values()) <= need.cache + need.activations < 4 * max(peaks.values())


def test_batch_precision_and_quantisation_scale_it(checkpoints):
    folder = str(checkpoints["llava"])
    costs = ModelCosts(LoadedModel.load(MLLM(checkpoint=folder)).config)
    media = [costs.vision.shape(8)]
    one = needed_memory(costs, MLLM(checkpoint=folder), 1, media)
    four = needed_memory(costs, MLLM(checkpoint=folder), 4, media)
    half = needed_memory(costs, MLLM(checkpoint=folder, dtype="bfloat16"), 1, media)
    auto = needed_memory(costs, MLLM(checkpoint=folder, dtype="auto"), 1, media)
    four_bits = needed_memory(costs, MLLM(checkpoint=folder, quantization="4bit"), 1, media)
    assert (four.weights, four.cache) == (one.weights, 4 * one.cache)
    assert (half.weights, half.cache) == (one.weights / 2, one.cache / 2)
    assert auto == one
    assert (four_bits.weights, four_bits.cache) == (one.weights / 8, one.cache)
    assert needed_memory(costs, MLLM(attn_implementation="eager"), 1, media).activations > one.activations


def test_a_line_says_whether_it_fits():
    need = MemoryNeed(weights=2**34, cache=2**31, activations=2**29, batch_size=8)
    start = "The model needs about 18.5 GiB at batch size 8: 16.0 GiB weights, 2.0 GiB KV cache, 512.0 MiB activations"
    assert need.line(CPU, None) == f"{start}."
    assert need.line(CPU, 2**36) == f"{start}; cpu has 64.0 GiB free."
    assert need.line(CPU, 2**30).startswith(f"{start}; cpu has only 1.0 GiB free: lower model.mllm.batch_size or")
    assert (free_memory(CPU) or 1) > 0
    assert free_memory(torch.device("meta")) is None
