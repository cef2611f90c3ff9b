"""What methods are shown of tower and LLM, against stock attention's own maps."""

from dataclasses import dataclass

import pytest
import torch

from tests.models.harness import EACH_KIND, WHOLE, Harness, settings
from tokenlab.compressors import (
    GridReduction,
    LayerAttention,
    Pipeline,
    QuestionEmbeddings,
    Reduction,
    TowerAttention,
    TowerFeatures,
    TowerLogits,
)
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import missing_reason
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.observe import observe
from tokenlab.testing.media import noise_image

OF_TOWER = (TowerAttention(-2, "mean", over="sum"), TowerAttention(-1, "mean"), TowerLogits(-1))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("need", OF_TOWER, ids=repr)
@pytest.mark.parametrize("family", EACH_KIND)
def test_the_towers_attention_is_stock_attentions(harnesses, family, need):
    if missing_reason(FAMILIES[family], need):
        pytest.skip("its tower has no [CLS]")
    harness: Harness = harnesses(family)
    frames, sample = harness.samples()[0]
    tokens = harness.loaded.encode(frames, frozenset({need})).tokens
    inputs = harness.reference.inputs(frames, sample.question)
    stock = harness.reference.attention(inputs, need, tokens.grid)
    torch.testing.assert_close(tokens.evidence[need], stock, **CLOSE)


@pytest.mark.parametrize("family", WHOLE)
def test_the_llms_attention_has_its_values(harnesses, family):
    """What a layer's attention gives its output projection is the weights times these values, head by head."""
    harness: Harness = harnesses(family)
    clip, layers, given = harness.clips[0], harness.loaded.decoder.layers, []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: given.append(args[0])) for layer in layers
    ]

    def look(view):
        attention = view.evidence[LayerAttention()]
        weights = attention.rows(torch.arange(len(view.hidden)))  # h s s
        values = attention.values.repeat_interleave(len(weights) // len(attention.values), dim=0)
        return (weights @ values).transpose(0, 1).flatten(1)

    try:
        seen = next(observe(harness.loaded, [clip], frozenset({LayerAttention()}), look))
    finally:
        for hook in hooks:
            hook.remove()
    for ours, stock in zip(seen, given[: len(layers)], strict=True):
        torch.testing.assert_close(ours, stock[0], **CLOSE)


@pytest.mark.parametrize("family", WHOLE)
def test_a_mean_query_pays_as_one_token_would(harnesses, family):
    """Of queries that are all alike the mean is each of them."""
    harness: Harness = harnesses(family)

    def look(view):
        attention, span = view.evidence[LayerAttention()], torch.arange(int(view.visual[-1]) + 1)
        alone = attention.received(span[-1:], heads="each", among=span)
        return alone, attention.received(span[-1:], heads="each", over="mean_query", among=span)

    for alone, mean in next(observe(harness.loaded, harness.clips[:1], frozenset({LayerAttention()}), look)):
        torch.testing.assert_close(alone, mean, **CLOSE)
        assert alone.ndim == 2


def colours(question: str) -> list[str]:
    return [word for word in question.split() if word in ("circle", "colour")]


@pytest.mark.parametrize("family", WHOLE)
def test_words_of_the_question_are_found_before_they_are_embedded(harnesses, family):
    loaded = harnesses(family).loaded
    some, whole = QuestionEmbeddings(words=colours), QuestionEmbeddings()

    @dataclass(frozen=True, kw_only=True)
    class Comparing(GridReduction):
        def needs(self):
            return frozenset({some, whole})

        def reduce_grid(self, view):
            raise NotImplementedError

    pipeline = Pipeline((Comparing(retention_ratio=0.5),))
    found, _ = EncodeCache(frozenset()).question(loaded, "what colour is the circle ?", pipeline)
    ids = loaded.processor.tokenizer("what colour is the circle ?", add_special_tokens=False)["input_ids"]
    table = loaded.model.get_input_embeddings()
    assert torch.equal(found[whole], table(torch.tensor(ids)))
    one_by_one = [loaded.processor.tokenizer(word, add_special_tokens=False) for word in ("colour", "circle")]
    assert torch.equal(found[some], torch.cat([table(torch.tensor(each["input_ids"])) for each in one_by_one]))


@pytest.mark.parametrize("size", [(60, 110), (64, 64), (130, 40)])
def test_a_tokens_tile_and_its_place_there_are_the_towers(checkpoints, size):
    """What the tower's last block made of that patch of that tile is what the token has as its features."""
    loaded, need = LoadedModel.load(settings(checkpoints["llava_next"])), TowerFeatures(-1)
    made = []
    hook = loaded.family.blocks_of(loaded.model, loaded.family.image)[-1].register_forward_hook(
        lambda _, __, output: made.append(output)
    )
    tokens = loaded.encode(noise_image(1, *size), frozenset({need})).tokens
    hook.remove()
    side = round((made[0].shape[1] - 1) ** 0.5)
    row, column = tokens.places_in_tiles.unbind(1)
    assert torch.equal(tokens.evidence[need], torch.cat(made)[:, 1:][tokens.tiles, row * side + column])
    if tokens.thumbnail is not None:
        rows, columns = tokens.tile_grid
        assert int(tokens.tiles.max()) == rows * columns
    left = tokens.reduce(Reduction.keep(torch.arange(0, tokens.num_tokens, 3), tokens.num_tokens))
    assert torch.equal(left.places_in_tiles, tokens.places_in_tiles[::3])
