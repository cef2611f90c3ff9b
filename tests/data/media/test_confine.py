import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenlab.data import MediaError, confine


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    base = tmp_path_factory.mktemp("confine")
    (base / "secret.mp4").touch()
    (base / "root" / "inner").mkdir(parents=True)
    (base / "root" / "inner" / "a.mp4").touch()
    (base / "root" / "alias.mp4").symlink_to("inner/a.mp4")
    (base / "root" / "escape.mp4").symlink_to("../secret.mp4")
    (base / "root" / "up").symlink_to("..")
    (base / "root" / "loop.mp4").symlink_to("loop.mp4")
    (base / "linked_root").symlink_to("root")
    return base / "root"


@pytest.mark.parametrize("name", ["inner/a.mp4", "./inner//a.mp4", "alias.mp4"])
def test_names_inside(root, name):
    assert confine(root, name) == root.resolve() / "inner" / "a.mp4"


def test_names_of_files_that_are_not_there(root):
    assert confine(root, "later/b.mp4") == root.resolve() / "later" / "b.mp4"


def test_root_itself_may_be_a_link_or_relative(root, monkeypatch):
    assert confine(root.parent / "linked_root", "inner/a.mp4") == root.resolve() / "inner" / "a.mp4"
    monkeypatch.chdir(root)
    assert confine("inner", "a.mp4") == root.resolve() / "inner" / "a.mp4"


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.mp4", "inner/../../secret.mp4", "inner/../inner/a.mp4", "escape.mp4", "up/secret.mp4"],
)
def test_names_that_lead_out(root, name):
    with pytest.raises(MediaError, match="is not a file inside"):
        confine(root, name)


@pytest.mark.parametrize("name", ["", ".", "\x00"])
def test_names_of_no_file(root, name):
    with pytest.raises(MediaError, match="is not"):
        confine(root, name)


@given(st.lists(st.sampled_from(["..", ".", "", "inner", "up", "escape.mp4", "loop.mp4", "a.mp4", "~"]) | st.text()))
@example(["\ud800"])
@example(["x" * 5000])
def test_nothing_leaves_the_root(root, parts):
    try:
        path = confine(root, "/".join(parts))
    except MediaError:
        return
    assert Path(os.path.realpath(path)).is_relative_to(root.resolve())
    assert path != root.resolve()
