"""What the tiny checkpoints are made of: words, a chat template, sizes of a tower and an LLM, wide weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import GenerationConfig, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from tokenlab.shapes.network import tokenizer

TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def words(*special: str, **named: str) -> Any:
    """The world's words and single digits, with a family's special tokens; named ones become attributes."""
    found: Any = tokenizer()
    found.add_tokens([AddedToken(symbol, normalized=False) for symbol in "0123456789:<>"])
    found.add_tokens(["seconds", "from"])
    found.add_special_tokens({"extra_special_tokens": ["<image>", *special, *named.values()]})
    if not named:
        return found
    return PreTrainedTokenizerFast(
        tokenizer_object=found.backend_tokenizer,
        **{f"{name}_token": getattr(found, f"{name}_token") for name in ("pad", "bos", "unk", "eos")},
        **{f"{name}_token": token for name, token in named.items()},
        padding_side="left",
        model_max_length=found.model_max_length,
        clean_up_tokenization_spaces=False,
    )


def text_config(tokens: PreTrainedTokenizerFast, kind: type = LlamaConfig, **more: Any) -> Any:
    """An LLM of three layers whose heads share keys."""
    ids = {"pad_token_id": tokens.pad_token_id, "bos_token_id": tokens.bos_token_id, "eos_token_id": 3}
    return kind(vocab_size=len(tokens), **{**TEXT, "max_position_embeddings": 2048, **ids, **more})


def template(image: str, video: str = "", start: str = "<bos>") -> str:
    """A chat template for text, images and videos in any order; `image` and `video` are what stands for a medium."""
    return (
        start + "{% for message in messages %} {{ message['role'] }}"
        "{% if message['content'] is string %} {{ message['content'] }}{% else %}{% for item in message['content'] %} "
        f"{{{{ '{video}' if item['type'] == 'video' else '{image}' if item['type'] == 'image' else item['text'] }}}}"
        "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
    )


def save_checkpoint(model: PreTrainedModel, processor: Any, folder: Path, width: float = 2.0) -> None:
    """Draws the weights and writes a checkpoint; `width` is the standard deviation of every matrix's output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 or parameter.min() < parameter.max():  # neither a bias nor a norm's weight
                inputs = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * width / inputs**0.5)
    model.generation_config = GenerationConfig(eos_token_id=3, pad_token_id=0, bos_token_id=1, do_sample=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
