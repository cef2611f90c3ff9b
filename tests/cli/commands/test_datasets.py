import pytest

from tokenlab.cli.commands.datasets import expand_data
from tokenlab.errors import UserError


class Questions:
    def __init__(self, batch_size: int = 1, root: str | None = None) -> None: ...


class Rendered(Questions):
    def __init__(self, num_videos: int = 7, **kwargs) -> None: ...


class Lines(Questions):
    def __init__(self, file: str, **kwargs) -> None: ...


DATASETS = {"rendered": Rendered, "lines": Lines}
RENDERED, LINES = (f"{__name__}.{cls.__name__}" for cls in (Rendered, Lines))


def expand(*values):
    return expand_data(values, DATASETS, Questions)


def test_spellings():
    full = {"class_path": RENDERED, "init_args": {"num_videos": 3}}
    assert expand({"rendered": {"num_videos": 3}}) == expand(full) == full
    assert expand("rendered") == expand({"rendered": None}) == {"class_path": RENDERED, "init_args": {}}


def test_the_same_dataset_is_merged_and_another_replaces_it():
    first = {"rendered": {"num_videos": 3, "batch_size": 2}}
    assert expand(first, {"rendered": {"num_videos": 4}})["init_args"] == {"num_videos": 4, "batch_size": 2}
    assert expand(first, {"num_videos": 4})["init_args"] == {"num_videos": 4, "batch_size": 2}
    assert expand(first, {"init_args": {"num_videos": 4}})["init_args"] == {"num_videos": 4, "batch_size": 2}
    assert expand(first, "rendered")["init_args"] == {"num_videos": 3, "batch_size": 2}
    assert expand(first, {"lines": {"file": "f"}}) == {"class_path": LINES, "init_args": {"file": "f"}}
    assert expand("lines", {"file": "f"}, {"root": None})["init_args"] == {"file": "f", "root": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "data is missing: name one dataset"),
        ([None], "data: name one dataset"),
        ([{}], "data: name one dataset"),
        ([[]], "data: name one dataset"),
        ([{"rendered": 3}], "data: name one dataset"),
        ([{"rendered": {}, "lines": {}}], "data: name one dataset"),
        ([{"num_videos": 3, "batch_size": 1}], "data: name one dataset"),
        (["rendred"], "data: there is no dataset 'rendred'; did you mean 'rendered'?"),
        ([{"rendred": {}}], "data: there is no dataset 'rendred'; did you mean 'rendered'?"),
        (["zzz"], "data: there is no dataset 'zzz'; known: rendered, lines"),
        (
            ["rendered", {"num_vidoes": 1}],
            "data.rendered: there is no parameter 'num_vidoes'; did you mean 'num_videos'?",
        ),
        (["rendered", {"batch_size": "x"}], "data.rendered.batch_size: must be a whole number, got 'x'"),
        (["lines", {"file": 7}], "data.lines.file: must be text, got 7 (put it in quotes)"),
        (["lines"], "data.lines: file is missing; give file: text"),
        ([{"class_path": "collections.Counter"}], "data: class_path 'collections.Counter' is not a Questions"),
        ([{"class_path": f"{__name__}.Questions"}], f"data: class_path '{__name__}.Questions' is abstract"),
    ],
)
def test_mistakes_in_one_line(values, message):
    with pytest.raises(UserError) as error:
        expand(*values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
