import pytest

from tokenlab.cli.config.expand import MODEL_KEYS, expand, read, split
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.schema.arguments import parameters


def test_both_spellings_of_a_value():
    argv = ["--config=a", "-c", "b", "--data.num_videos", "3", "--model.pipelines.x@0.5=null", "--trainer.devices", "2"]
    names, overrides, rest = split(argv)
    assert names == ["a", "b"]
    assert overrides == [("data.num_videos", "3"), ("model.pipelines.x@0.5", "null")]
    assert rest == ["--trainer.devices", "2"]


@pytest.mark.parametrize("argv", [["--config"], ["--data.num_videos"], ["--model.seed", "--print_config"]])
def test_an_option_without_its_value(argv):
    with pytest.raises(UserError, match="needs a value"):
        split(argv)


def from_command_line(*argv):
    return expand(read(["--config", "quickstart", *argv])[1])


def test_overrides_are_applied_on_top():
    config = from_command_line(
        "--model.pipelines.topic=null",
        "--model.pipelines.text=[text: {retention_ratio: [0.5, 0.25]}]",
        "--model.mllm.max_new_tokens=3",
        "--data.num_videos=3",
        "--data.shapes.questions_per_video",
        "1",
    )
    arms = ["full", "random", "differential", "similarity", "text@0.5", "text@0.25", "joint"]
    assert list(config["model"]["pipelines"]) == arms
    assert config["model"]["mllm"] == {"checkpoint": "shapes", "max_new_tokens": 3}
    assert config["data"]["init_args"] == {"num_videos": 3, "questions_per_video": 1}


def test_another_dataset_replaces_the_first():
    config = from_command_line("--data=jsonl", "--data.file=q.jsonl")
    assert config["data"]["init_args"] == {"file": "q.jsonl"}


def test_everything_may_come_from_the_command_line():
    argv = ["--model.pipelines={full: []}", "--data=shapes"]
    assert list(expand(read(argv)[1])["model"]["pipelines"]) == ["full"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.mlm.checkpoint=x"], "model: there is no key 'mlm'; did you mean 'mllm'?"),
        (["--model.mllm.chekpoint=x"], "model.mllm: there is no parameter 'chekpoint'; did you mean 'checkpoint'?"),
        (["--model.mllm.dtype=bf16"], "model.mllm.dtype: must be 'float32' or"),
        (["--model.mllm.auxiliary.clip=3"], "model.mllm.auxiliary: must be a mapping, got {'clip': 3}"),
        (["--model.mllm=shapes"], "model.mllm: give its settings"),
        (["--model=x"], "model is missing"),
        (
            ["--model.pipelines.joint=[similarity: {retention_ratio: 1}, topik]"],
            "model.pipelines.joint[1]: no compressor",
        ),
        (["--data=shape"], "data: there is no dataset 'shape'; did you mean 'shapes'?"),
        (["--data.num_video=3"], "data.shapes: there is no parameter 'num_video'"),
        (["--model.pipelines.x=[topic: {"], "--model.pipelines.x, line 1: "),
    ],
)
def test_mistakes_in_one_line(argv, message):
    with pytest.raises(UserError) as error:
        from_command_line(*argv)
    assert str(error.value).startswith(message)


def test_the_keys_of_a_model_are_the_evaluation_s():
    assert set(MODEL_KEYS) == set(parameters(Evaluation))
