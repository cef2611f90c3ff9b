"""Models as people hold them: in PEFT's wrapper, compiled, with sliding windows."""

import copy
import json

import pytest
import torch

import tokenlab
from tests.models.harness import Harness, settings
from tests.models.prompts import WIDE, media_clips
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.pipeline import Pipeline as Arm
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.scoring import score
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.stubs import KEEPING

ARMS = ("random@0.5", "fastv@0.5")


def answer(model, inputs) -> list[int]:
    output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture
def llava(checkpoints) -> Harness:
    return Harness.of(str(checkpoints["llava"]), media_clips("llava"))


@pytest.fixture
def inputs(llava):
    return dict(llava.reference.inputs(WIDE, "what is there ?"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21's
@pytest.mark.parametrize("arm", ARMS)
def test_a_model_in_pefts_wrapper_answers_as_without(llava, inputs, arm):
    peft = pytest.importorskip("peft")
    model, processor = llava.reference.model, llava.loaded.processor
    with tokenlab.compress(model, processor, arm):
        expected = answer(model, inputs)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=True)  # adds nothing yet
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with tokenlab.compress(wrapped, processor, arm) as traces:
        assert answer(wrapped, inputs) == expected
    assert traces[0].visual_tokens_out < traces[0].visual_tokens_in


@pytest.mark.slow
@pytest.mark.parametrize("arm", [*ARMS, "tome@0.5", "dycoke@0.5"])
@pytest.mark.parametrize("how", ["forward", "module"])
def test_a_compiled_model_answers_as_without(llava, inputs, arm, how):
    model, processor = llava.reference.model, llava.loaded.processor
    with tokenlab.compress(model, processor, arm):
        expected = answer(model, inputs)
    compiled = copy.deepcopy(model)
    if how == "forward":
        compiled.forward = torch.compile(compiled.forward, backend="eager")
    else:
        compiled = torch.compile(compiled, backend="eager")
    with tokenlab.compress(compiled, processor, arm) as traces:
        assert answer(compiled, inputs) == expected
    assert traces


# --- sliding windows ---------------------------------------------------------------------------------------------

WINDOW = 8


@pytest.fixture(scope="module")
def windowed(checkpoints, tmp_path_factory) -> str:
    """Qwen2.5-VL whose second and later layers attend to eight tokens."""
    source, folder = checkpoints["qwen2_5_vl"], tmp_path_factory.mktemp("windowed")
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    layers = text["num_hidden_layers"]
    text.update(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    text["layer_types"] = ["full_attention"] + ["sliding_attention"] * (layers - 1)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_windows_are_heeded_before_the_llm_and_refused_inside(windowed):
    harness = Harness.of(windowed, media_clips("qwen2_5_vl"))
    model, processor = harness.reference.model, harness.loaded.processor
    inputs = dict(harness.reference.inputs(WIDE, "what is there ?"))
    plain = answer(model, inputs)
    with tokenlab.compress(model, processor, KEEPING["grid"]):
        assert answer(model, inputs) == plain
    pruned = Pipeline.of("random@0.5")
    sample = Sample("0", "0", "what is there ?")
    by_hand = harness.reference.reduced([WIDE, "what is there ?"], sample, pruned, ANSWER_TOKENS)
    with tokenlab.compress(model, processor, pruned):
        assert answer(model, inputs) == by_hand != plain
    for name in ("fastv", "framefusion", "dycoke"):
        refusal = rf"{name} cannot run on .*sliding windows \(of {WINDOW} tokens\)"
        with pytest.raises(UserError, match=f"compress: {refusal}"):
            tokenlab.compress(model, processor, f"{name}@0.5").__enter__()
        with pytest.raises(UserError, match=f"model.pipelines.mine: {refusal}"):
            Evaluation(settings(windowed), {"mine": [REGISTRY[name].example()]})
    loaded = LoadedModel.load(settings(windowed))
    clip = Clip("0", (sample,), (WIDE,))
    request = loaded.prepare(clip, sample, Arm(), EncodeCache(frozenset()))
    with pytest.raises(UserError, match="caches of sliding windows"):
        score(loaded, request, ["yes", "no"])


def test_a_windowed_step_costs_what_the_window_leaves(windowed, checkpoints):
    loaded, plain = LoadedModel.load(settings(windowed)), LoadedModel.load(settings(str(checkpoints["qwen2_5_vl"])))
    costs, whole = ModelCosts(loaded.config), ModelCosts(plain.config)
    layers, tokens = costs.num_layers, 20
    inside = [tokens] + [WINDOW - 1] * (layers - 1)
    assert costs.decode_step([tokens] * layers) == whole.decode_step(inside) < whole.decode_step([tokens] * layers)
    assert costs.cache_elements([tokens] * layers) == whole.cache_elements(inside)
    assert costs.prefill(tokens) == whole.prefill(tokens)
