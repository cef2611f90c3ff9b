"""FLOPs of a record equal torch's own counter, to the FLOP."""

import pytest
import torch
from transformers import DynamicCache

from tests.models.harness import Harness
from tests.models.pipelines import DRIVEN, PIPELINES, HalfSight, ThinningTower, build, thinning, tiers
from tokenlab.compressors import Pipeline
from tokenlab.models.costs.flops import literature_flops
from tokenlab.models.costs.price import price
from tokenlab.models.counter import flop_counter
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.hf import CACHE

ENTRY, MIDDLE = (0, "before_attention"), (1, "after_attention")
TOWER = ThinningTower(retention_ratio=0.5)
MEASURED = {
    "full": Pipeline(),
    "in the tower": Pipeline((TOWER,)),
    "in the tower and the layers": Pipeline((TOWER, thinning(MIDDLE))),
    "before the first layer": Pipeline((thinning(ENTRY),)),
    "in the layers": Pipeline((thinning((1, "before_attention"), MIDDLE),)),
    "in the layers, renumbered": Pipeline((thinning(ENTRY, MIDDLE, positions="renumber"),)),
    "grid, layers, cache": Pipeline(
        (
            *build(PIPELINES["random"]).compressors,
            thinning(MIDDLE, positions="renumber"),
            HalfSight(retention_ratio=0.5),
        )
    ),
    **{name: build(methods) for name, methods in PIPELINES.items()},
}


@pytest.mark.parametrize(("harness", "name"), tiers(MEASURED, daily=DRIVEN), indirect=["harness"])
def test_flops_equal_the_counter(harness: Harness, name: str):
    """At batch 1, what methods are shown and decide included: before the LLM, and then in it."""
    mllm, pipeline, costs = harness.loaded, MEASURED[name], harness.costs
    with flop_counter() as encoding:
        request = harness.prepare(harness.clips[0], pipeline)
    with flop_counter() as generating:
        (answer,) = mllm.generate([request])
    before, priced = price(request.trace, costs), price(answer.trace, costs)
    assert before.tower + before.projector + before.method == encoding.get_total_flops()
    assert priced.prefill + priced.decode + priced.method - before.method == generating.get_total_flops()


@pytest.mark.parametrize("harness", ["llava", "qwen3_vl"], indirect=True)
@pytest.mark.parametrize("name", ["fastv", "random in the cache", "dycoke", "pyramiddrop", "sparsevlm", "tome"])
def test_neighbours_cost_nothing(harness: Harness, name: str):
    """Nor do prompts that are padded, nor answers that go on when one has ended."""
    pipeline = build(PIPELINES[name])
    if why_unsupported(harness.family, pipeline.compressors[0]):
        pytest.skip("this family cannot have it")
    alone, together = (harness.answers(pipeline, batch_size=size) for size in (1, 6))
    priced = [price(each.trace, harness.costs) for each in alone]
    assert priced == [price(each.trace, harness.costs) for each in together]
    assert len({each.prefill for each in priced}) > 1


def test_fewer_tokens_cost_less(harness: Harness):
    """Drop the reductions from the trace and the FLOPs are those of the baseline model."""
    from dataclasses import replace

    mllm, clip = harness.loaded, harness.clips[0]
    costs = harness.costs
    encodings = EncodeCache(frozenset())
    full = mllm.prepare(clip, clip.samples[0], Pipeline(), encodings).trace
    pruned = mllm.prepare(clip, clip.samples[0], MEASURED["random"], encodings).trace
    assert costs.prefill(pruned.prefill_tokens) < costs.prefill(full.prefill_tokens)
    assert pruned.visual_tokens_out < full.visual_tokens_out
    assert replace(pruned, reductions=()).visual_tokens_out == full.visual_tokens_out


def test_attention_is_counted_on_the_cpu():
    """Torch versions up to 2.13 leave it out there unless told otherwise."""
    query = torch.randn(1, 2, 5, 8)
    with flop_counter() as count, torch.inference_mode():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert count.get_total_flops() == 2 * 2 * 2 * 5 * 5 * 8


def test_one_length_everywhere_is_the_whole_decoder(harness: Harness):
    """Layer by layer and as one; and as torch counts the real decoder at lengths that no polynomial was fitted at."""
    model, costs = harness.loaded.model, harness.costs
    for tokens in (7, 19):
        lengths = [tokens] * costs.num_layers
        assert costs.prefill(tokens) == costs.prefill_layers(lengths) == costs.prefill_layers(lengths, lengths)
        assert costs.decode(tokens, 3) == costs.decode_layers(lengths, 3)
        cache = DynamicCache(config=model.config.get_text_config())
        spent = []
        for new in (tokens, 1):
            embeddings = torch.zeros(1, new, model.config.get_text_config().hidden_size)
            with flop_counter() as count, torch.inference_mode():
                hidden = model.model.get_decoder()(inputs_embeds=embeddings, use_cache=True, **{CACHE: cache})[0]
                model.get_output_embeddings()(hidden[:, -1:])
            spent.append(count.get_total_flops())
        assert spent == [costs.prefill(tokens), costs.decode(tokens, 1)]
        held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
        assert held == costs.cache_elements([tokens + 1] * costs.num_layers)


def test_a_length_for_every_layer(harness: Harness):
    """Real layers called one by one, each on fewer tokens, cut before the attention or behind it."""
    model, costs = harness.loaded.model, harness.costs
    decoder, width = model.model.get_decoder(), model.config.get_text_config().hidden_size
    same = [4] * (costs.num_layers - 3)
    entry, behind = [13, 9, 4, *same], [13, 6, 4, *same]

    with flop_counter() as count, torch.inference_mode():
        hidden = torch.zeros(1, entry[0], width)
        positions = torch.arange(entry[0])[None]
        positions = positions.expand(3, 1, -1) if harness.family.mrope else positions
        cos, sin = decoder.rotary_emb(hidden, positions)
        for layer, tokens, left in zip(decoder.layers, entry, behind, strict=True):
            hidden = torch.zeros(1, tokens, width)
            layer.self_attn(hidden, position_embeddings=(cos[:, :tokens], sin[:, :tokens]), attention_mask=None)
            layer.mlp(hidden[:, :left])
        model.get_output_embeddings()(hidden[:, -1:])
    assert costs.prefill_layers(entry, behind) == count.get_total_flops()
    assert costs.prefill_layers(entry, behind) < costs.prefill_layers(entry) < costs.prefill(13)


def test_causal_attention_by_hand(harness: Harness):
    """Pair by pair: what a query pays keys behind it, which torch's counter counts, is what is masked."""
    costs, text = harness.costs, harness.loaded.config.get_text_config()
    heads, width = (
        text.num_attention_heads,
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )
    hidden = sum(1 for query in range(13) for key in range(13) if key > query)
    a_pair = 2 * 2 * heads * width  # logits and values, two FLOPs a multiply-add
    assert costs.masked_flops([13] * costs.num_layers) == costs.num_layers * hidden * a_pair
    request = harness.prepare(harness.clips[0], Pipeline())
    priced = price(harness.loaded.generate([request])[0].trace, costs)
    assert sum(priced.by_layer) + costs.head + costs.rope_flops(request.trace.prefill_tokens) == priced.prefill
    assert priced.causal == priced.total - priced.masked < priced.total
    assert priced.literature == literature_flops(text, [request.trace.prefill_tokens] * costs.num_layers)


def test_weights_by_part(harness: Harness):
    model = harness.loaded.model
    costs = harness.costs
    inside = sum(weight.numel() for module in costs.vision.projectors(model) for weight in module.parameters())
    tower = sum(weight.numel() for weight in harness.family.tower_of(model).parameters())
    assert sum(costs.parameters.values()) == sum(weight.numel() for weight in model.parameters())
    assert costs.parameters["tower"] == tower - inside
