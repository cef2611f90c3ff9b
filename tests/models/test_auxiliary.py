"""An auxiliary CLIP: what it offers, and who pays for it."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from tests.models.test_exactness import make_clips
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation, flops
from tokenlab.models.costs import ModelCosts, counter
from tokenlab.models.frozen import Encodings, FrozenMLLM
from tokenlab.models.loading import EMBEDDED_AUXILIARY, load_config
from tokenlab.models.settings import MLLM


@pytest.fixture(scope="module", params=["llava", "llava_onevision"])
def mllm(request, checkpoints) -> FrozenMLLM:
    settings = MLLM(checkpoint=str(checkpoints[request.param]), max_new_tokens=4, auxiliary={"clip": "shapes"})
    mllm = FrozenMLLM(settings)
    mllm.load()
    return mllm


def pipeline(space: str) -> Pipeline:
    return Pipeline((REGISTRY["text"](retention_ratio=0.4, space=space),))


def test_evidence_is_clips_own(mllm):
    """Patches through post layer norm and projection, averaged onto the token grid; the question's pooled embedding."""
    clip, frames = make_clips()[0], make_clips()[0].media[0]
    model = AutoModel.from_pretrained(EMBEDDED_AUXILIARY["shapes"], dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(EMBEDDED_AUXILIARY["shapes"])
    pixels = processor.image_processor([np.asarray(p) for p in frames.pixels], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
        patches = model.visual_projection(model.vision_model.post_layernorm(hidden)).reshape(6, 8, 8, -1)
        inputs = processor.tokenizer([clip.samples[0].question], return_tensors="pt")
        words = model.get_text_features(**inputs).pooler_output
    encoded = mllm.encode(frames, pipeline("clip").needs())
    ours = encoded.tokens.evidence[TokenEmbeddings("clip")].reshape(*encoded.tokens.grid, -1)
    if encoded.tokens.grid == (6, 4, 4):  # two by two patches a token
        expected = patches.reshape(6, 4, 2, 4, 2, -1).mean((2, 4))
        assert torch.allclose(ours, expected, atol=1e-5)
    assert torch.allclose(
        mllm.embed_question(clip.samples[0].question, pipeline("clip"))[0][QuestionEmbeddings("clip")], words
    )


def test_a_long_question_is_read_in_segments(mllm):
    embedded, lengths = mllm.clip.embed_question("what colour is the circle ? " * 40)
    context = mllm.clip.model.config.text_config.max_position_embeddings
    assert embedded.shape[0] == len(lengths) > 1
    assert max(lengths) <= context


def test_only_the_arms_that_use_it_are_charged(mllm):
    costs = ModelCosts(mllm.config, mllm.family, load_config(mllm.settings, "clip"))
    clip = make_clips()[0]
    sample = clip.samples[0]
    needs = pipeline("clip").needs() | pipeline("llm").needs()
    encodings = Encodings(mllm, needs)
    requests = {space: mllm.reduce(clip, sample, pipeline(space), encodings) for space in ("llm", "clip")}
    assert requests["clip"].encode_milliseconds > requests["llm"].encode_milliseconds
    assert flops(requests["llm"].trace, costs).auxiliary == 0
    with counter() as count:
        mllm.clip.read(clip.media[0], (2, 2))
        mllm.clip.embed_question(sample.question)
    assert flops(requests["clip"].trace, costs).auxiliary == count.get_total_flops() > 0


def test_spaces_choose_differently(mllm):
    clips = make_clips()[:1]
    chosen = []
    for space in ("llm", "clip"):
        encodings = Encodings(mllm, pipeline(space).needs())
        request = mllm.reduce(clips[0], clips[0].samples[0], pipeline(space), encodings)
        chosen.append(request.trace.steps[0].reduction.anchor.tolist())
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("auxiliary", "message"),
    [
        ({"clp": "shapes"}, "no kind 'clp'; known: clip"),
        ({"clip": "./nowhere"}, r"model\.mllm\.auxiliary\.clip: there is no folder"),
    ],
)
def test_mistakes_name_the_key(checkpoints, auxiliary, message):
    with pytest.raises(UserError, match=message):
        Evaluation(MLLM(checkpoint=str(checkpoints["llava"]), auxiliary=auxiliary), {"full": []})


def test_a_checkpoint_of_another_kind_is_refused(checkpoints):
    with pytest.raises(UserError, match="is a llava checkpoint, not clip"):
        Evaluation(MLLM(checkpoint="shapes", auxiliary={"clip": str(checkpoints["llava"])}), {"full": []})


def test_the_refusal_names_the_way_out(checkpoints):
    text = REGISTRY["text"](retention_ratio=0.5, space="clip")
    with pytest.raises(UserError, match=r"add model\.mllm\.auxiliary: {clip: FOLDER_OR_ID}"):
        Evaluation(MLLM(checkpoint=str(checkpoints["llava"])), {"mine": [text]})
