"""FLOPs of a record equal torch's own counter, to the FLOP."""

import pytest
import torch
from transformers import DynamicCache

from tests.models.harness import Harness
from tests.models.pipelines import PIPELINES, HalfSight, ThinningTower, build, thinning, tiers
from tokenlab.compressors import Pipeline
from tokenlab.models.costs.counting import flop_counter
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.encode_cache import EncodeCache
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
    **{name: build(PIPELINES[name]) for name in ("random", "frame_stride", "similarity", "pool", "merge, pool, prune")},
}


@pytest.mark.parametrize(("harness", "name"), tiers(MEASURED), indirect=["harness"])
def test_flops_equal_the_counter(harness: Harness, name: str):
    """Tower and projector while encoding, prefill and decode while generating, at batch 1."""
    mllm, pipeline = harness.loaded, MEASURED[name]
    costs = ModelCosts(mllm.config, mllm.family)
    for clip in harness.clips:
        for sample in clip.samples[:2]:
            with flop_counter() as encoding:
                request = mllm.prepare(clip, sample, pipeline, EncodeCache(frozenset()))
            with flop_counter() as generating:
                (answer,) = mllm.generate([request])
            priced = price(answer.trace, costs)
            # a method's own matrix products are timed, not counted: none of the measured ones has any
            assert priced.tower + priced.projector == encoding.get_total_flops()
            assert priced.prefill + priced.decode == generating.get_total_flops()


def test_fewer_tokens_cost_less(harness: Harness):
    """Drop the reductions from the trace and the FLOPs are those of the baseline model."""
    from dataclasses import replace

    mllm, clip = harness.loaded, harness.clips[0]
    costs = ModelCosts(mllm.config, mllm.family)
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
    model, costs = harness.loaded.model, ModelCosts(harness.loaded.config, harness.family)
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
    model, costs = harness.loaded.model, ModelCosts(harness.loaded.config, harness.family)
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


def test_weights_by_part(harness: Harness):
    model = harness.loaded.model
    costs = ModelCosts(harness.loaded.config, harness.family)
    inside = sum(weight.numel() for module in costs.vision.projectors(model) for weight in module.parameters())
    tower = sum(weight.numel() for weight in harness.family.tower_of(model).parameters())
    assert sum(costs.parameters.values()) == sum(weight.numel() for weight in model.parameters())
    assert costs.parameters["tower"] == tower - inside
