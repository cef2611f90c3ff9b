"""The embedded model's architecture and processor, in stock Hugging Face classes."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokenlab.shapes.questions import THIRDS, VERBS
from tokenlab.shapes.world import COLOURS, DIRECTIONS, EVENTS, NUM_FRAMES, SHAPES, SIZE

PATCH = 8
CLIP_CONTEXT = 48
GRID = SIZE // PATCH
FEATURE_LAYER = -2
"""LLaVA's habit: the features are what the tower's last layer reads."""

SPECIAL = ("<pad>", "<bos>", "<unk>", "<eos>", "<image>")
"""<eos> is not number 2, for which Hugging Face's CLIP pools another token."""

_FILLERS = """
a photo picture image view scene of with and in on there is some this that one shown here small big nice background
at row column near over very old new our my it web page frame video clip still
"""
_WORDS = """
user assistant system what colour shape is the object objects how many are there at start end where which way does
happens to when become first last describe frame ? . , top bottom left right stays 0 1 2 3 4
"""
FILLERS = tuple(_FILLERS.split())
"""Words with which CLIP's phrases are watered down."""

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %} {{ message['role'] }}"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for item in message['content'] %}"
    " {{ '<image>' if item['type'] == 'image' else item['text'] }}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %} <eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
)


def vocabulary() -> list[str]:
    """Every word of the world: its questions, answers, captions and the timestamps `f1` to `f16`."""
    places = [f"{line}{i}" for line in ("row", "column") for i in range(1, GRID + 1)]
    world = [*COLOURS, *SHAPES, *EVENTS, *DIRECTIONS, *THIRDS, *" ".join(VERBS.values()).split(), *places]
    frames = [f"f{i}" for i in range(1, NUM_FRAMES + 1)]
    return list(dict.fromkeys([*SPECIAL, *world, *frames, *_WORDS.split(), *FILLERS]))


def tokenizer(for_clip: bool = False) -> PreTrainedTokenizerFast:
    """Lower-case words; CLIP's adds <bos> and <eos> by itself, LLaVA's leaves them to the chat template."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if for_clip:
        ends = [("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<image>"],
        padding_side="right" if for_clip else "left",
        model_max_length=CLIP_CONTEXT if for_clip else 2048,
        clean_up_tokenization_spaces=False,
    )


def image_processor() -> CLIPImageProcessor:
    """64 x 64 pixels, brought to [-1, 1]."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def clip_config() -> CLIPConfig:
    """A CLIP of 1.3 M parameters."""
    shared = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "projection_dim": 128}
    ids = {word: i for i, word in enumerate(SPECIAL)}
    return CLIPConfig(
        text_config={
            **shared,
            "num_hidden_layers": 2,
            "vocab_size": len(vocabulary()),
            "max_position_embeddings": CLIP_CONTEXT,
            "pad_token_id": ids["<pad>"],
            "bos_token_id": ids["<bos>"],
            "eos_token_id": ids["<eos>"],
        },
        vision_config={**shared, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": PATCH},
        projection_dim=128,
    )


def llava_config() -> LlavaConfig:
    """That CLIP's vision tower, a two-layer projector and a Llama of 1.9 M parameters."""
    ids = {word: i for i, word in enumerate(SPECIAL)}
    special: dict[str, Any] = {f"{name}_token_id": ids[f"<{name}>"] for name in ("pad", "bos", "eos")}
    # Not a key of Hugging Face's: how the bench writes the number of a frame before its image.
    bench_only: dict[str, Any] = {"frame_text": "f{number}"}
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        # 1 / sqrt(192): with the usual 0.02 attention takes many times as long to tie colours to shapes.
        initializer_range=0.07,
        tie_word_embeddings=True,
        **special,
    )
    return LlavaConfig(
        vision_config=clip_config().vision_config,
        text_config=text,
        image_token_index=ids["<image>"],
        image_seq_length=GRID**2,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **special,
        **bench_only,
    )


def llava_processor() -> LlavaProcessor:
    """Images, words and the chat template."""
    return LlavaProcessor(
        image_processor(),
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def new_models(seed: int) -> tuple[CLIPModel, LlavaForConditionalGeneration]:
    """Both models with random weights; LLaVA's vision tower is a copy of CLIP's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIPModel(clip_config())
        llava = LlavaForConditionalGeneration(llava_config())
    layers = llava.model.language_model.layers
    for layer in layers:
        for written in (layer.self_attn.o_proj, layer.mlp.down_proj):
            # What every layer adds to the residual stream starts small, as in GPT-2.
            written.weight.data /= math.sqrt(2 * len(layers))
    share_tower(clip, llava)
    return clip.eval(), llava.eval()


def share_tower(clip: CLIPModel, llava: LlavaForConditionalGeneration) -> None:
    """Copies CLIP's vision tower into LLaVA."""
    llava.model.vision_tower.load_state_dict(clip.vision_model.state_dict())


def save(clip: CLIPModel, llava: LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes `folder/clip` and `folder/llava` as half-precision checkpoints, which load in single precision."""
    folder = Path(folder)
    llava.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=16,
        bos_token_id=llava.config.bos_token_id,
        eos_token_id=llava.config.eos_token_id,
        pad_token_id=llava.config.pad_token_id,
    )
    for name, model in (("clip", clip), ("llava", llava)):
        model.save_pretrained(folder / name)
        _halve(folder / name / "model.safetensors")
    CLIPProcessor(image_processor(), tokenizer(for_clip=True)).save_pretrained(folder / "clip")
    llava_processor().save_pretrained(folder / "llava")


def _halve(path: Path) -> None:
    """Stores fp16 weights under a config which says float32: small on disk, single precision once loaded."""
    weights = {name: weight.half() for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def untrained(folder: Path, seed: int = 0) -> None:
    """Writes a checkpoint of the same layout with random weights."""
    save(*new_models(seed), Path(folder))
