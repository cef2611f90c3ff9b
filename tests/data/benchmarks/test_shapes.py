from collections import Counter

import pytest

from tokenlab.data.benchmarks.shapes import Shapes
from tokenlab.errors import UserError
from tokenlab.shapes import videos
from tokenlab.shapes.questions import TYPES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shapes"))


def test_every_type_has_an_equal_share(folder):
    entries = Shapes(num_videos=22, folder=folder).entries("test")
    shares = Counter(sample.type for entry in entries for sample in entry.samples)
    assert shares == dict.fromkeys(TYPES, 6)
    assert {len(entry.samples) for entry in entries} == {3}
    assert all(sample.answers and sample.cluster == entry.cluster for entry in entries for sample in entry.samples)


def test_uids_are_stable_and_mean_one_question(folder):
    few, more = Shapes(num_videos=4, folder=folder).entries("test"), Shapes(num_videos=9, folder=folder).entries("test")
    asked = {sample.uid: sample for entry in few for sample in entry.samples}
    assert few[3].cluster == "shapes/test/000003"
    assert all(uid.rsplit("/", 1)[0] == sample.cluster for uid, sample in asked.items())
    again = {sample.uid: sample for entry in more for sample in entry.samples}
    assert asked.keys() & again.keys()
    assert all(asked[uid] == again[uid] for uid in asked.keys() & again.keys())


def test_splits(folder):
    data = Shapes(num_videos=3, folder=folder)
    assert data.entries("test") == data.entries("predict")
    validation, test = ({entry.media[0].path for entry in data.entries(split)} for split in ("validation", "test"))
    assert not validation & test


def test_videos_are_rendered_once_and_read_back(folder, monkeypatch, capfd):
    data = Shapes(num_videos=3, folder=folder, num_workers=0, batch_size=3)
    data.prepare_data()
    capfd.readouterr()
    monkeypatch.setattr(videos, "encode_video", lambda frames: pytest.fail("rendered twice"))
    Shapes(num_videos=3, folder=folder).prepare_data()
    assert capfd.readouterr() == ("", "")
    (batch,) = data.val_dataloader()
    assert [clip.media[0].pixels.shape for clip in batch] == [(16, 64, 64, 3)] * 3
    assert batch[0].media[0].seconds.tolist()[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_videos_of_another_renderer_are_not_taken_over(folder, monkeypatch):
    path = Shapes(num_videos=1, folder=folder).entries("test")[0].media[0].path
    monkeypatch.setattr("tokenlab.data.benchmarks.shapes.inspect.getsource", lambda module: "another version")
    assert Shapes(num_videos=1, folder=folder).entries("test")[0].media[0].path.parent != path.parent


def test_default_folder_is_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Shapes().folder == tmp_path / "tokenlab" / "shapes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Shapes().folder == tmp_path / ".cache" / "tokenlab" / "shapes"


def test_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.folder is '.*/file/x', where the videos cannot be kept \(Not a dir"):
        Shapes(num_videos=1, folder=str(tmp_path / "file" / "x")).prepare_data()

    def refuse(folder, seeds):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(videos, "ensure_videos", refuse)
    with pytest.raises(UserError, match=r"data\.folder is .*Permission denied.*name a folder that can be written to"):
        Shapes(num_videos=1, folder=str(tmp_path)).prepare_data()


@pytest.mark.parametrize("key", ["num_videos", "questions_per_video"])
def test_settings_out_of_range_name_their_key(key):
    with pytest.raises(UserError, match=rf"^data\.{key} is 0"):
        Shapes(**{key: 0})
