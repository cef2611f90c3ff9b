"""What the project stands on: answers equal those of the untouched model, and nothing stays on it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from tests.models.harness import Harness
from tests.models.pipelines import DRIVEN, PIPELINES, build, possible, tiers
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.stubs import KEEPING

ALONE = {name: build(PIPELINES[name]) for name in DRIVEN}


def test_full_is_plain_generate(harness, baseline):
    assert harness.ask(Pipeline()) == baseline


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", KEEPING)
def test_keep_all_through_the_full_path(harness, baseline, name, batch_size):
    if name not in possible(harness.family, KEEPING):
        pytest.skip("this family cannot have it")
    assert harness.ask(KEEPING[name], batch_size=batch_size) == baseline


@pytest.mark.parametrize(("harness", "name"), tiers(ALONE, everywhere=()), indirect=["harness"])
def test_retention_one_is_the_untouched_model(harness, baseline, name):
    assert harness.ask(Pipeline((REGISTRY[name](retention_ratio=1.0),))) == baseline


def test_keep_all_gives_bit_identical_logits(harness):
    """At batch 1, every step's logits, through the gather path against the plain model."""
    clip = harness.clips[0]
    encodings = EncodeCache(frozenset())
    for pipeline in possible(harness.family, KEEPING).values():
        request = harness.loaded.prepare(clip, clip.samples[0], pipeline, encodings)
        logits = []
        handle = harness.loaded.model.lm_head.register_forward_hook(
            lambda _, __, output, logits=logits: logits.append(output)
        )
        harness.loaded.generate([request])
        handle.remove()
        inputs = harness.reference.inputs(*clip.media, clip.samples[0].question)
        plain = harness.reference.model.generate(
            **inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
        ).logits
        assert len(plain) == len(logits)
        for ours, theirs in zip(logits, plain, strict=True):
            assert torch.equal(ours[:, -1], theirs)


def hook_counts(loaded) -> Counter[str]:
    """How many hooks are on each module; transformers has some of its own, which stay once they are on."""
    modules = loaded.model.named_modules()
    return Counter({name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in modules})


def hooks_at_prefill(harness: Harness, pipeline: Pipeline) -> dict[str, int]:
    """The hooks that are on when the prompt is read, and not before or after."""
    seen, embeddings = [], harness.loaded.model.get_input_embeddings()
    request = harness.prepare(harness.clips[0], pipeline)
    before = hook_counts(harness.loaded)
    handle = embeddings.register_forward_pre_hook(lambda *_: seen.append(hook_counts(harness.loaded)))
    harness.loaded.generate([request])
    handle.remove()
    assert hook_counts(harness.loaded) == before
    names = [name for name, module in harness.loaded.model.named_modules() if module is embeddings]
    return dict(seen[0] - before - Counter(names))


@pytest.mark.parametrize("name", ["random", "topic", "similarity", "visionzip", "frames then grid", "tome"])
def test_before_the_llm_no_hook_is_needed(harness, name):
    """Reduced prompts are data: not one hook is registered, in the LLM or elsewhere."""
    pipeline = build(PIPELINES[name])
    if possible(harness.family, {name: pipeline}):
        assert hooks_at_prefill(harness, pipeline) == {}


def test_in_the_llm_there_is_one_hook_a_layer_from_the_first_reduction_on(harness):
    layers = harness.loaded.decoder.layers
    first = build(PIPELINES["fastv"]).layer_plan(len(layers)).first_layer
    assert 0 < first < len(layers)
    found = hooks_at_prefill(harness, build(PIPELINES["fastv"]))
    names = {id(module): name for name, module in harness.loaded.model.named_modules()}
    plain = {names[id(layer)]: 1 for layer in layers[first:]}
    if not harness.family.deepstack:
        assert found == plain
    assert found.keys() == plain.keys()


def test_no_hook_stays_behind(harness):
    """Also after an exception, and every module's config is its own again."""
    harness.ask(Pipeline())  # so that transformers' own hooks are on
    before = hook_counts(harness.loaded)
    configs = [id(m.config) for m in harness.loaded.model.modules() if hasattr(m, "config")]
    names = ("joint other", "topic", "two in the layers", "grid, layers, cache", "tower, then grid")
    for pipeline in possible(harness.family, {name: build(PIPELINES[name]) for name in names}).values():
        request = harness.prepare(harness.clips[0], pipeline)
        features = tuple(rows[:-1] for rows in request.prompt.features)
        broken = replace(request, prompt=replace(request.prompt, features=features))
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            harness.loaded.generate([broken])
    assert hook_counts(harness.loaded) == before
    assert [id(m.config) for m in harness.loaded.model.modules() if hasattr(m, "config")] == configs


@pytest.mark.parametrize("name", ["random", "similarity", "fastv", "grid, layers, cache"])
def test_calls_in_two_threads_do_not_meet(harness, name):
    """Each finds its own batch; a plain `generate` beside them stays plain."""
    pipeline, clip = build(PIPELINES[name]), harness.clips[0]
    alone = harness.ask(pipeline, [clip])
    inputs = harness.reference.inputs(*clip.media, clip.samples[0].question)

    def plain() -> list[int]:
        output = harness.loaded.model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    expected, before = plain(), hook_counts(harness.loaded)
    with ThreadPoolExecutor(4) as pool:
        reduced = [pool.submit(harness.ask, pipeline, [clip]) for _ in range(4)]
        untouched = [pool.submit(plain) for _ in range(4)]
        assert [each.result() for each in reduced] == [alone] * 4
        assert [each.result() for each in untouched] == [expected] * 4
    assert hook_counts(harness.loaded) == before
