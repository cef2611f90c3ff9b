"""What of `generate` reduced prompts can have: one sequence a prompt, a growing cache, the prompt read at once.

The two tables name every field of a `GenerationConfig` and every argument of `generate` in the supported releases of
transformers. A name that a later release adds is in neither: it is refused where it is set, until somebody tries it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from transformers import GenerationConfig, GenerationMixin

from tokenlab.errors import UserError


class Refusal(NamedTuple):
    """Why something cannot be had with reduced prompts, and which of its values ask for nothing."""

    reason: str
    harmless: tuple[Any, ...] = ()


_CACHE = Refusal("a cache of its own, but the prompt that it would hold is not the one that is read")
_ASSISTED = Refusal("assisted decoding, which feeds several tokens at a time", (False,))
_GUIDANCE = Refusal("guidance by a second prompt, which nothing reduces")
_BEAMS = Refusal("several sequences a prompt, but prompts are reduced one sequence each", (0, 1))

REFUSED = {
    "use_cache": Refusal(
        "without a cache transformers takes gaps in the positions of a reduced prompt for packed documents, and "
        "answers differently in silence",
        (True,),
    ),
    "cache_implementation": Refusal(
        "a cache of this kind, but layers that read fewer tokens need one that grows", ("dynamic",)
    ),
    "cache": _CACHE,
    "past_key_values": _CACHE,
    "prefill_chunk_size": Refusal("chunked prefill, but methods look at the whole prompt"),
    "inputs_embeds": Refusal("a prompt of embeddings, in which nothing tells visual tokens from text"),
    "position_ids": Refusal("positions of its own, but which of them are left is the pipeline's to say"),
    "custom_generate": Refusal("decoding of its own, whose calls of the model are not known"),
    "assistant_model": _ASSISTED,
    "assistant_early_exit": _ASSISTED,
    "prompt_lookup_num_tokens": _ASSISTED,
    "speculation_type": _ASSISTED,
    "use_mtp": _ASSISTED,
    "penalty_alpha": Refusal("contrastive search, which goes back over the cache"),
    "dola_layers": Refusal("DoLa, which reads the layers side by side"),
    "constraints": Refusal("constrained beam search, but prompts are reduced one sequence each"),
    "force_words_ids": Refusal("constrained beam search, but prompts are reduced one sequence each"),
    "is_assistant": Refusal("an assistant's decoding, which stops where it is not sure", (False,)),
    "token_healing": Refusal("token healing, which rewrites the prompt", (False,)),
    "guidance_scale": Refusal(_GUIDANCE.reason, (1, 1.0)),
    "negative_prompt_ids": _GUIDANCE,
    "negative_prompt_attention_mask": _GUIDANCE,
    "synced_gpus": Refusal("further steps for other processes' sake, which a trace would count", (False,)),
}
"""What cannot be had, by the name of an argument or of a field of a generation config."""

SEQUENCES = {"num_beams": _BEAMS, "num_return_sequences": _BEAMS, "num_beam_groups": _BEAMS}
"""What somebody else's call may ask for besides; the bench asks for one sequence itself."""

WORKS = frozenset(
    """
    inputs generation_config logits_processor stopping_criteria prefix_allowed_tokens_fn streamer
    max_length max_new_tokens min_length min_new_tokens max_time stop_strings
    do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff renormalize_logits
    repetition_penalty encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    sequence_bias suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty watermarking_config
    return_dict_in_generate output_scores output_logits output_attentions output_hidden_states
    pad_token_id bos_token_id eos_token_id decoder_start_token_id
    """.split()  # noqa: SIM905 - as a table
)
"""What is as it is without tokenlab; what penalties look at is the reduced prompt."""

WITHOUT_EFFECT = frozenset(
    """
    early_stopping length_penalty diversity_penalty low_memory
    cache_config max_cache_len compile_config disable_compile continuous_batching_config
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    assistant_lookbehind target_lookbehind assistant_ensemble_weight max_matching_ngram_size
    _from_model_config transformers_version
    """.split()  # noqa: SIM905 - as a table
)
"""What says something only of that which is refused, or nothing at all."""


@cache
def generate_names() -> frozenset[str]:
    """The fields of a generation config and the arguments of `generate`, as the installed transformers has them."""
    arguments = inspect.signature(vars(GenerationMixin)["generate"]).parameters
    return frozenset({*vars(GenerationConfig()), *arguments} - {"self", "kwargs"})


def check_decoding(settings: Mapping[str, Any], where: str) -> None:
    """Raises UserError for decoding that reduced prompts cannot have; `where` names what asks for it."""
    _check(settings, where, REFUSED)


def check_call(settings: Mapping[str, Any], where: str) -> None:
    """Raises the same for a call of `generate` that is somebody else's, which may ask for several sequences as well."""
    _check(settings, where, REFUSED | SEQUENCES)


def _check(settings: Mapping[str, Any], where: str, refused: Mapping[str, Refusal]) -> None:
    for name, rule in refused.items():
        value = settings.get(name)
        if value is not None and not _is_harmless(value, rule.harmless):
            shown = f"{name}={value!r}" if isinstance(value, str | int | float) else name
            raise UserError(f"{where} asks for {shown}: {rule.reason}; take {name} out")
    for name in sorted(generate_names() - WORKS - WITHOUT_EFFECT - set(REFUSED) - set(SEQUENCES)):
        if settings.get(name) is not None:
            raise UserError(f"{where} asks for {name}, which nobody tried with reduced prompts; take {name} out")


def _is_harmless(value: Any, harmless: tuple[Any, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in harmless)
