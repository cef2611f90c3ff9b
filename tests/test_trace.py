import torch

from tokenlab.reduction import Reduction
from tokenlab.trace import AppliedReduction, MediumTrace, Trace


def test_traces_count_what_was_applied():
    frames = AppliedReduction("frames", "a", 0, Reduction.keep(torch.tensor([0, 2]), 4))
    grid = AppliedReduction("grid", "b", 0, Reduction.keep(torch.arange(3), 8))
    trace = Trace((MediumTrace(16, 1),), (frames, grid), 30, 10, ((2, 2, 2),))
    assert [trace.visual_tokens_after(k) for k in range(3)] == [17, 9, 4]


def test_parts_of_the_way_add_up():
    early = Trace(media=(MediumTrace(16),), passes=(2,), prompt_tokens=30)
    late = Trace(prefill_tokens=10, attention_tokens=(10, 5), rope_recomputed=5)
    whole = early + Trace(passes=(3,)) + late
    assert whole == Trace(
        media=(MediumTrace(16),),
        passes=(2, 3),
        prompt_tokens=30,
        prefill_tokens=10,
        attention_tokens=(10, 5),
        rope_recomputed=5,
    )
