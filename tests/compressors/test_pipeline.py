import pytest

from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings, TowerAttention
from tokenlab.compressors.pipeline import fingerprint
from tokenlab.compressors.stages import GridReduction


def build(*names: str, ratio: float = 0.5) -> Pipeline:
    return Pipeline(tuple(REGISTRY[name](retention_ratio=ratio) for name in names))


@pytest.mark.parametrize(
    ("names", "working"),
    [
        (("topic", "similarity"), "[similarity, topic]"),
        (("random", "frame_stride"), "[frame_stride, random]"),
        (("similarity", "topic", "differential"), "[similarity, differential, topic]"),
        (("pool", "grid_stride"), "[grid_stride, pool]"),
    ],
)
def test_orders_that_cannot_work_name_one_that_does(names, working):
    with pytest.raises(ValueError, match="list it first") as caught:
        build(*names)
    assert working in str(caught.value)


def test_one_method_at_a_time_inside_the_tower():
    with pytest.raises(ValueError, match="tome and tome both act inside the vision tower"):
        build("tome", "tome")
    with pytest.raises(ValueError, match=r"list it first: \[tome, similarity\]"):
        build("similarity", "tome")


def test_layers_decide_who_acts_first():
    """Not the list: FastV cuts at layer 2, so that at layer 20 no grid is whole any more."""
    sttm, fastv = REGISTRY["sttm"], REGISTRY["fastv"](retention_ratio=0.5)
    with pytest.raises(ValueError, match="fastv removes some at an earlier layer: give sttm a layer before it"):
        Pipeline((sttm(layer=20), fastv))
    assert Pipeline((sttm(layer=1), fastv)).compressors[1] is fastv


@pytest.mark.parametrize(
    "names", [(), ("similarity", "text"), ("frame_stride", "differential", "topic"), ("topic", "random")]
)
def test_orders_that_work(names):
    assert [c.name for c in build(*names).compressors] == list(names)


def test_switched_off_compressors_need_nothing():
    assert build("topic", ratio=1.0).active == ()
    assert build("topic", ratio=1.0).needs() == frozenset()
    assert build("topic", "text").needs() == {TowerAttention(-2), TokenEmbeddings("llm"), QuestionEmbeddings("llm")}
    assert [c.name for c in build("frame_stride", "topic").of_stage(GridReduction)] == ["topic"]


def test_fingerprints_tell_pipelines_apart():
    described = [
        fingerprint(build(*names, ratio=r).describe()) for names in (("topic",), ("text",)) for r in (0.5, 0.25)
    ]
    assert len(set(described)) == 4
    assert fingerprint(build("topic").describe()) == described[0]
