"""Every field of a generation config and every argument of `generate`, as the installed transformers has them."""

import copy

import pytest
import torch
from transformers import CompileConfig, DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria, TextStreamer
from transformers.generation import WatermarkingConfig

import tokenlab
from tests.models.harness import Harness
from tests.models.prompts import media_clips, parts_of
from tokenlab.compressors import Pipeline
from tokenlab.errors import UserError
from tokenlab.models.hf import CACHE_NAMES
from tokenlab.models.llm.decoding import REFUSED, SEQUENCES, WITHOUT_EFFECT, WORKS, check_call, generate_names
from tokenlab.testing.stubs import KEEPING

NEW_TOKENS = 5
GENERATION = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": 3, "pad_token_id": 0}
BANNED = 7
KEEP_ALL = {name: KEEPING[name] for name in ("grid", "layers and cache")}


class Favours(LogitsProcessor):
    """Favours a token that depends on how many tokens it was shown."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, input_ids.shape[1] % 11] += 50
        return scores


class StopsAt(StoppingCriteria):
    """Stops when the whole sequence has so many tokens."""

    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


class Collects:
    """A streamer."""

    def __init__(self):
        self.seen = []

    def put(self, value):
        self.seen.append(value.flatten().tolist())

    def end(self):
        self.seen.append("end")


def values(prompt: int, processor) -> dict:
    """A value for every name that does something; `prompt` is the length of the prompt."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.add_tokens(["abcdef"])  # which transformers looks for
    sampling = {"do_sample": True}
    described = {"return_dict_in_generate": True}
    return {
        "generation_config": {"generation_config": GenerationConfig(max_new_tokens=3, eos_token_id=3, pad_token_id=0)},
        "logits_processor": {"logits_processor": [Favours()]},
        "stopping_criteria": {"stopping_criteria": [StopsAt(prompt + 2)]},
        "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: [5 + len(ids) % 3]},
        "max_length": {"max_length": prompt + 3, "max_new_tokens": None},
        "max_new_tokens": {"max_new_tokens": 2},
        "min_length": {"min_length": prompt + 4, "eos_token_id": list(range(40))},
        "min_new_tokens": {"min_new_tokens": 4, "eos_token_id": list(range(40))},
        "max_time": {"max_time": 1000.0},
        "stop_strings": {"stop_strings": [tokenizer.convert_ids_to_tokens(9)], "tokenizer": tokenizer},
        "do_sample": sampling,
        "temperature": {**sampling, "temperature": 0.5},
        "top_k": {**sampling, "top_k": 3},
        "top_p": {**sampling, "top_p": 0.4},
        "min_p": {**sampling, "min_p": 0.2},
        "top_h": {**sampling, "top_h": 0.4},
        "typical_p": {**sampling, "typical_p": 0.5},
        "epsilon_cutoff": {**sampling, "epsilon_cutoff": 0.02},
        "eta_cutoff": {**sampling, "eta_cutoff": 0.02},
        "renormalize_logits": {**sampling, "renormalize_logits": True},
        "repetition_penalty": {"repetition_penalty": 1.9},
        "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.9},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
        "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
        "bad_words_ids": {"bad_words_ids": [[BANNED]]},
        "sequence_bias": {"sequence_bias": [[[BANNED], 60.0]]},
        "suppress_tokens": {"suppress_tokens": list(range(10))},
        "begin_suppress_tokens": {"begin_suppress_tokens": list(range(10))},
        "forced_bos_token_id": {"forced_bos_token_id": BANNED},
        "forced_eos_token_id": {"forced_eos_token_id": BANNED},
        "remove_invalid_values": {"remove_invalid_values": True},
        "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (1, 3.0)},
        "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=9.0)},
        "return_dict_in_generate": described,
        "output_scores": {**described, "output_scores": True},
        "output_logits": {**described, "output_logits": True},
        "output_attentions": {**described, "output_attentions": True},
        "output_hidden_states": {**described, "output_hidden_states": True},
        "pad_token_id": {"pad_token_id": BANNED},
        "bos_token_id": {"bos_token_id": BANNED},
        "eos_token_id": {"eos_token_id": list(range(40))},
        "decoder_start_token_id": {"decoder_start_token_id": BANNED},
    }


@pytest.fixture(scope="module")
def llava(checkpoints) -> Harness:
    return Harness.of(str(checkpoints["llava"]), media_clips("llava"))


@pytest.fixture(scope="module")
def inputs(llava):
    return llava.reference.inputs(*parts_of(llava.clips[0]))


def answered(llava, inputs, arguments, pipeline: Pipeline | None):
    """What `generate` returns, plain or reduced, from the same noise."""
    model = llava.reference.model
    torch.manual_seed(0)
    arguments = {"do_sample": False, "max_new_tokens": NEW_TOKENS, **arguments}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if "generation_config" in arguments:
        arguments = {"generation_config": arguments["generation_config"]}
    if pipeline is None:
        return model.generate(**inputs, **arguments)
    with tokenlab.compress(model, llava.loaded.processor, pipeline):
        return model.generate(**inputs, **arguments)


def test_every_name_of_the_installed_release_is_in_one_table():
    tables = [WORKS, WITHOUT_EFFECT, frozenset(REFUSED), frozenset(SEQUENCES)]
    assert generate_names() <= frozenset().union(*tables)
    assert sum(map(len, tables)) == len(frozenset().union(*tables))


def test_a_name_of_a_later_release_is_refused_where_it_is_set(monkeypatch):
    monkeypatch.setattr("tokenlab.models.llm.decoding.generate_names", lambda: generate_names() | {"telepathy"})
    check_call({"telepathy": None}, "generate")
    with pytest.raises(UserError, match="generate asks for telepathy, which nobody tried"):
        check_call({"telepathy": 3}, "generate")


@pytest.mark.parametrize("name", sorted(WORKS - {"inputs", "streamer"}))
def test_what_works_is_as_without_tokenlab(llava, inputs, name):
    arguments = values(inputs["input_ids"].shape[1], llava.loaded.processor)[name]
    plain = answered(llava, inputs, arguments, None)
    for pipeline in KEEP_ALL.values():
        reduced = answered(llava, inputs, arguments, pipeline)
        if isinstance(plain, torch.Tensor):
            assert torch.equal(reduced, plain)
            continue
        for key, value in plain.items():
            if key not in CACHE_NAMES:
                torch.testing.assert_close(reduced[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("pipeline", [*KEEP_ALL.values(), Pipeline.of("fastv@0.5"), Pipeline.of("random@0.3")])
def test_what_the_caller_brings_along_sees_the_original_prompt(llava, inputs, pipeline):
    prompt = inputs["input_ids"]
    stopped = answered(llava, inputs, {"stopping_criteria": [StopsAt(prompt.shape[1] + 2)]}, pipeline)
    assert stopped.shape[1] == prompt.shape[1] + 2
    seen = []
    allowed = {"prefix_allowed_tokens_fn": lambda row, ids: seen.append(ids.tolist()) or [5 + len(ids) % 3]}
    whole = answered(llava, inputs, allowed, pipeline)[0]
    assert seen == [whole[: prompt.shape[1] + step].tolist() for step in range(len(whole) - prompt.shape[1])]
    favoured = answered(llava, inputs, {"logits_processor": [Favours()]}, pipeline)[0, prompt.shape[1] :]
    expected = [(prompt.shape[1] + step) % 11 for step in range(len(favoured))]
    assert favoured.tolist() == expected
    streamer = Collects()
    whole = answered(llava, inputs, {"streamer": streamer}, pipeline)
    assert streamer.seen[0] == prompt[0].tolist()
    assert streamer.seen[1:-1] == [[token] for token in whole[0, prompt.shape[1] :].tolist()]
    assert streamer.seen[-1] == "end"


def test_a_text_streamer_skips_the_original_prompt(llava, inputs, capsys):
    tokenizer = llava.loaded.processor.tokenizer
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    whole = answered(llava, inputs, {"streamer": streamer}, Pipeline.of("random@0.3"))
    assert capsys.readouterr().out.strip() == tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :]).strip()


def test_ids_may_come_under_generates_own_name_or_in_its_place(llava, inputs):
    model, rest = llava.reference.model, {name: value for name, value in inputs.items() if name != "input_ids"}
    pipeline = Pipeline.of("fastv@0.5")
    expected = answered(llava, inputs, {}, pipeline)
    assert torch.equal(answered(llava, {**rest, "inputs": inputs["input_ids"]}, {}, pipeline), expected)
    with tokenlab.compress(model, llava.loaded.processor, pipeline):
        assert torch.equal(
            model.generate(inputs["input_ids"], **rest, max_new_tokens=NEW_TOKENS, do_sample=False), expected
        )


@pytest.mark.parametrize("name", sorted(REFUSED | SEQUENCES))
def test_what_cannot_be_had_is_refused_by_name(llava, inputs, name):
    tried = {
        "use_cache": False,
        "cache_implementation": "static",
        "cache": DynamicCache(),
        "past_key_values": DynamicCache(),
        "dola_layers": "high",
        "guidance_scale": 1.5,
        "assistant_early_exit": 2,
        "token_healing": True,
        "synced_gpus": True,
        "use_mtp": True,
    }
    with pytest.raises(UserError, match=rf"^generate asks for {name}\b.*; take {name} out$"):
        answered(llava, inputs, {name: tried.get(name, 2)}, Pipeline())
    for harmless in (REFUSED | SEQUENCES)[name].harmless:
        check_call({name: harmless}, "generate")


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT & generate_names()))
@pytest.mark.filterwarnings("ignore:Passing ContinuousBatchingConfig")
def test_what_has_no_effect_changes_no_answer(llava, inputs, name):
    expected = answered(llava, inputs, {}, Pipeline.of("fastv@0.5"))
    value = {"compile_config": CompileConfig(), "assistant_ensemble_weight": 0.5}.get(name, 1)
    config = GenerationConfig(**{**GENERATION, name: value})
    assert torch.equal(answered(llava, inputs, {"generation_config": config}, Pipeline.of("fastv@0.5")), expected)


def test_a_generation_config_is_heeded_like_arguments(llava, inputs):
    with pytest.raises(UserError, match="asks for num_beams=2"):
        answered(llava, inputs, {"generation_config": GenerationConfig(num_beams=2)}, Pipeline())
