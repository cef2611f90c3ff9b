"""Each arm's rivals: chance in its own place, and whatever else its budget could be spent on."""

import pytest

from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.controls import CONTROLS, controls_of
from tokenlab.compressors.spelling import build_pipelines, expand_pipelines, parse_pipeline, with_controls
from tokenlab.errors import UserError


def controls(text: str) -> dict[str, Pipeline]:
    return controls_of({"mine": parse_pipeline(text)}).get("mine", {})


def spelled(pipeline: Pipeline) -> list[tuple]:
    steps = pipeline.compressors
    return [(each.name, each.retention_ratio, getattr(each, "at", None), each.positions) for each in steps]


def test_chance_stands_in_the_arms_own_place():
    found = controls("[{similarity: {retention_ratio: 0.5}}, {fastv: {retention_ratio: 0.5, layer: 8}}]")
    lots = [name for name in found if "#" in name]
    assert lots == [f"random@0.5 renumbered+random@0.5 in layers from 8 #{k}" for k in (1, 2, 3)]
    assert spelled(found[lots[0]]) == [("random", 0.5, "grid", "renumber"), ("random", 0.5, "layers", "keep")]
    assert found[lots[0]].compressors[1].layer == 8
    assert [each.compressors[0].draw for each in (found[name] for name in lots)] == [0, 1, 2]
    assert spelled(found["pool@0.25"])[0][:2] == ("pool", 0.25)
    assert spelled(found["frame_stride@0.25"])[0][:2] == ("frame_stride", 0.25)
    assert spelled(found["blind"])[0][0] == "blind"


@pytest.mark.parametrize("name", sorted(name for name, each in REGISTRY.items() if each.budget_unit != "none"))
def test_every_method_with_a_ratio_has_controls(name):
    example = REGISTRY[name].example(0.4)
    if example.retention_ratio is None:
        pytest.skip("its example has the authors' own budget")
    found = controls_of({"mine": Pipeline((example,))})
    if name in CONTROLS:
        assert found == {}
    else:
        assert {"blind", f"pool@{example.retention_ratio:g}"} < set(found["mine"])


def test_pictures_are_shrunk_where_that_leaves_fewer_tokens():
    """In place of a method that does so as well; the control of a name is nobody else's."""
    arms = {"mine": parse_pipeline("topic@0.5"), "native@0.5": parse_pipeline("native@0.5")}
    found = controls_of(arms, follows_size=True)
    assert found.keys() == {"mine"}
    assert found["mine"]["native@0.5"] == arms["native@0.5"]
    assert "native@0.5" not in controls_of(arms)["mine"]
    (lot, *_) = controls_of({"mine": parse_pipeline("native@0.8+topic@0.5")})["mine"]
    assert lot == "native@0.8+random@0.5 #1"
    with pytest.raises(UserError, match=r"arm 'native@0\.5' bears the name of a control"):
        controls_of({**arms, "native@0.5": parse_pipeline("native@0.4")}, follows_size=True)


def test_frames_are_thinned_out_once():
    assert sorted(controls("aks@0.5")) == ["blind", "frame_stride@0.5", "pool@0.5"]


@pytest.mark.parametrize("text", ["random@0.5", "[pool@0.5]", "frame_stride@0.5+random@0.5"])
def test_controls_and_the_untouched_model_need_none(text):
    assert controls(text) == {}
    assert controls_of({"full": Pipeline(), "off": parse_pipeline("topic@1")}) == {}


def test_a_budget_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match=r"model\.controls: dtd in arm 'mine' has no retention_ratio"):
        controls_of({"mine": Pipeline((REGISTRY["dtd"](),))})


def test_arms_of_one_budget_share_their_controls():
    arms = expand_pipelines({"full": [], "topic": ["topic@0.5"], "text": ["text@0.5"]})
    found = with_controls(arms)
    assert list(found) == [*arms, *(f"random@0.5 #{k}" for k in (1, 2, 3)), "pool@0.5", "frame_stride@0.5", "blind"]
    assert with_controls(found) == found
    assert build_pipelines(found)["blind"] == Pipeline((REGISTRY["blind"](),))


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(UserError, match="arm 'blind' bears the name of a control"):
        with_controls(expand_pipelines({"topic": ["topic@0.5"], "blind": ["random@0.5"]}))


def test_positions_fan_out_as_ratios_do():
    arms = {"topic": [{"topic": {"retention_ratio": [0.5, 0.25], "positions": ["keep", "renumber"]}}]}
    found = build_pipelines(expand_pipelines(arms))
    assert {name: spelled(each)[0][1::2] for name, each in found.items()} == {
        f"topic@{ratio} {policy}": (ratio, policy) for ratio in (0.5, 0.25) for policy in ("keep", "renumber")
    }
