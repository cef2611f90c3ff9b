"""Arms that are set to cost the same, in a whole run."""

import json

import pytest

from tests.test_evaluation import quiet_trainer, write_video
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.data.benchmarks.jsonl import Jsonl
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.metrics.summary import read_records, summarise
from tokenlab.models.matching import check_matches, with_budget
from tokenlab.models.settings import MLLM

ARMS = {
    "full": [],
    "topic": [REGISTRY["topic"](retention_ratio=0.25)],
    "fastv": [REGISTRY["fastv"](retention_ratio=0.9)],
    "joint": [REGISTRY["similarity"](retention_ratio=0.5), REGISTRY["text"](retention_ratio=0.5)],
}
MORE = {"blind": [REGISTRY["blind"]()]}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of different lengths, with a question about each."""
    folder = tmp_path_factory.mktemp("videos")
    rows = [{"video": f"{k}.mp4", "question": "what colour is the circle ?", "answer": "red"} for k in range(2)]
    for k, row in enumerate(rows):
        write_video(folder / row["video"], 5 + 3 * k, seed=k)
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(checkpoint, videos, folder, matches, arms=ARMS, **settings):
    mllm = MLLM(checkpoint=str(checkpoint), max_new_tokens=5)
    module = Evaluation(mllm, arms, timed_questions=0, match_flops=matches, **settings)
    data = Jsonl(str(videos / "good.jsonl"), num_frames=6, num_workers=0)
    quiet_trainer(folder).validate(module, data, verbose=False)
    return read_records(folder / "records.jsonl")


@pytest.fixture(scope="module")
def matched(checkpoints, videos, tmp_path_factory):
    return run(
        checkpoints["llava"], videos, tmp_path_factory.mktemp("matched") / "run", {"topic": "fastv"}, controls=True
    )


def test_a_matched_arm_costs_the_same_up_to_the_first_token(matched):
    costs = {row.arm: row.cost.flops for row in summarise(matched).arms}
    prefill = {arm: cost.total - cost.decode for arm, cost in costs.items()}
    token = prefill["full"] / 100  # of a prompt of so many tokens, about one's worth
    assert abs(prefill["topic"] - prefill["fastv"]) < token
    assert prefill["topic"] > 0.9 * prefill["fastv"]


@pytest.mark.matrix
def test_smaller_pictures_can_be_matched_with_an_arm(checkpoints, videos, tmp_path):
    """Though on the smallest budgets no picture is small enough; where only those would cost so little, it is said."""
    arms = {"full": [], "topic": ARMS["topic"], "native": [REGISTRY["native"](retention_ratio=0.5)], **MORE}
    arms["less"] = [
        REGISTRY["frame_stride"](retention_ratio=0.1),
        REGISTRY["native"](retention_ratio=0.3),
        *MORE["blind"],
    ]
    arms["few"] = [REGISTRY["frame_stride"](retention_ratio=0.5)]
    summary = summarise(run(checkpoints["qwen2_5_vl"], videos, tmp_path / "a", {"native": "few"}, arms))
    found = {row.arm: row for row in summary.arms}
    assert 0.25 < found["native"].pipeline[0]["native"]["retention_ratio"] < 1
    assert found["native"].cost.flops.total == pytest.approx(found["few"].cost.flops.total, rel=0.3)
    with pytest.raises(UserError, match=r"arm 'native' costs .* FLOPs a question and never"):
        run(checkpoints["qwen2_5_vl"], videos, tmp_path / "b", {"native": "less"}, arms)


def test_its_budget_and_its_controls_follow(matched):
    by_arm = {record.arm: record for record in matched}
    budget = by_arm["topic"].pipeline[0]["topic"]["retention_ratio"]
    assert budget != 0.25
    assert f"pool@{budget:g}" in by_arm["topic"].controls
    assert by_arm[f"pool@{budget:g}"].pipeline[0]["pool"]["retention_ratio"] == budget


def test_what_no_budget_costs_is_refused(checkpoints, videos, tmp_path):
    arms = {"topic": ARMS["topic"], **MORE}
    with pytest.raises(UserError, match=r"model\.match_flops: whatever its budget, arm 'topic' costs .* and never "):
        run(checkpoints["llava"], videos, tmp_path / "run", {"topic": "blind"}, arms)


def test_questions_that_cannot_be_answered_are_no_measure(checkpoints, videos, tmp_path):
    (tmp_path / "good.jsonl").write_text(json.dumps({"video": "no.mp4", "question": "?", "answer": "red"}) + "\n")
    with pytest.raises(UserError, match=r"none of the first questions can be answered.*no\.mp4"):
        run(checkpoints["llava"], tmp_path, tmp_path / "run", {"topic": "fastv"})


@pytest.mark.parametrize(
    ("matches", "message"),
    [
        ({"topc": "fastv"}, "there is no arm 'topc'; did you mean 'topic'"),
        ({"topic": "fast"}, "there is no arm 'fast'; did you mean 'fastv'"),
        ({"joint": "fastv"}, r"2 methods of arm 'joint' have a retention_ratio \(similarity, text\)"),
        ({"full": "fastv"}, r"0 methods of arm 'full' have a retention_ratio \(none\)"),
    ],
)
def test_mistakes_name_the_arm(matches, message):
    with pytest.raises(UserError, match=message):
        check_matches(matches, {arm: Pipeline(tuple(steps)) for arm, steps in ARMS.items()})


def test_one_budget_is_set_and_nothing_else():
    pipeline = Pipeline((REGISTRY["topic"](retention_ratio=0.5, positions="renumber"), *MORE["blind"]))
    found = with_budget(pipeline, 0.125)
    assert [each.retention_ratio for each in found.compressors] == [0.125, None]
    assert found.compressors[0].positions == "renumber"
