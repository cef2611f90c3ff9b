"""Whole runs: a real Trainer, real mp4s through decord, records on disk."""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from lightning import Trainer

from tokenlab.cli import main
from tokenlab.compressors import REGISTRY, GridReduction
from tokenlab.data.benchmarks.jsonl import Jsonl
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.metrics.answers import is_right
from tokenlab.metrics.choices import read_choice
from tokenlab.metrics.record import Record
from tokenlab.metrics.summary import read_records, summarise
from tokenlab.models.settings import MLLM
from tokenlab.report.run_folder import RunFolder

ARMS = {
    "full": [],
    "random": [("random", 0.4)],
    "similarity": [("similarity", 0.4)],
    "topic": [("topic", 0.4)],
    "joint": [("similarity", 0.5), ("text", 0.4)],
    "off": [("topic", 1.0)],
}


def write_video(path: Path, num_frames: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(num_frames):
            picture = np.kron(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Good videos of three lengths, and every kind of bad one, with questions about each."""
    root = tmp_path_factory.mktemp("videos")
    for index, num_frames in enumerate((5, 8, 1)):
        write_video(root / f"good{index}.mp4", num_frames, seed=index)
    whole = (root / "good0.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("not a video")
    good = [
        {"video": f"good{v}.mp4", "question": question, "answer": "red", "type": kind}
        for v in range(3)
        for question, kind in (
            ("what colour is the circle ?", "colour"),
            ("where is the red ring at the end ?", "position"),
        )
    ]
    bad = [
        {"video": name, "question": "what colour is the circle ?", "answer": "red", "type": "colour"}
        for name in ("missing.mp4", "truncated.mp4", "empty.mp4", "text.mp4")
    ]
    bad += [
        {"video": "good0.mp4", "question": " ", "answer": "red", "type": "colour"},
        {"video": "good0.mp4", "question": "red " * 600, "answer": "red", "type": "colour"},
        {"video": "good0.mp4", "question": "what is <image> ?", "answer": "red", "type": "colour"},
    ]
    for name, rows in (("good", good), ("bad", good + bad)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def evaluate(checkpoint: Path, videos: Path, folder: Path, arms=ARMS, *, questions="good", **data) -> list[Record]:
    pipelines = {arm: [REGISTRY[name](retention_ratio=ratio) for name, ratio in steps] for arm, steps in arms.items()}
    settings = MLLM(checkpoint=str(checkpoint), max_new_tokens=5, batch_size=data.pop("llm_batch", 8))
    taken = {f"{kind}_questions": data.pop(kind, number) for kind, number in (("timed", 0), ("scored", 2))}
    taken["reuse_tokens"] = data.pop("reuse_tokens", False)
    module = Evaluation(settings, pipelines, seed=data.pop("seed", 0), **taken)
    data = {"num_frames": 6, "num_workers": 0, **data}
    trainer = quiet_trainer(folder)
    trainer.validate(module, Jsonl(str(videos / f"{questions}.jsonl"), **data), verbose=False)
    return read_records(folder / "records.jsonl")


def quiet_trainer(folder: Path, **settings) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RunFolder(str(folder))],
        **settings,
    )


@pytest.mark.matrix
def test_arms_are_set_against_smaller_pictures_where_those_are_fewer_tokens(checkpoints, videos, tmp_path):
    """Beside the other controls, with answers and tokens of their own."""
    topic = REGISTRY["topic"](retention_ratio=0.5)
    settings = MLLM(checkpoint=str(checkpoints["qwen2_5_vl"]), max_new_tokens=3)
    module = Evaluation(settings, {"full": [], "topic": [topic]}, timed_questions=2, controls=True)
    quiet_trainer(tmp_path).validate(module, Jsonl(str(videos / "good.jsonl"), num_frames=6, num_workers=0))
    records = read_records(tmp_path / "records.jsonl")
    native = [record for record in records if record.arm == "native@0.5"]
    assert [record.status for record in native] == ["ok"] * 6
    assert {record.positions[0] for record in native} == {"renumber"}
    assert all(0.25 <= record.retention <= 0.5 for record in native)
    (row,) = (row for row in summarise(records).arms if row.arm == "topic")
    found = [each.control for each in row.against_controls]
    assert found[:-2] == ["random@0.5", "pool@0.5", "frame_stride@0.5", "blind"]
    assert found[-2] == "smaller pictures at equal tokens"
    assert "seconds" in found[-1]


def answers(records: list[Record]) -> dict[tuple[str, str], str | None]:
    return {(record.arm, record.uid): record.answer for record in records}


MEASURED = ("milliseconds", "peak_memory_bytes", "batch_size", "answer_alone")


def steady(record: Record) -> dict:
    """A record without what a clock measured."""
    return {k: v for k, v in record.__dict__.items() if k not in MEASURED}


@pytest.fixture(scope="module", params=["llava", "llava_onevision"])
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def records(family, checkpoints, videos, tmp_path_factory) -> list[Record]:
    return evaluate(checkpoints[family], videos, tmp_path_factory.mktemp("run") / "run")


def test_every_arm_answers_every_sample(records):
    assert Counter(record.arm for record in records) == dict.fromkeys(ARMS, 6)
    assert all(record.status == "ok" and record.answer is not None for record in records)
    assert len({record.arm_hash for record in records}) == len(ARMS)


def test_counts_come_from_what_was_applied(records):
    by_arm = {arm: [r for r in records if r.arm == arm] for arm in ARMS}
    for full, joint, off in zip(by_arm["full"], by_arm["joint"], by_arm["off"], strict=True):
        assert full.visual_tokens_in == full.visual_tokens_out == joint.visual_tokens_in
        assert joint.visual_tokens_out < full.visual_tokens_out or full.frames_encoded == 1
        assert full.prompt_tokens == full.prefill_tokens == joint.prompt_tokens
        assert full.prompt_tokens - joint.prefill_tokens >= full.visual_tokens_out - joint.visual_tokens_out
        assert [name for name, _ in joint.tokens_after] == ["similarity", "text"]
        assert joint.tokens_after[-1][1] == joint.visual_tokens_out
        assert joint.positions == ["renumber", "keep"]
        assert joint.flops.prefill < full.flops.prefill
        assert joint.flops.tower == full.flops.tower
        assert (off.answer, off.flops, off.positions) == (full.answer, full.flops, [])


def test_likelihoods_are_taken_of_the_first_question_of_each_video(records):
    scored = [record for record in records if record.divergence is not None]
    assert Counter(record.arm for record in scored) == dict.fromkeys(ARMS, 2)
    assert len({record.cluster for record in scored}) == 2
    assert all(record.divergence == 0 for record in scored if record.arm in ("full", "off"))
    assert all(record.divergence > 0 for record in scored if record.arm in ("random", "topic"))


def test_the_same_tokens_serve_all_questions_where_no_question_chooses(records):
    chosen = {}
    for record in records:
        chosen.setdefault((record.arm, record.cluster), set()).add(record.tokens_hash)
    assert all(len(hashes) == 1 for (arm, _), hashes in chosen.items() if arm in ("full", "similarity", "topic"))
    assert any(len(hashes) == 2 for (arm, _), hashes in chosen.items() if arm == "random")
    assert all(chosen["full", video] != chosen["topic", video] for _, video in chosen)


@pytest.mark.parametrize(
    "change",
    [{"llm_batch": 1}, {"batch_size": 3, "llm_batch": 4}, {"num_workers": 2}],
    ids=["one prompt at a time", "several clips at a time", "two workers"],
)
def test_batches_and_workers_change_nothing(family, records, checkpoints, videos, tmp_path, change):
    again = evaluate(checkpoints[family], videos, tmp_path / "run", **change)
    assert sorted(map(str, map(steady, again))) == sorted(map(str, map(steady, records)))


def test_order_and_set_of_arms_change_nothing(family, records, checkpoints, videos, tmp_path):
    fewer = {arm: ARMS[arm] for arm in ("joint", "random", "full")}
    again = answers(evaluate(checkpoints[family], videos, tmp_path / "run", fewer))
    assert again == {key: answer for key, answer in answers(records).items() if key[0] in fewer}


def test_noise_follows_the_seed(checkpoints, videos, tmp_path):
    arms = {"random": [("random", 0.2)]}
    runs = [
        answers(evaluate(checkpoints["llava"], videos, tmp_path / str(k), arms, seed=seed))
        for k, seed in enumerate((0, 0, 1))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_the_tower_runs_once_a_video(checkpoints, videos, tmp_path, monkeypatch):
    """Whatever the number of arms and questions; the arms here all see the same frames."""
    frames_seen = []
    load = Evaluation.setup

    def counted(self, stage):
        load(self, stage)
        tower = self.loaded.model.model.vision_tower
        tower.register_forward_hook(lambda _, args, kwargs, __: frames_seen.append(len(args[0])), with_kwargs=True)

    monkeypatch.setattr(Evaluation, "setup", counted)
    evaluate(checkpoints["llava"], videos, tmp_path / "run")
    assert frames_seen == [5, 6, 1]


def test_bad_samples_are_recorded_and_the_rest_goes_on(checkpoints, videos, tmp_path):
    arms = {arm: ARMS[arm] for arm in ("full", "joint")}
    found = evaluate(checkpoints["llava"], videos, tmp_path / "run", arms, questions="bad")
    failed = [record for record in found if record.status == "failed"]
    assert len(found) == 2 * 13
    assert len(failed) == 2 * 7
    assert all(record.correct is False and record.answer is None for record in failed)
    reasons = " | ".join(record.error for record in failed)
    for words in (
        "missing.mp4",
        "truncated.mp4",
        "empty.mp4",
        "text.mp4",
        "question is empty",
        "context",
        "placeholder",
    ):
        assert words in reasons, reasons
    good = answers([record for record in found if record.status == "ok"])
    clean = answers(evaluate(checkpoints["llava"], videos, tmp_path / "clean", arms))
    assert sorted(map(str, good.values())) == sorted(map(str, clean.values()))


def test_pixels_that_are_not_finite_are_recorded(checkpoints, videos, tmp_path, monkeypatch):
    from tokenlab.models.vision.processing import MediaProcessor

    plain = MediaProcessor.process

    def poisoned(self, frames):
        processed = plain(self, frames)
        factor = float("nan") if len(frames.numbers) == 5 else 1.0
        return replace(processed, inputs={k: v * factor for k, v in processed.inputs.items()})

    monkeypatch.setattr(MediaProcessor, "process", poisoned)
    found = evaluate(checkpoints["llava"], videos, tmp_path / "run")
    assert Counter(record.status for record in found) == {"ok": 4 * len(ARMS), "failed": 2 * len(ARMS)}
    assert all("not finite" in record.error for record in found if record.status == "failed")


def test_impossible_arms_stop_before_weights_load(checkpoints, monkeypatch):
    monkeypatch.setattr("tokenlab.models.checkpoint.load_model", lambda _: pytest.fail("weights were loaded"))
    text = REGISTRY["text"](retention_ratio=0.5, space="clip")
    with pytest.raises(UserError, match=r"model\.pipelines\.mine: text cannot run on LLaVA-1\.5.*auxiliary"):
        Evaluation(MLLM(checkpoint=str(checkpoints["llava"])), {"mine": [text]})


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("nobody/knows-this", "hub id that this machine can reach"),
        ("./not-here", "there is no folder"),
        ("plainname", "there is no folder"),
    ],
)
def test_unknown_checkpoints_say_what_to_do(checkpoint, message):
    with pytest.raises(UserError, match=message) as caught:
        Evaluation(MLLM(checkpoint=checkpoint), {"full": []})
    assert len(str(caught.value).splitlines()) == 1


def test_other_families_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(UserError, match="supported are llava, llava_next,"):
        Evaluation(MLLM(checkpoint=str(tmp_path)), {"full": []})


def test_failures_show_in_the_exit_code(checkpoints, videos, tmp_path, capsys):
    common = [
        f"--model.mllm.checkpoint={checkpoints['llava']}",
        "--model.timed_questions=0",
        "--model.pipelines.full=[]",
        "--model.pipelines.topic=[{topic: {retention_ratio: 0.4}}]",
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
    ]
    for name, code in (("good", 0), ("bad", 3)):
        data = [f"--data={{jsonl: {{file: {videos / f'{name}.jsonl'}, num_frames: 6}}}}"]
        assert main(["validate", *data, *common, f"--run.folder={tmp_path / name}"]) == code
        printed = capsys.readouterr().out
        assert re.search(r"topic .* 37\.5", printed), printed
        assert ("failed" in printed) == (code == 3)
        assert {path.name for path in (tmp_path / name).iterdir()} >= {"records.jsonl", "summary.json", "config.yaml"}


def test_chance_without_training(checkpoints):
    """The fingerprint tells weights apart, so that a swapped checkpoint is never taken for the old one."""
    from tokenlab.models.checkpoint import load_model, weights_fingerprint

    model = load_model(MLLM(checkpoint=str(checkpoints["llava"])))
    before = weights_fingerprint(model)
    with torch.no_grad():
        model.lm_head.weight.add_(1e-3)
    assert weights_fingerprint(model) != before


@pytest.mark.parametrize(
    ("answers", "options", "text", "right"),
    [
        (("red", "crimson"), (), "Crimson.", True),
        (("red", "crimson"), (), "blue", False),
        ((), (), "red", None),
        (("B",), ("cat", "dog"), "(B) dog", True),
        (("B",), ("cat", "dog"), "a cat", False),
        (("B",), ("cat", "dog"), "I do not know", False),
        (("A", "B"), ("cat", "dog", "bird"), "the dog", True),
        ((), ("cat", "dog"), "B", None),
    ],
)
def test_what_is_right(answers, options, text, right):
    choice = read_choice(text, options) if options else None
    assert is_right(text, choice, Sample("0", "0", "?", answers, options=options)) is right


def test_records_keep_what_is_needed_to_judge_again(checkpoints, videos, tmp_path):
    row = {"video": "good0.mp4", "question": "what ?", "options": ["red", "blue"], "answer": "blue"}
    (videos / "options.jsonl").write_text(json.dumps(row))
    (record,) = evaluate(checkpoints["llava"], videos, tmp_path / "run", {"full": ()}, questions="options")
    assert (record.expected, record.options) == (["B"], ["red", "blue"])
    assert record.choice == read_choice(record.answer, record.options)
    assert record.correct == (record.choice == "B")
    assert record.question.endswith("B. blue\nAnswer with the option's letter from the given choices directly.")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("limit", [0, 0.01])
def test_a_run_that_would_ask_nothing_is_refused(checkpoints, videos, tmp_path, command, limit):
    setting = {"validate": "limit_val_batches"}.get(command, f"limit_{command}_batches")
    trainer = quiet_trainer(tmp_path / "run", **{setting: limit})
    module = Evaluation(MLLM(checkpoint=str(checkpoints["llava"])), {"full": []})
    with pytest.raises(UserError, match=rf"^trainer\.{setting} leaves none of 3 batches"):
        getattr(trainer, command)(module, datamodule=Jsonl(str(videos / "good.jsonl"), num_workers=0))


def test_a_limited_run_says_how_much_it_planned(checkpoints, videos, tmp_path):
    trainer = quiet_trainer(tmp_path / "run", limit_val_batches=2)
    module = Evaluation(MLLM(checkpoint=str(checkpoints["llava"]), max_new_tokens=2), {"full": []})
    trainer.validate(module, datamodule=Jsonl(str(videos / "good.jsonl"), num_workers=0), verbose=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["complete"], summary["questions_planned"], summary["questions"]) == (True, 4, 4)


def test_a_trainer_that_changes_precision_is_refused(checkpoints, videos, tmp_path):
    trainer = quiet_trainer(tmp_path / "run", precision="bf16-mixed")
    module = Evaluation(MLLM(checkpoint=str(checkpoints["llava"])), {"full": []})
    with pytest.raises(UserError, match=r"^trainer\.precision is 'bf16-mixed'"):
        trainer.validate(module, datamodule=Jsonl(str(videos / "good.jsonl"), num_workers=0))


def test_how_frames_are_sampled_is_hashed(checkpoints, videos, tmp_path):
    arms = {"full": ()}
    by_time, by_number = (
        evaluate(checkpoints["llava"], videos, tmp_path / sampling, arms, sampling=sampling)
        for sampling in ("time", "number")
    )
    assert by_time[0].arm_hash != by_number[0].arm_hash


@dataclass(frozen=True, kw_only=True)
class Helpless(GridReduction):
    """A method that can act on nothing."""

    name: ClassVar[str] = "helpless"

    def reduce_grid(self, view):
        raise ValueError("helpless")


@pytest.mark.parametrize(("videos", "asked"), [(5, 20), (4, 28)], ids=["many videos", "few videos"])
def test_an_arm_that_fails_on_all_of_its_first_questions_is_given_up(checkpoints, tmp_path, capsys, videos, asked):
    rows = []
    for video in range(videos):
        write_video(tmp_path / f"{video}.mp4", 2, seed=video)
        rows += [
            {"video": f"{video}.mp4", "question": f"what {k} ?", "answer": "red"}
            for k in range(4 if videos == 5 else 7)
        ]
    write_video(tmp_path / "last.mp4", 2)
    rows += [{"video": "last.mp4", "question": f"what {k} ?", "answer": "red"} for k in range(3)] * (videos == 5)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = MLLM(checkpoint=str(checkpoints["llava"]), max_new_tokens=1)
    module = Evaluation(settings, {"helpless": [Helpless(retention_ratio=0.5)], "full": []}, timed_questions=0)
    data = Jsonl(str(tmp_path / "questions.jsonl"), num_frames=2, num_workers=0)
    quiet_trainer(tmp_path / "run").validate(module, data, verbose=False)
    counts = Counter(record.arm for record in read_records(tmp_path / "run" / "records.jsonl"))
    assert counts == {"helpless": asked, "full": len(rows)}
    said = capsys.readouterr()
    assert said.err.count("helpless failed on all of its first 20 questions") == (videos == 5)
    assert ("was asked no more" in " ".join(said.out.split())) == (videos == 5)


def test_further_questions_are_answered_with_the_tokens_of_the_first(checkpoints, videos, tmp_path):
    """As if the first had been asked when they were chosen; what acts inside the LLM chooses for itself."""
    arms = {"full": [], "text": [("text", 0.1)], "random": [("random", 0.1)], "fastv": [("fastv", 0.1)]}
    records = evaluate(checkpoints["llava"], videos, tmp_path / "run", arms, scored=0, reuse_tokens=True)
    by_arm = {arm: {record.uid: record for record in records if record.arm == arm} for arm in arms}
    firsts = {each.cluster: each for each in reversed(records)}
    for arm, own in by_arm.items():
        for record in own.values():
            is_first = firsts[record.cluster].uid == record.uid
            assert (record.answer_reused is None) == (is_first or arm == "fastv")
            assert (record.correct_reused is None) == (record.answer_reused is None)
    assert all(each.answer_reused in (None, each.answer) for each in by_arm["full"].values())
    assert any(each.answer_reused not in (None, each.answer) for each in by_arm["text"].values())
    again = evaluate(checkpoints["llava"], videos, tmp_path / "again", arms, scored=0)
    assert {(r.arm, r.uid): r.answer for r in again} == {(r.arm, r.uid): r.answer for r in records}
    assert all(record.answer_reused is None for record in again)
