import inspect
import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from lightning import LightningModule, Trainer

from tokenlab.data import DATASETS, Clip, ClipEntry, MediaFile, QuestionData, Sample, decode
from tokenlab.data.module import ClipDataset, first_questions
from tokenlab.errors import UserError


class Fixed(QuestionData):
    """A format without a name is not registered: its entries are given."""

    def __init__(self, entries, **shared):
        super().__init__(**shared)
        self.given = entries

    def clips(self, split):
        return self.given


@pytest.fixture(scope="module")
def entries(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for i in range(5):
        path = folder / f"{i}.mp4"
        if i != 2:  # one file is missing
            write_video(path, 6 + i)
        made.append(
            ClipEntry(
                (MediaFile(path),), f"c{i}", tuple(Sample(f"{i}#{k}", f"c{i}", "what ?") for k in range(1 + i % 3))
            )
        )
    return made


def _plain(clip):
    media = clip.media and [(each.pixels.tobytes(), each.numbers, each.seconds.tobytes()) for each in clip.media]
    return clip.cluster, clip.samples, media, clip.error


def test_one_video_is_one_clip_with_all_its_questions(entries):
    clips = [clip for batch in Fixed(entries, num_frames=4, num_workers=0).val_dataloader() for clip in batch]
    assert [clip.cluster for clip in clips] == ["c0", "c1", "c2", "c3", "c4"]
    assert [clip.samples for clip in clips] == [entry.samples for entry in entries]
    assert all(clip.decode_milliseconds > 0 for clip in clips)
    assert [clip.media is None for clip in clips] == [False, False, True, False, False]
    assert clips[2].error == f"video '{entries[2].media[0].path}' does not exist"
    assert {clip.error for clip in clips if clip.media} == {None}


def test_batches_and_workers_change_nothing(entries, grey_levels):
    decode(entries[0].media[0].path, 4)  # in the parent, before any worker is forked
    seen = []
    for batch_size, num_workers in ((1, 0), (2, 0), (2, 2), (3, 1), (9, 2), (1, 0)):
        loader = Fixed(entries, num_frames=4, batch_size=batch_size, num_workers=num_workers).test_dataloader()
        batches = list(loader)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert all(type(batch) is list and type(clip) is Clip for batch in batches for clip in batch)
        seen.append([_plain(clip) for batch in batches for clip in batch])
    assert all(one == seen[0] for one in seen)
    clips = [clip for batch in loader for clip in batch if clip.media]
    assert all(grey_levels(clip.media[0].pixels) == list(clip.media[0].numbers) for clip in clips)


def test_workers_can_be_spawned(entries):
    dataset = pickle.loads(pickle.dumps(ClipDataset(entries, 3)))
    assert [_plain(clip) for clip in dataset] == [_plain(clip) for clip in ClipDataset(entries, 3)]


def test_lightning_walks_it(entries):
    seen = []

    class Listener(LightningModule):
        def validation_step(self, batch, batch_idx):
            seen.extend(batch)

        test_step = predict_step = validation_step

    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**quiet)
    data = Fixed(entries, num_frames=2, batch_size=2, num_workers=0)
    trainer.validate(Listener(), data, verbose=False)
    trainer.test(Listener(), data, verbose=False)
    trainer.predict(Listener(), data, return_predictions=False)
    assert [clip.cluster for clip in seen] == [f"c{i}" for i in range(5)] * 3
    assert isinstance(seen[0].media[0].pixels, np.ndarray)


def test_programming_errors_are_not_taken_for_bad_videos(entries, monkeypatch):
    def broken(path, num_frames, sampling):
        raise KeyError("bug")

    monkeypatch.setattr("tokenlab.data.module.decode", broken)
    with pytest.raises(KeyError, match="bug"):
        next(iter(Fixed(entries, num_workers=0).val_dataloader()))


def test_a_uid_that_comes_twice_is_named(entries):
    with pytest.raises(UserError, match=r"these come twice: '0#0', '1#0', '1#1', '2#0', '2#1' and 4 more$"):
        Fixed(entries + entries).setup("validate")


@pytest.mark.parametrize(
    ("key", "value", "minimum"), [("num_frames", 0, 1), ("batch_size", 0, 1), ("num_workers", -1, 0)]
)
def test_settings_out_of_range_name_their_key(key, value, minimum):
    with pytest.raises(UserError, match=rf"^data\.{key} is {value}, but must be at least {minimum}$"):
        Fixed([], **{key: value})


def test_registry():
    assert sorted(DATASETS) == ["jsonl", "shapes"]
    assert all(cls.name == name for name, cls in DATASETS.items())
    with pytest.raises(UserError, match="two datasets are called 'jsonl'"):
        type("Other", (QuestionData,), {}, name="jsonl")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_setting_has_its_line_of_help(name):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(DATASETS[name], "data")
    described = {action.dest: action.help for action in parser._actions if action.dest.startswith("data.")}
    assert {"data.num_frames", "data.batch_size", "data.num_workers"} < set(described)
    assert all(len(text or "") > 10 for text in described.values()), json.dumps(described)


def test_a_file_that_kills_its_process_fails_alone(entries, monkeypatch):
    def killing(path, num_frames, sampling):
        if path == entries[3].media[0].path:
            os.kill(os.getpid(), signal.SIGSEGV)
        return decode(path, num_frames, sampling)

    expected = [_plain(clip) for clip in ClipDataset(entries, 3)]
    monkeypatch.setattr("tokenlab.data.module.decode", killing)
    for batch_size, num_workers, in_turn in ((1, 1, False), (2, 2, False), (1, 2, True)):
        data = Fixed(entries, num_frames=3, batch_size=batch_size, num_workers=num_workers)
        clips = (
            list(data.read_in_turn(entries)) if in_turn else [clip for batch in data.val_dataloader() for clip in batch]
        )
        assert clips[3].error == f"'{entries[3].media[0].path}': the decoder of its media crashed, with its process"
        assert [_plain(clip) for clip in clips[:3] + clips[4:]] == expected[:3] + expected[4:]
        assert clips[3].samples == entries[3].samples


def test_clips_are_decoded_in_turn_here_or_in_a_process(entries):
    there, here = (list(Fixed(entries, num_frames=3, num_workers=workers).read_in_turn(entries)) for workers in (1, 0))
    assert [_plain(clip) for clip in there] == [_plain(clip) for clip in here]
    assert all(clip.decode_milliseconds > 0 for clip in there)
    assert list(Fixed([], num_workers=1).read_in_turn([])) == []


def test_the_first_question_of_each_clip_comes_first():
    clips = [ClipEntry((), f"v{k}", tuple(Sample(f"{k}-{q}", f"v{k}", "?") for q in range(3))) for k in range(2)]
    found = {n: [[sample.uid for sample in each.samples] for each in first_questions(clips, n)] for n in (0, 1, 3, 99)}
    assert found[0] == []
    assert found[1] == [["0-0"]]
    assert found[3] == [["0-0", "0-1"], ["1-0"]]
    assert found[99] == [["0-0", "0-1", "0-2"], ["1-0", "1-1", "1-2"]]


def test_decoding_processes_end_with_the_run(entries):
    loader = iter(Fixed(entries, num_frames=3, num_workers=2).val_dataloader())
    next(loader)
    started = multiprocessing.active_children()
    assert started
    loader.close()
    give_up = monotonic() + 10
    while any(process.is_alive() for process in started):  # the pool's own thread joins them
        assert monotonic() < give_up
        sleep(0.05)


def test_the_spread_of_candidates_is_a_setting():
    path = Path(__file__).parent / "media" / "files" / "screen-recording-vfr.mp4"
    entry = [ClipEntry((MediaFile(path),), "c", (Sample("0", "c", "what ?"),))]
    numbers = []
    for sampling in ("time", "number"):
        (clip,) = next(iter(Fixed(entry, num_frames=4, num_workers=0, sampling=sampling).val_dataloader()))
        numbers.append(clip.media[0].numbers)
    assert numbers == [(0, 81, 85, 89), (0, 29, 59, 89)]
    with pytest.raises(UserError, match=r"^data\.sampling is 'space', but must be one of time, number"):
        inspect.unwrap(QuestionData.__init__)(Fixed.__new__(Fixed), sampling="space")
