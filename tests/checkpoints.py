"""Tiny random checkpoints of every family, with real processors: built from configs, no download.

Weights are drawn wide, so that the answers change when tokens go.
"""

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor

from tokenlab.shapes.network import llava_config, llava_processor, tokenizer

ANSWER_TOKENS = 6


def save_llava(folder: Path) -> None:
    """LLaVA-1.5's class: CLIP with [CLS], frames as images with the world's timestamps between them."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=64,
            patch_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
        ),
        image_token_index=llava_config().image_token_id,
        vision_feature_layer=-2,
    )
    config.frame_text = "f{number}"
    processor = llava_processor()
    processor.patch_size = 16
    _save(LlavaForConditionalGeneration(config), processor, folder)


def save_llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision's class: SigLIP without [CLS], pooled frames and one newline in a single run."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<video>"]})
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            image_size=40,
            patch_size=8,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
        ),
        text_config=Qwen2Config(
            vocab_size=len(words),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[40, 40], [40, 80], [80, 40]],
    )
    size = {"height": 40, "width": 40}
    template = (
        "{% for message in messages %} {{ message['role'] }}{% for item in message['content'] %}"
        " {{ '<video>' if item['type'] == 'video' else '<image>' if item['type'] == 'image' else item['text'] }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=config.image_grid_pinpoints),
        tokenizer=words,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    _save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


def _save(model: PreTrainedModel, processor: object, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                width = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2 / width**0.5)
    model.generation_config = GenerationConfig(eos_token_id=3, pad_token_id=0, bos_token_id=1, do_sample=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
