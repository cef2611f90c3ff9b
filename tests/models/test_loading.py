"""Checkpoints that cannot be loaded or decoded as asked say so in one line; the others load as the settings say."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.pipelines import PIPELINES, build
from tests.reference.families import Checkpoint
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.models.checkpoint import EMBEDDED_AUXILIARY, check_settings
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.testing.media import video_clips
from tokenlab.testing.stubs import KEEPING


def ask(pipeline: Pipeline, **settings) -> list[tuple[int, ...]]:
    mllm = LoadedModel.load(MLLM(max_new_tokens=4, **settings))
    return [answer.ids for answer in mllm.answer(video_clips(), pipeline, EncodeCache(pipeline.needs()))]


@pytest.fixture
def copied(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["llava"], tmp_path / "checkpoint")


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        LoadedModel.load(MLLM(checkpoint=str(folder)))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_pickled_weights_are_not_read(copied):
    weights = copied / "model.safetensors"
    torch.save({}, copied / "pytorch_model.bin")
    weights.unlink()
    assert "safetensors" in refusal(copied)


def test_a_missing_processor(copied):
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (copied / name).unlink(missing_ok=True)
    assert "processor files" in refusal(copied)


FILES = ("config.json", "generation_config.json", "model.safetensors", "processor_config.json", "chat_template.jinja")


@pytest.mark.parametrize("name", [*FILES, "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("left", ["half", "nothing", "[]"])
def test_a_damaged_file_is_one_line(copied, name, left):
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes({"half": whole[: len(whole) // 2], "nothing": b"", "[]": b"[]"}[left])
    assert refusal(copied).startswith("model.mllm.checkpoint: ")


def test_no_chat_template(copied):
    (copied / "chat_template.jinja").unlink()
    assert "its chat template cannot be used" in refusal(copied)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_missing_tensors_are_named(checkpoints, tmp_path, family):
    folder = shutil.copytree(checkpoints[family], tmp_path / family)
    tensors = load_file(folder / "model.safetensors")
    lost = sorted(tensors)[-12:]
    save_file(
        {name: tensors[name] for name in tensors if name not in lost}, folder / "model.safetensors", {"format": "pt"}
    )
    assert "lacks 12 tensors that its model has (" in refusal(folder)
    assert all(name.rpartition(".")[2] in refusal(folder) for name in lost[:1])


def test_missing_tensors_of_an_auxiliary_encoder(tmp_path):
    folder = shutil.copytree(EMBEDDED_AUXILIARY["shapes"], tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"^model\.mllm\.auxiliary\.clip: .* lacks 1 tensors .*visual_projection\.weight"
    ):
        LoadedModel.load(MLLM(auxiliary={"clip": str(folder)}))


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"batch_size": -1}, {"max_new_tokens": 0}, {"max_new_tokens": -3}]
)
def test_sizes_are_at_least_one(settings):
    ((key, value),) = settings.items()
    with pytest.raises(UserError, match=rf"^model\.mllm\.{key} is {value}, but must be at least 1$"):
        Evaluation(MLLM(**settings), {"full": []})


@pytest.mark.parametrize("name", ["topic", "grid, layers, cache", "tome", "framefusion"])
def test_eager_attention_gives_the_same_answers(checkpoints, name):
    folder = str(checkpoints["llava"])
    pipeline = build(PIPELINES[name])
    assert ask(pipeline, checkpoint=folder, attn_implementation="eager") == ask(pipeline, checkpoint=folder)


def test_a_device_map_leaves_the_model_where_it_is(checkpoints):
    pytest.importorskip("accelerate")
    folder, pipeline = str(checkpoints["qwen3_vl"]), build(PIPELINES["grid, layers, cache"])
    loaded = LoadedModel.load(MLLM(checkpoint=folder, device_map="cpu"))
    loaded.to(torch.device("meta"))  # which would lose the weights
    assert not any(parameter.is_meta for parameter in loaded.model.parameters())
    assert ask(pipeline, checkpoint=folder, device_map="cpu") == ask(pipeline, checkpoint=folder)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_weights(quantization):
    """The embedded model through bitsandbytes' CPU kernels: plain `generate`, keep-all, and something that goes."""
    pytest.importorskip("bitsandbytes", reason="needs the extra `large`")
    mllm = LoadedModel.load(MLLM(max_new_tokens=4, quantization=quantization, batch_size=1))
    mllm.to(torch.device("meta"))  # which would lose the weights
    assert not any(parameter.is_meta for parameter in mllm.model.parameters())
    kinds = {type(module).__name__ for module in mllm.model.modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization] in kinds

    def asked(pipeline: Pipeline) -> list[tuple[int, ...]]:
        return [answer.ids for answer in mllm.answer(video_clips(), pipeline, EncodeCache(pipeline.needs()))]

    full = asked(Pipeline())
    for clip, ids in zip(video_clips(), full[::2], strict=True):
        parts = [clip.media[0], clip.samples[0].question]
        inputs = by_hand(mllm, parts)
        plain = mllm.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert tuple(plain[0, inputs["input_ids"].shape[1] :].tolist()) == ids
    assert all(asked(pipeline) == full for pipeline in KEEPING.values())
    assert asked(build(PIPELINES["tower, grid, layers"])) != full


def test_8_bit_weights_take_one_prompt_at_a_time(monkeypatch):
    monkeypatch.setattr("tokenlab.models.checkpoint.find_spec", lambda _: "installed")
    with pytest.raises(UserError, match=r"model\.mllm\.batch_size is 8, but 8-bit .* give 1"):
        check_settings(MLLM(quantization="8bit", batch_size=8))
    check_settings(MLLM(quantization="8bit"))
    check_settings(MLLM(quantization="4bit", batch_size=8))


def by_hand(mllm: LoadedModel, parts: list) -> dict:
    """The processor's output for a prompt, as the independent reference makes it."""
    checkpoint = Checkpoint.__new__(Checkpoint)
    checkpoint.kind, checkpoint.model, checkpoint.processor = "llava", mllm.model, mllm.processor
    return checkpoint.inputs(*parts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "4bit"}, "model.mllm.quantization is '4bit', which needs bitsandbytes: pip install"),
        ({"device_map": "auto"}, "model.mllm.device_map is 'auto', which needs accelerate: pip install accelerate"),
        ({"attn_implementation": "flash_attention_2"}, "which needs flash-attn: pip install flash-attn"),
    ],
)
def test_what_is_not_installed_is_named(checkpoints, monkeypatch, settings, message):
    monkeypatch.setattr("tokenlab.models.checkpoint.find_spec", lambda _: None)
    with pytest.raises(UserError) as caught:
        check_settings(MLLM(checkpoint=str(checkpoints["llava"]), **settings))
    assert message in str(caught.value)


def test_flash_attention_takes_no_mask(checkpoints, monkeypatch):
    monkeypatch.setattr("tokenlab.models.checkpoint.find_spec", lambda _: "installed")
    settings = {"checkpoint": str(checkpoints["llava"]), "attn_implementation": "flash_attention_2"}
    with pytest.raises(UserError, match=r"model\.mllm\.dtype is 'float32'"):
        Evaluation(MLLM(**settings), {"full": []})
    half = MLLM(**settings, dtype="bfloat16")
    Evaluation(half, {"fastv": [REGISTRY["fastv"](retention_ratio=0.5)]})
    renumbered = REGISTRY["topic"](retention_ratio=0.5, positions="renumber")
    Evaluation(half, {"topic": [renumbered]})
    with pytest.raises(UserError, match=r"topic cannot run .* takes gaps in the positions for packed documents"):
        Evaluation(half, {"topic": [REGISTRY["topic"](retention_ratio=0.5)]})
    for name in ("tome", "dycoke"):
        with pytest.raises(UserError, match=f"model.pipelines.mine: {name} cannot run .* takes no mask"):
            Evaluation(half, {"mine": [REGISTRY[name].example()]})


def test_a_checkpoint_whose_decoding_cannot_be_followed_is_refused_by_name(copied):
    config = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps({**config, "cache_implementation": "static"}))
    assert "asks for cache_implementation='static': a cache of this kind" in refusal(copied)
