import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.cli.config import merge as module
from tokenlab.cli.config.merge import merge, override
from tokenlab.errors import UserError

names = st.sampled_from("abcdef")
arms = st.dictionaries(names, st.lists(st.integers(), max_size=2))


def config(pipelines):
    return {"model": {"pipelines": pipelines}}


@given(st.lists(arms, min_size=1, max_size=4))
def test_arms_are_added_in_order_and_the_later_wins(layers):
    merged = merge(config(layer) for layer in layers)["model"]["pipelines"]
    first_seen = list(dict.fromkeys(arm for layer in layers for arm in layer))
    assert list(merged) == first_seen
    for arm, steps in merged.items():
        assert steps == [layer for layer in layers if arm in layer][-1][arm]


@given(arms, names)
def test_null_removes_exactly_one_arm(pipelines, arm):
    if arm in pipelines:
        merged = merge([config(pipelines), config({arm: None})])["model"]["pipelines"]
        assert merged == {name: steps for name, steps in pipelines.items() if name != arm}
    else:
        with pytest.raises(UserError, match=f"model.pipelines.{arm}: null removes an arm"):
            merge([config(pipelines), config({arm: None})])


json = st.recursive(st.integers() | st.none(), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)


@given(st.lists(st.dictionaries(names, json, max_size=3), max_size=4))
def test_merging_is_associative_and_leaves_its_inputs_alone(layers):
    before = repr(layers)
    assert merge([merge(layers[:2]), *layers[2:]]) == merge(layers)
    assert repr(layers) == before


def test_another_class_drops_the_arguments_of_the_first():
    first = {"trainer": {"logger": {"class_path": "A", "init_args": {"x": 1}}, "devices": 1}}
    second = {"trainer": {"logger": {"class_path": "B"}}}
    same = {"trainer": {"logger": {"class_path": "A", "init_args": {"y": 2}}}}
    assert merge([first, second])["trainer"] == {"logger": {"class_path": "B"}, "devices": 1}
    assert merge([first, same])["trainer"]["logger"]["init_args"] == {"x": 1, "y": 2}


def test_null_outside_pipelines_is_a_value():
    assert merge([{"trainer": {"logger": {"a": 1}}}, {"trainer": {"logger": None}}]) == {"trainer": {"logger": None}}


def test_removing_suggests_the_arm_that_was_meant():
    with pytest.raises(UserError, match="did you mean 'topic'"):
        merge([config({"topic": []}), config({"topc": None})])


def test_overrides_nest():
    assert doctest.testmod(module).failed == 0
    assert override("data", "shapes") == {"data": "shapes"}


def test_plus_appends_to_an_arm_of_an_earlier_config():
    earlier = config({"full": [], "half": [{"random": 1}], "one": {"topic": 2}})
    later = config({"full+": [{"text": 3}], "half+": {"text": 3}, "one+": "text@0.5"})
    assert merge([earlier, later])["model"]["pipelines"] == {
        "full": [{"text": 3}],
        "half": [{"random": 1}, {"text": 3}],
        "one": [{"topic": 2}, "text@0.5"],
    }
    with pytest.raises(
        UserError, match=r"^model\.pipelines\.fall\+: appends to an arm 'fall', .*; did you mean 'full'"
    ):
        merge([earlier, config({"fall+": []})])
