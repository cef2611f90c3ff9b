"""What is read inside the LLM while prompts pass through it whole: stock eager attention's own."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.models.harness import WHOLE, Harness
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.models.observe import observe
from tokenlab.testing.media import video_clips

FITPRUNE = REGISTRY["fitprune"]


@pytest.mark.parametrize("family", WHOLE)
def test_every_layer_is_seen_as_stock_attention_has_it(checkpoints, harnesses, family):
    harness: Harness = harnesses(family)
    seen = observe(harness.loaded, harness.clips, frozenset({FITPRUNE.attention}), FITPRUNE.look)
    eager = AutoModelForImageTextToText.from_pretrained(checkpoints[family], attn_implementation="eager").eval()
    names = ("image_token_id", "video_token_id", "image_token_index")
    placeholders = torch.tensor([getattr(eager.config, name) for name in names if hasattr(eager.config, name)])
    for (frames, sample), layers in zip(harness.samples(), seen, strict=True):
        inputs = harness.reference.inputs(frames, sample.question)
        with torch.no_grad():
            stock = eager(**inputs, output_attentions=True).attentions
        behind = int(torch.isin(inputs["input_ids"][0], placeholders).nonzero().max()) + 1
        assert len(layers) == len(stock)
        for (by_text, by_visual), (weights,) in zip(layers, stock, strict=True):
            # a newline behind a video's tokens is none of them
            visual = torch.isin(inputs["input_ids"][0], placeholders).nonzero()[: len(by_text), 0]
            strongest = weights.amax(dim=0)
            torch.testing.assert_close(by_text, strongest[behind:].sum(dim=0)[visual])
            torch.testing.assert_close(by_visual, strongest[visual].sum(dim=0)[visual])


def test_nothing_is_left_on_the_model(harnesses):
    harness: Harness = harnesses("llava")
    before = harness.baseline
    list(observe(harness.loaded, video_clips()[:1], frozenset({FITPRUNE.attention}), FITPRUNE.look))
    assert harness.ask(Pipeline()) == before
