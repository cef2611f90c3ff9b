"""How a config names the frozen model and how it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MLLM:
    """The frozen multimodal LLM.

    Args:
        checkpoint: `shapes` (the embedded model), a local folder, or a Hugging Face hub id.
        revision: Branch, tag or commit of a hub id.
        dtype: Precision of the weights; `auto` takes the checkpoint's own.
        attn_implementation: Attention kernel of transformers.
        quantization: Loads 8- or 4-bit weights, through bitsandbytes.
        device_map: Spreads a model over several devices, through accelerate: `auto`, or another of its names.
        batch_size: Prompts that go through the LLM together; never changes an answer. By default 8, but
            1 on a CPU, where padding costs more than a batch saves, and with 8-bit weights.
        max_new_tokens: Longest answer.
        trust_remote_code: Runs code that the checkpoint brings along.
        auxiliary: Further encoders that offer evidence the checkpoint lacks, as `{KIND: FOLDER_OR_ID}`: `clip`, whose
            joint space holds patches, frames and texts (`shapes` names the embedded one), and `siglip`, the pooling
            head of a SigLIP tower. Charged to the arms that use them.
    """

    checkpoint: str = "shapes"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    quantization: Literal["8bit", "4bit"] | None = None
    device_map: str | None = None
    batch_size: int | None = None
    max_new_tokens: int = 16
    trust_remote_code: bool = False
    auxiliary: dict[str, str] = field(default_factory=dict)

    def prompts_at_once(self, device: str) -> int:
        """Prompts that go through the LLM together on such a device: as set, or what serves it best."""
        one_by_one = device == "cpu" or self.quantization == "8bit"
        return self.batch_size or (1 if one_by_one else 8)

    @property
    def is_placed(self) -> bool:
        """Whether loading puts the weights where they stay, so that nobody may move them."""
        return self.device_map is not None or self.quantization is not None
