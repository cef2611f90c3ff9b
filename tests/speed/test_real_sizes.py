"""The benchmark runs from end to end, on models of few and narrow layers; how fast they are is never asserted."""

import json

import pytest
import torch

from tokenlab.cli import main
from tokenlab.models.costs.configs import SHIPPED
from tokenlab.models.costs.profile import read_config
from tokenlab.models.costs.vision import vision_cost_model
from tokenlab.models.families import FAMILIES, family_of
from tokenlab.models.vision.processing import MediaProcessor
from tokenlab.speed.random_models import PROCESSORS, random_model, real_processor
from tokenlab.speed.real_sizes import make_clip

NARROW_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
NARROW_VISION = {"hidden_size": 32, "intermediate_size": 64}
ROUNDS, ARMS = 2, {"full": 1.0, "random@1": 1.0, "random@0.5": 0.5, "random@0.1": 0.1}


def narrow(name: str) -> dict:
    """A real config whose layers are narrow."""
    config = json.loads(SHIPPED[name].read_text(encoding="utf-8"))
    text, vision = config["text_config"], config["vision_config"]
    text.update(NARROW_TEXT)
    vision.update(NARROW_VISION)
    if "rope_parameters" in text:  # M-RoPE shares a head's width out
        text["head_dim"] = 16
        text["rope_parameters"]["mrope_section"] = [4, 2, 2]
    if "out_hidden_size" in vision:
        vision["out_hidden_size"] = 64
    heads = "num_heads" if "num_heads" in vision else "num_attention_heads"
    vision[heads] = 2
    return config


@pytest.mark.parametrize("name", SHIPPED)
def test_measures_every_arm_in_every_round(name, tmp_path, capsys):
    config, result = tmp_path / "config.json", tmp_path / "result.json"
    config.write_text(json.dumps(narrow(name)), encoding="utf-8")
    short = ["--layers", "2", "--frames", "2", "--resolution", "112x112", "--new-tokens", "3", "--device", "cpu"]
    measured = ["--rounds", str(ROUNDS), "--retention", "1", "0.5", "0.1", "--json", str(result)]
    assert main(["bench", "--checkpoint", str(config), *short, *measured]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 for line in printed.splitlines())
    found = json.loads(result.read_text(encoding="utf-8"))
    assert [row["arm"] for row in found["arms"]] == list(ARMS)
    assert all(arm in printed for arm in ARMS)
    per_round = [(query["round"], query["arm"]) for query in found["queries"]]
    assert sorted(per_round) == sorted((k, arm) for k in range(1, ROUNDS + 1) for arm in ARMS)
    assert all(query["tokens"]["generated_tokens"] == 3 for query in found["queries"])
    full, same, half, tenth = found["arms"]
    assert full["prefill_ratio"] == full["query_ratio"] == 1
    assert full["visual_tokens"] == same["visual_tokens"] > half["visual_tokens"] > tenth["visual_tokens"]
    assert half["retention"] == pytest.approx(0.5, abs=0.05)
    assert tenth["retention"] == pytest.approx(0.1, abs=0.05)
    assert 1 == same["query_flops_ratio"] > half["query_flops_ratio"] > tenth["query_flops_ratio"]
    assert 1 == same["prefill_flops_ratio"] > half["prefill_flops_ratio"] > tenth["prefill_flops_ratio"]
    for query in found["queries"]:
        assert query["milliseconds"]["prefill"] > 0
        assert query["flops"]["tower"] > 0


def test_ratios_are_of_one_round(tmp_path, capsys):
    """Medians of paired ratios, recomputed from the raw numbers."""
    config, result = tmp_path / "config.json", tmp_path / "result.json"
    config.write_text(json.dumps(narrow("llava-onevision-0.5b")), encoding="utf-8")
    argv = ["--checkpoint", str(config), "--layers", "1", "--frames", "1", "--rounds", "3", "--retention", "0.5"]
    assert main(["bench", *argv, "--new-tokens", "1", "--device", "cpu", "--json", str(result)]) == 0
    found = json.loads(result.read_text(encoding="utf-8"))
    assert [query["round"] for query in found["queries"]] == [1, 1, 2, 2, 3, 3]
    prefill = {(q["arm"], q["round"]): q["milliseconds"]["prefill"] for q in found["queries"]}
    ratios = sorted(prefill["random@0.5", k] / prefill["full", k] for k in (1, 2, 3))
    assert found["arms"][1]["prefill_ratio"] == pytest.approx(ratios[1])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--checkpoint", "llava-onevison-7b"], "did you mean 'llava-onevision-7b'?"),
        (["--checkpoint", "qwen2.5-vl-7b", "--layers", "1", "--device", "nowhere"], "--device: Expected one of"),
        (["--checkpoint", "qwen2.5-vl-7b", "--json", "nowhere/x.json"], "--json: cannot write nowhere/x.json"),
        (["--checkpoint", "nothing"], "--checkpoint: there is no file or folder 'nothing'"),
        (["--checkpoint", "shapes"], "--checkpoint: a vocabulary of 141 has no room for"),
        (["--checkpoint", "llava-1.5-7b", "--method", "randon"], "--method: there is no compressor 'randon'; did you"),
        (["--checkpoint", "qwen3-vl-8b", "--method", "tome"], "--method: tome cannot run on Qwen3-VL"),
        (["--checkpoint", "llava-1.5-7b", "--retention", "2"], "--retention: retention_ratio is 2.0, but must be"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    assert main(["bench", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_shipped_family_has_a_processor():
    families = {json.loads(path.read_text(encoding="utf-8"))["model_type"] for path in SHIPPED.values()}
    assert families <= PROCESSORS.keys() <= FAMILIES.keys()


def test_a_prompt_beyond_the_context_is_one_line(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(narrow("llava-1.5-7b")), encoding="utf-8")
    assert main(["bench", "--checkpoint", str(config), "--layers", "1", "--frames", "8", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "--frames, --resolution: prompt of 46" in error
    assert "exceed the context of 4096" in error
    assert error.count("\n") == 1


def test_a_method_inside_the_llm(tmp_path):
    config, result = tmp_path / "config.json", tmp_path / "result.json"
    config.write_text(json.dumps(narrow("llava-onevision-0.5b")), encoding="utf-8")
    argv = ["--checkpoint", str(config), "--layers", "3", "--frames", "1", "--rounds", "1", "--device", "cpu"]
    assert (
        main(["bench", *argv, "--method", "fastv", "--retention", "0.5", "--new-tokens", "2", "--json", str(result)])
        == 0
    )
    full, fastv = json.loads(result.read_text(encoding="utf-8"))["arms"]
    assert fastv["retention"] == pytest.approx(0.5, abs=0.05)
    assert fastv["prefill_flops_ratio"] < 1 == full["prefill_flops_ratio"]


@pytest.mark.parametrize("name", SHIPPED)
def test_processors_read_frames_at_the_models_real_size(name):
    config = read_config(name)
    processor = MediaProcessor(real_processor(config), config, family_of(config))
    shape = vision_cost_model(config, family_of(config)).shape(2)
    processed = processor.process(*make_clip(2, shape.resolution).media)
    assert torch.equal(processed.places, shape.places)


def test_random_weights_stay_finite_in_half_precision(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(narrow("llava-onevision-7b")), encoding="utf-8")
    model = random_model(read_config(str(config)), torch.device("cpu"), torch.bfloat16)
    logits = model(input_ids=torch.arange(20)[None]).logits
    assert torch.isfinite(logits).all()
    assert 0.1 < logits.std() < 10
