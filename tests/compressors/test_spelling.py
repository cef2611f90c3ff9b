import sys
from dataclasses import dataclass, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.compressors.base import REGISTRY
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.spelling import expand_pipelines
from tokenlab.compressors.stages import GridReduction
from tokenlab.errors import UserError

TOPIC = "tokenlab.compressors.methods.topic.Topic"


@pytest.fixture
def outsider(monkeypatch):
    """The import path of a compressor from elsewhere, which leaves no trace in the registry."""

    @dataclass(frozen=True, kw_only=True)
    class Outsider(GridReduction, name="outsider"):
        """A compressor that tokenlab does not know."""

        __qualname__ = "Outsider"
        has_native_budget = True
        retention_ratio: float | None = None
        strength: int = 1

        def reduce_grid(self, view):
            raise NotImplementedError

    monkeypatch.setattr(sys.modules[__name__], "Outsider", Outsider, raising=False)
    yield f"{__name__}.Outsider"
    del REGISTRY["outsider"]


@dataclass(frozen=True, kw_only=True)
class Nameless(GridReduction):
    """A compressor that was not given a name."""

    def reduce_grid(self, view):
        raise NotImplementedError


def test_the_three_spellings_mean_the_same():
    short = expand_pipelines({"a": [{"topic": {"retention_ratio": 0.5}}]})
    assert short == {"a": [{"class_path": TOPIC, "init_args": {"retention_ratio": 0.5}}]}
    assert expand_pipelines(short) == short


def test_a_compressor_from_elsewhere_by_its_class_path(outsider):
    step = {"class_path": outsider, "init_args": {"retention_ratio": [0.5, None], "strength": 2}}
    assert list(expand_pipelines({"a": [step]})) == ["a@0.5", "a@native"]
    assert expand_pipelines({"a": [{"class_path": outsider}]}) == {"a": [{"class_path": outsider, "init_args": {}}]}
    assert list(expand_pipelines({"a": ["outsider"]})) == ["a"]


def test_a_compressor_needs_a_name():
    step = {"class_path": f"{__name__}.Nameless", "init_args": KEEP}
    assert says({"a": [step]}).endswith("has no name for tables; define it as class Nameless(GridReduction, name=...)")


def test_sweeps_fan_out_in_place():
    arms = expand_pipelines(
        {
            "full": [],
            "topic": [{"topic": {"retention_ratio": [0.5, 0.25]}}],
            "joint": [{"similarity": {"retention_ratio": [0.5, 1]}}, {"text": {"retention_ratio": [0.25, 0.1]}}],
            "half": [{"similarity": {"retention_ratio": 0.5}}, {"text": {"retention_ratio": [0.1]}}],
        }
    )
    joint = ["joint@0.5+0.25", "joint@0.5+0.1", "joint@1+0.25", "joint@1+0.1"]
    assert list(arms) == ["full", "topic@0.5", "topic@0.25", *joint, "half@0.1"]
    assert [step["init_args"]["retention_ratio"] for step in arms["joint@0.5+0.1"]] == [0.5, 0.1]


ratios = st.floats(0, 1, exclude_min=True) | st.lists(
    st.floats(0, 1, exclude_min=True), min_size=1, max_size=3, unique=True
)
steps = st.lists(st.builds(lambda r: {"random": {"retention_ratio": r}}, ratios), max_size=2)


@given(st.dictionaries(st.text("abc", min_size=1), steps, min_size=1, max_size=3))
def test_expanding_twice_changes_nothing(pipelines):
    once = expand_pipelines(pipelines)
    assert expand_pipelines(once) == once
    assert list(expand_pipelines(once)) == list(once)


def says(pipelines):
    with pytest.raises(UserError) as error:
        expand_pipelines(pipelines)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ratio", [0, -0.5, 1.0001, float("nan"), float("inf"), "0.5", True, {}, "half", None])
def test_impossible_ratios_name_their_key(ratio):
    assert says({"a": [{"topic": {"retention_ratio": ratio}}]}).startswith(
        "model.pipelines.a[0].topic.retention_ratio: "
    )
    assert says({"a": [{"topic": {"retention_ratio": [0.5, ratio]}}]}).startswith(
        "model.pipelines.a[0].topic.retention_"
    )
    full = {"class_path": TOPIC, "init_args": {"retention_ratio": ratio}}
    assert says({"a": [full]}).startswith("model.pipelines.a[0].init_args.retention_ratio: ")


LISTED = "(tokenlab compressors lists them)"
MISSING = "[0].topic: retention_ratio is missing; give retention_ratio: a number"
SWEEP = "[0].topic.retention_ratio: a sweep lists different values, at least one, got"
KEEP = {"retention_ratio": 1}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"random": KEEP}, "topik"], f"[1]: no compressor is called 'topik'; did you mean 'topic'? {LISTED}"),
        (["zzz"], f"[0]: no compressor is called 'zzz' {LISTED}"),
        (["topic"], MISSING),
        ([{"topic": None}], MISSING),
        ([{"topic": {"retention_rat": 1}}], "[0].topic: no parameter 'retention_rat'; did you mean 'retention_ratio'?"),
        ([{"topic": KEEP | {"positions": "k"}}], "[0].topic.positions: must be 'keep' or 'renumber', got 'k'"),
        ([{"topic": {"retention_ratio": []}}], f"{SWEEP} []"),
        ([{"topic": {"retention_ratio": [1, 1]}}], f"{SWEEP} [1, 1]"),
        ([{"class_path": "collections.Counter"}], "[0]: class_path 'collections.Counter' is not a TokenCompressor"),
        ([{"class_path": "X"}], "[0]: class_path 'X' cannot be imported: Empty module name"),
        ([{"class_path": "a1.X"}], "[0]: class_path 'a1.X' cannot be imported: No module named 'a1'"),
    ],
)
def test_mistakes_in_one_line(steps, message):
    assert says({"a": steps}).replace("there is no", "no") == f"model.pipelines.a{message}"


@pytest.mark.parametrize(
    "pipelines", [None, {}, [], "topic", {"a": None}, {"a": "topic"}, {"a": {"topic": {}}}, {1: []}]
)
def test_what_is_no_arm(pipelines):
    assert says(pipelines).startswith("model.pipelines")


@pytest.mark.parametrize("step", [1, None, [], {"topic": 0.5}, {"a": {}, "b": {}}, {"class_path": TOPIC, "init": {}}])
def test_what_is_no_compressor(step):
    assert says({"a": [step]}).startswith("model.pipelines.a[0]: ")


def test_stages_are_not_compressors():
    path = "tokenlab.compressors.stages.GridReduction"
    assert "abstract" in says({"a": [{"class_path": path, "init_args": {"retention_ratio": 1}}]})


def test_orders_that_cannot_work_are_refused_with_the_arm():
    ragged = [{"text": {"retention_ratio": 0.5}}, {"similarity": {"retention_ratio": 0.5}}]
    assert says({"a": ragged}).startswith("model.pipelines.a: similarity needs all tokens")
    late = [{"text": {"retention_ratio": 0.5}}, {"frame_stride": {"retention_ratio": 0.5}}]
    assert says({"a": late}).startswith("model.pipelines.a: frame_stride acts before text")


def test_a_sweep_may_not_take_the_name_of_an_arm():
    swept = [{"topic": {"retention_ratio": [0.5, 0.25]}}]
    for pipelines in ({"a@0.5": [], "a": swept}, {"a": swept, "a@0.5": []}):
        assert "sweep makes an arm 'a@0.5'" in says(pipelines)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_compressor_expands(name):
    method = REGISTRY[name].example()
    arguments = {each.name: value for each in fields(method) if (value := getattr(method, each.name)) != each.default}
    assert expand_pipelines({"a": [{name: arguments}]})["a"][0]["init_args"] == arguments


def test_text_spells_a_pipeline():
    joint = Pipeline.from_string("similarity@0.25+text@0.5")
    assert joint == Pipeline((REGISTRY["similarity"](retention_ratio=0.25), REGISTRY["text"](retention_ratio=0.5)))
    assert Pipeline.of(["similarity@0.25", REGISTRY["text"](retention_ratio=0.5)]) == joint
    assert Pipeline.from_string("[{similarity: {retention_ratio: 0.25}}, text@0.5]") == joint
    assert Pipeline.of(REGISTRY["topic"](retention_ratio=0.5)) == Pipeline.of("topic") == Pipeline.of("topic@0.5")
    assert Pipeline.of("visionzip") == Pipeline((REGISTRY["visionzip"](),))  # its authors' own budget
    assert Pipeline.of(joint) is joint
    assert Pipeline.of(()) == Pipeline()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topik@0.5", "no compressor is called 'topik'; did you mean 'topic'"),
        ("topic@half", r"'topic@half' is written NAME@RATIO"),
        ("topic@2", "retention_ratio: is 2.0, but must be greater than 0"),
        ("topic+", "no compressor is called ''"),
        ("text@0.5+similarity@0.5", "list it first"),
        ("[topic: {retention_ratio: [0.5, 0.2]}]", "is a sweep"),
        ("[topic", "pipeline"),
    ],
)
def test_a_slip_in_text_is_one_line(text, message):
    with pytest.raises(UserError, match=message):
        Pipeline.of(text)


def test_an_arm_of_a_config_is_a_pipeline(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: {pipelines: {full: [], topic: [{topic: {retention_ratio: [0.5, 0.25]}}], one: [topic@0.5]}}"
    )
    assert Pipeline.from_config(path, arm="topic@0.25") == Pipeline.of("topic@0.25")
    assert Pipeline.from_config(str(path), arm="full") == Pipeline()
    assert Pipeline.from_config("quickstart", arm="topic") == Pipeline.of("topic@0.25")
    with pytest.raises(UserError, match=r"there is no arm 'topic@0.3'; did you mean .*there are full, "):
        Pipeline.from_config(path, arm="topic@0.3")
    with pytest.raises(UserError, match="there is no file"):
        Pipeline.from_config(tmp_path / "other.yaml", arm="full")


@pytest.mark.parametrize("steps", ["random@0.5", {"random": {"retention_ratio": 0.5}}])
def test_a_single_compressor_stands_for_itself(steps):
    assert expand_pipelines({"a": steps}) == expand_pipelines({"a": [steps]})


def test_a_single_class_path_stands_for_itself():
    step = {"class_path": TOPIC, "init_args": KEEP}
    assert expand_pipelines({"a": step}) == expand_pipelines({"a": [step]})
