"""Auxiliary encoders, CLIP and SigLIP's pooling head: what they offer, and who pays for it."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, SiglipConfig, SiglipModel

from tests.models.conftest import by_tier
from tests.models.harness import VIDEO_FAMILIES
from tests.models.prompts import WIDE
from tests.reference.prompts import Reference
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.evidence import FrameScores, PoolingAttention, QuestionEmbeddings, TokenEmbeddings
from tokenlab.compressors.stages import FrameView
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.models.checkpoint import EMBEDDED_AUXILIARY, load_config
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.counter import flop_counter
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.testing import ANSWER_TOKENS, SAVERS
from tokenlab.testing.media import noise_image, video_clips
from tokenlab.testing.parts import TOWER


@pytest.fixture(scope="module", params=["llava", "llava_onevision"])
def mllm(request, checkpoints) -> LoadedModel:
    settings = MLLM(checkpoint=str(checkpoints[request.param]), max_new_tokens=4, auxiliary={"clip": "shapes"})
    return LoadedModel.load(settings)


def pipeline(space: str) -> Pipeline:
    return Pipeline((REGISTRY["text"](retention_ratio=0.4, space=space),))


def clip_patches(pictures: np.ndarray, squashed: bool, layer: int = -1) -> torch.Tensor:
    """Patches of a layer through post norm and projection, by stock CLIP: of the middle square, or squashed to one."""
    model = AutoModel.from_pretrained(EMBEDDED_AUXILIARY["shapes"], dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(EMBEDDED_AUXILIARY["shapes"])
    side = model.config.vision_config.image_size
    pictures = [Image.fromarray(picture) for picture in pictures]
    if squashed:
        pictures = [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in pictures]
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
        patches = model.visual_projection(model.vision_model.post_layernorm(hidden))
    return patches.unflatten(1, (8, 8))


def resized(patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The mean over all patches that a cell touches, cell by cell."""

    def span(index: int, cells: int, size: int) -> slice:
        return slice(index * size // cells, -(-(index + 1) * size // cells))

    cells = [
        patches[span(r, rows, len(patches)), span(c, columns, patches.shape[1])].mean((0, 1))
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(cells)


CROPPING = ("llava", "video_llava", "llava_next_video")
"""Families whose processor shows the tower the middle square of a frame."""


@pytest.mark.parametrize("family", SAVERS)
def test_evidence_is_clips_own_on_the_grid(checkpoints, family):
    """Frames taken together are averaged; a mosaic is the whole picture twice; what is cropped is cropped for CLIP."""
    mllm = LoadedModel.load(MLLM(checkpoint=str(checkpoints[family]), auxiliary={"clip": "shapes"}))
    rng = np.random.default_rng(0)
    video = Frames(rng.integers(0, 256, (5, 60, 90, 3), dtype=np.uint8), tuple(range(5)), np.arange(5) / 2)
    media = [video, WIDE] if mllm.family.video else [WIDE]
    if family in ("internvl", "smolvlm"):
        media = [video]
    for frames in media:
        tokens = mllm.encode(frames, pipeline("clip").needs()).tokens
        steps = tokens.grid[0]
        squashed = family not in CROPPING or (frames.is_image and family == "llava_next_video")
        patches = clip_patches(frames.pixels, squashed)
        together = -(-len(patches) // steps)
        if frames.is_image:
            per_step = [patches[0]] * steps
        else:
            padded = torch.cat([patches, patches[-1:].repeat(steps * together - len(patches), 1, 1, 1)])
            per_step = list(padded.unflatten(0, (steps, together)).mean(1))
        expected = []
        for step, mine in enumerate(per_step):
            rows, columns = (tokens.places[tokens.frame == step, 1:].amax(0) + 1).tolist()
            expected.append(resized(mine, rows, columns))
        ours = tokens.evidence[TokenEmbeddings("clip")]
        assert ours.shape[0] == tokens.num_tokens
        assert torch.allclose(ours, torch.cat(expected), atol=0.01)  # Pillow rounds to whole colours on the way
        other = clip_patches(frames.pixels, not squashed)
        assert (other - patches).abs().max() > 1


def test_the_questions_embedding_is_clips_own(mllm):
    processor = AutoProcessor.from_pretrained(EMBEDDED_AUXILIARY["shapes"])
    model = AutoModel.from_pretrained(EMBEDDED_AUXILIARY["shapes"], dtype=torch.float32).eval()
    question = video_clips()[0].samples[0].question
    with torch.no_grad():
        words = model.get_text_features(**processor.tokenizer([question], return_tensors="pt")).pooler_output
    assert torch.allclose(
        EncodeCache(frozenset()).question(mllm, question, pipeline("clip"))[0][QuestionEmbeddings("clip")], words
    )


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_of_an_image_in_tiles_clip_reads_every_tile(checkpoints, family):
    """As the stock processor cuts it; and each tile is paid for."""
    mllm = LoadedModel.load(MLLM(checkpoint=str(checkpoints[family]), max_new_tokens=2, auxiliary={"clip": "shapes"}))
    wide = noise_image(1, 60, 240)
    clip = Clip("w", (Sample("w#0", "w", "what is there ?"),), (wide,))
    raw = {"do_normalize": False, "do_rescale": False, "return_tensors": "np"}
    raw |= {"crop_to_patches": True} if family == "internvl" else {}
    cut = mllm.processor.image_processor(Image.fromarray(wide.pixels[0]), **raw)["pixel_values"]
    tiles = cut.reshape(-1, *cut.shape[-3:]).transpose(0, 2, 3, 1)
    patches = clip_patches(tiles.round().astype(np.uint8), squashed=True)
    encodings = EncodeCache(pipeline("clip").needs())
    request = mllm.prepare(clip, clip.samples[0], pipeline("clip"), encodings)
    tokens = mllm.encode(wide, pipeline("clip").needs()).tokens
    assert len(patches) == tokens.grid[0] == request.trace.auxiliary_frames > 1
    expected = torch.cat([resized(each, *tokens.grid[1:]) for each in patches])
    assert torch.allclose(tokens.evidence[TokenEmbeddings("clip")], expected, atol=0.01)
    (answer,) = mllm.generate([request])
    assert answer.error is None


class WithClip(Reference):
    """The reference beside a stock CLIP."""

    def further(self, frames, question: str, seen, needs) -> dict:
        processor = AutoProcessor.from_pretrained(EMBEDDED_AUXILIARY["shapes"])
        model = AutoModel.from_pretrained(EMBEDDED_AUXILIARY["shapes"], dtype=torch.float32).eval()
        words = model.get_text_features(**processor.tokenizer([question], return_tensors="pt")).pooler_output
        found = {QuestionEmbeddings("clip"): words}
        for need in needs:
            if isinstance(need, TokenEmbeddings) and need.space == "clip":
                patches = clip_patches(frames.pixels, squashed=False, layer=need.layer)
                found[need] = torch.cat([resized(each, *seen.grid[1:]) for each in patches])
        return found


@pytest.mark.parametrize("name", ["cdpruner", "trim", "text"])
def test_methods_in_its_space_equal_the_reference(checkpoints, name):
    space = {"space": "clip"} if name == "text" else {}
    arm = Pipeline((REGISTRY[name](retention_ratio=0.4, **space),))
    folder = str(checkpoints["llava"])
    mllm = LoadedModel.load(MLLM(checkpoint=folder, max_new_tokens=ANSWER_TOKENS, auxiliary={"clip": "shapes"}))
    reference, clips = WithClip(folder), video_clips()
    answers = {each.sample.uid: each.ids for each in mllm.answer(clips, arm, EncodeCache(arm.needs()))}
    for clip in clips:
        for sample in clip.samples:
            ours = reference.reduced([clip.media[0], sample.question], sample, arm, ANSWER_TOKENS)
            assert answers[sample.uid] == tuple(ours)


def test_a_long_question_is_read_in_segments(mllm):
    embedded, lengths = mllm.clip.embed_question("what colour is the circle ? " * 40)
    context = mllm.clip.model.config.text_config.max_position_embeddings
    assert embedded.shape[0] == len(lengths) > 1
    assert max(lengths) <= context


def test_only_the_arms_that_use_it_are_charged(mllm):
    costs = ModelCosts(mllm.config, mllm.family, {"clip": load_config(mllm.settings, "clip")})
    clip = video_clips()[0]
    sample = clip.samples[0]
    needs = pipeline("clip").needs() | pipeline("llm").needs()
    encodings = EncodeCache(needs)
    requests = {space: mllm.prepare(clip, sample, pipeline(space), encodings) for space in ("llm", "clip")}
    assert price(requests["llm"].trace, costs).auxiliary == 0
    with flop_counter() as count:
        mllm.clip.read(clip.media[0], torch.tensor([[frame, 0, 0] for frame in range(6)]), cropped=True, layers=[-1])
        mllm.clip.embed_question(sample.question)
    assert price(requests["clip"].trace, costs).auxiliary == count.get_total_flops() > 0


def test_spaces_choose_differently(mllm):
    clips = video_clips()[:1]
    chosen = []
    for space in ("llm", "clip"):
        encodings = EncodeCache(pipeline(space).needs())
        request = mllm.prepare(clips[0], clips[0].samples[0], pipeline(space), encodings)
        chosen.append(request.trace.reductions[0].reduction.anchor.tolist())
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("auxiliary", "message"),
    [
        ({"clp": "shapes"}, "no kind 'clp'; known: clip, siglip"),
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


@pytest.mark.parametrize("family", by_tier(VIDEO_FAMILIES, daily=("llava_onevision",)))
def test_aks_chooses_frames_before_the_tower(checkpoints, family):
    """By stock CLIP's cosines; the answer is plain transformers' to the chosen frames alone."""
    folder = str(checkpoints[family])
    mllm = LoadedModel.load(MLLM(checkpoint=folder, max_new_tokens=ANSWER_TOKENS, auxiliary={"clip": "shapes"}))
    costs = ModelCosts(mllm.config, mllm.family, {"clip": load_config(mllm.settings, "clip")})
    reference, aks, left_out = Reference(folder), REGISTRY["aks"](retention_ratio=0.5), 0
    for clip in video_clips():
        (frames,), sample = clip.media, clip.samples[0]
        view = FrameView(
            num_frames=len(frames.numbers),
            seconds=torch.from_numpy(frames.seconds),
            question=sample.question,
            evidence={FrameScores("clip"): cosines(frames.pixels, sample.question)},
            generator=torch.Generator(),
        )
        chosen = frames.at(aks.select_frames(view).anchor.numpy())
        left_out += len(frames.numbers) - len(chosen.numbers)
        request = mllm.prepare(clip, sample, Pipeline((aks,)), EncodeCache(frozenset()))
        (answer,) = mllm.generate([request])
        assert list(answer.ids) == reference.plain([chosen, sample.question], ANSWER_TOKENS)
        with flop_counter() as count:
            EncodeCache(frozenset()).scorer(mllm.clip, clip.cluster, [0], sample.question)(0, frames)
        assert price(answer.trace, costs).auxiliary == count.get_total_flops() > 0
    assert left_out > 0


def test_arms_share_what_clip_reads(checkpoints, monkeypatch):
    folder = str(checkpoints["llava_onevision"])
    mllm = LoadedModel.load(MLLM(checkpoint=folder, max_new_tokens=1, auxiliary={"clip": "shapes"}))
    stock, read = mllm.clip.embed_frames, []

    def noting(frames):
        read.append(frames.numbers)
        return stock(frames)

    monkeypatch.setattr(mllm.clip, "embed_frames", noting)
    arms = [Pipeline((REGISTRY["aks"](retention_ratio=ratio),)) for ratio in (0.3, 0.5, 0.8)]
    clip, cache = video_clips()[0], EncodeCache(frozenset())
    shared = [[mllm.prepare(clip, sample, arm, cache) for sample in clip.samples] for arm in arms]
    assert read == [clip.media[0].numbers]
    for arm, requests in zip(arms, shared, strict=True):
        for sample, request in zip(clip.samples, requests, strict=True):
            alone = mllm.prepare(clip, sample, arm, EncodeCache(frozenset()))
            chosen = [each.trace.reductions[0].reduction.anchor.tolist() for each in (alone, request)]
            assert chosen[0] == chosen[1]
            assert alone.trace.auxiliary_scored == request.trace.auxiliary_scored == len(clip.media[0].numbers)
            assert alone.trace.auxiliary_text == request.trace.auxiliary_text


def cosines(pixels: np.ndarray, question: str) -> torch.Tensor:
    """Of whole frames with the question, by the stock model."""
    model = AutoModel.from_pretrained(EMBEDDED_AUXILIARY["shapes"], dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(EMBEDDED_AUXILIARY["shapes"])
    with torch.no_grad():
        inputs = processor.image_processor(list(pixels), return_tensors="pt")
        seen = model.get_image_features(**inputs).pooler_output
        read = model.get_text_features(**processor.tokenizer([question], return_tensors="pt")).pooler_output
    return torch.nn.functional.cosine_similarity(seen, read, dim=-1)


# --- SigLIP's pooling head --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> str:
    """A whole tiny SigLIP, as its authors' checkpoints are."""
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    vision = {"image_size": 40, "patch_size": 8, **TOWER}
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config={**TOWER, "vocab_size": 16}))
    torch.nn.init.normal_(model.vision_model.head.probe, std=3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["llava_onevision", "smolvlm"])
def headed(request, checkpoints, siglip) -> LoadedModel:
    settings = MLLM(checkpoint=str(checkpoints[request.param]), max_new_tokens=4, auxiliary={"siglip": siglip})
    return LoadedModel.load(settings)


POOLED = Pipeline((REGISTRY["topic"](retention_ratio=0.4, query="pooling"),))


def test_pooling_attention_is_the_heads_own(headed, siglip):
    """The stock head behind the tower's last block, as the family brings its patches to the grid."""
    frames, model = video_clips()[0].media[0], headed.model
    processed = headed.media.process(frames)
    (pixels,) = (value for name, value in processed.inputs.items() if name.startswith("pixel_values"))
    vision = AutoModel.from_pretrained(siglip, dtype=torch.float32).eval().vision_model
    tower = headed.family.tower_of(model)
    with torch.no_grad():
        hidden = tower(pixels.flatten(0, -4), output_hidden_states=True).hidden_states[-1]
        weights = vision.head.attention(
            vision.head.probe.repeat(len(hidden), 1, 1),
            *[vision.post_layernorm(hidden)] * 2,
            average_attn_weights=False,
        )[1]
    received = weights.mean(1)[:, 0, :, None]
    side = round(received.shape[1] ** 0.5)
    if headed.config.model_type == "smolvlm":  # two by two patches a token
        expected = received.reshape(6, side // 2, 2, side // 2, 2).mean((2, 4)).flatten()
    else:
        expected = model.model.apply_pooling(received).flatten()
    ours = headed.encode(frames, POOLED.needs()).tokens.evidence[PoolingAttention()]
    assert torch.allclose(ours, expected, atol=1e-6)
    assert ours.std() > 1e-3


def test_the_rest_of_siglip_is_let_go(headed):
    assert {name.split(".")[0] for name, _ in headed.head.named_parameters()} == {"norm", "head"}


def test_topic_by_the_pooling_head(headed):
    """It chooses other tokens than the mean over patches does, and the arms that use it pay for it."""
    clip = video_clips()[0]
    plain = Pipeline((REGISTRY["topic"](retention_ratio=0.4),))
    encodings = EncodeCache(POOLED.needs() | plain.needs())
    costs = ModelCosts(headed.config, headed.family, {"siglip": load_config(headed.settings, "siglip")})
    pooled, mean = (headed.prepare(clip, clip.samples[0], pipeline, encodings) for pipeline in (POOLED, plain))
    assert pooled.trace.reductions[0].reduction.anchor.tolist() != mean.trace.reductions[0].reduction.anchor.tolist()
    assert price(mean.trace, costs).auxiliary == 0
    hidden = torch.zeros(pooled.trace.passes[0], (headed.config.vision_config.image_size // 8) ** 2, 32)
    with flop_counter() as count:
        headed.head(hidden)
    assert price(pooled.trace, costs).auxiliary == count.get_total_flops() > 0


def test_a_run_with_the_pooling_head(headed):
    answers = list(headed.answer(video_clips(), POOLED, EncodeCache(POOLED.needs())))
    assert all(answer.error is None for answer in answers)
    assert all(0.3 < a.trace.visual_tokens_out / a.trace.visual_tokens_in <= 0.5 for a in answers)


@pytest.mark.parametrize(
    ("family", "width", "message"),
    [
        ("llava", 32, "no pooling head fits LLaVA-1.5, whose vision tower is no SigLIP; take it out"),
        ("llava_onevision", 64, "reads patches of width 64, but this model's tower makes them of width 32"),
    ],
)
def test_a_head_that_does_not_fit(checkpoints, tmp_path, family, width, message):
    vision = {"image_size": 40, "patch_size": 8, **TOWER, "hidden_size": width}
    SiglipConfig(vision_config=vision).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        Evaluation(MLLM(checkpoint=str(checkpoints[family]), auxiliary={"siglip": str(tmp_path)}), {"full": []})


def test_pooling_without_a_head_names_the_way_out(checkpoints):
    arms = {"mine": list(POOLED.compressors)}
    with pytest.raises(UserError, match=r"mine: .* add model\.mllm\.auxiliary: {siglip: FOLDER_OR_ID}"):
        Evaluation(MLLM(checkpoint=str(checkpoints["llava_onevision"])), arms)
    with pytest.raises(UserError, match=r"mine: .* vision tower is no SigLIP"):
        Evaluation(MLLM(checkpoint=str(checkpoints["qwen2_vl"])), arms)
