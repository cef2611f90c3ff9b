"""An independent reference: edits the sequence by hand, one sample at a time, no cache, no hooks.

It imports nothing from `tokenlab.models`; a method's decision is taken from the method itself, everything that follows
from the decision is done again here, with plain loops and dense matrices.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import FrameSelection, FrameView, GridView, seeded_generator
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings
from tokenlab.tensors import Reduction, VisualTokens


@dataclass
class Token:
    """One place of the sequence; `slot` is None for text, and `frame` says to which frame a marker belongs."""

    value: Tensor
    position: int
    slot: int | None = None
    frame: int | None = None


class Reference:
    """A checkpoint, asked by hand."""

    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.eager = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.is_video = self.model.config.model_type == "llava_onevision"

    def inputs(self, pixels, numbers, question: str) -> dict[str, Tensor]:
        """The checkpoint's own processor on the whole prompt."""
        marker = getattr(self.model.config, "frame_text", "")
        content = []
        for number in numbers:
            if marker and not self.is_video:
                content.append({"type": "text", "text": marker.format(number=number + 1)})
            if not self.is_video:
                content.append({"type": "image"})
        if self.is_video:
            content.append({"type": "video"})
        content.append({"type": "text", "text": question})
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if self.is_video:
            return self.processor(text=[text], videos=[pixels], do_sample_frames=False, return_tensors="pt")
        return self.processor(text=[text], images=list(pixels), return_tensors="pt")

    @torch.no_grad()
    def plain(self, pixels, numbers, question: str, new_tokens: int) -> list[int]:
        """Untouched greedy `generate`."""
        inputs = self.inputs(pixels, numbers, question)
        output = self.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    @torch.no_grad()
    def reduced(self, frames, question: str, uid: str, pipeline: Pipeline, new_tokens: int, seed: int = 0) -> list[int]:
        """The pipeline's answer, token by token, each from a whole new forward."""
        pixels, numbers, seconds = frames.pixels, list(frames.numbers), frames.seconds
        for method in pipeline.at(FrameSelection):
            view = FrameView(
                len(numbers), torch.from_numpy(seconds), question, {}, seeded_generator(seed, method.name, uid)
            )
            chosen = method.select_frames(view).anchor.tolist()
            pixels, seconds, numbers = pixels[chosen], seconds[chosen], [numbers[i] for i in chosen]
        inputs = self.inputs(pixels, numbers, question)
        sequence, tokens = self._sequence(inputs, len(numbers), question)
        for method in pipeline.active:
            if isinstance(method, FrameSelection):
                continue
            reduction = method.reduce_grid(GridView(tokens, question, seeded_generator(seed, method.name, uid)))
            sequence = edit(sequence, tokens, reduction, method.positions, method.separators)
            evidence = {
                key: dense(reduction, value, key.combine) if key.per_token else value
                for key, value in tokens.evidence.items()
            }
            tokens = replace(
                tokens,
                values=dense(reduction, tokens.values),
                places=tokens.places[reduction.anchor],
                evidence=evidence,
            )
        return self._greedy(sequence, new_tokens)

    def _sequence(self, inputs, num_frames: int, question: str) -> tuple[list[Token], VisualTokens]:
        config, core = self.model.config, self.model.model
        ids = inputs["input_ids"][0]
        embedded = self.model.get_input_embeddings()(ids)
        if self.is_video:
            features = core.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output[0]
            grid_values, placeholder = features[:-1], config.video_token_id
        else:
            features = torch.cat(core.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output)
            grid_values, placeholder = features, config.image_token_id
        per_frame = grid_values.shape[0] // num_frames
        side = round(per_frame**0.5)
        marker_length = 0 if self.is_video or not getattr(config, "frame_text", "") else 1
        sequence, seen = [], 0
        for position, token in enumerate(ids.tolist()):
            if token == placeholder:
                slot = seen if seen < grid_values.shape[0] else None
                sequence.append(Token(features[seen], position, slot))
                seen += 1
            else:
                sequence.append(Token(embedded[position], position))
        if marker_length:  # the word before each frame's first token
            for frame in range(num_frames):
                first = next(i for i, token in enumerate(sequence) if token.slot == frame * per_frame)
                sequence[first - 1].frame = frame
        words = self.processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        evidence = {
            TokenEmbeddings("llm"): grid_values,
            QuestionEmbeddings("llm"): self.model.get_input_embeddings()(words),
            **{need: self._attention(inputs, need.layer) for need in _attention_needs()},
        }
        values = grid_values.reshape(num_frames, side, side, -1)
        return sequence, VisualTokens.from_grid(values, evidence)

    def _attention(self, inputs, layer: int) -> Tensor:
        """The tower's attention maps, by the eager kernel."""
        tower = self.eager.model.vision_tower
        pixels = inputs["pixel_values_videos"][0] if self.is_video else inputs["pixel_values"]
        maps = tower(pixels, output_attentions=True).attentions[layer].mean(1)  # frames, queries, keys
        if not self.is_video:
            return maps[:, 0, 1:].flatten()
        return self.eager.model.apply_pooling(maps.mean(1)[..., None]).flatten()

    def _greedy(self, sequence: list[Token], new_tokens: int) -> list[int]:
        values = torch.stack([token.value for token in sequence])
        positions = [token.position for token in sequence]
        answer = []
        for _ in range(new_tokens):
            hidden = self.model.model.language_model(
                inputs_embeds=values[None],
                position_ids=torch.tensor([positions]),
                attention_mask=torch.ones(1, len(positions), dtype=torch.long),
                use_cache=False,
            )[0]
            answer.append(int(self.model.lm_head(hidden[0, -1]).argmax()))
            if answer[-1] == self.model.generation_config.eos_token_id:
                break
            values = torch.cat([values, self.model.get_input_embeddings()(torch.tensor(answer[-1:]))])
            positions.append(positions[-1] + 1)
        return answer


def dense(reduction: Reduction, values: Tensor, combine: str = "weights") -> Tensor:
    """Applies a reduction slot by slot."""
    rows, start = [], 0
    for anchor, length in zip(reduction.anchor.tolist(), reduction.lengths.tolist(), strict=True):
        members = reduction.member[start : start + length].tolist()
        weights = reduction.weight[start : start + length].tolist()
        start += length
        if not members:
            rows.append(values[anchor])
            continue
        if combine != "weights":
            weights = [1.0 if combine == "sum" else 1.0 / length] * length
        rows.append(sum(weight * values[member] for member, weight in zip(members, weights, strict=True)))
    return torch.stack(rows)


def edit(
    sequence: list[Token], tokens: VisualTokens, reduction: Reduction, positions: str, separators: str
) -> list[Token]:
    """The sequence after one reduction, built token by token."""
    values = dense(reduction, tokens.values)
    anchors = reduction.anchor.tolist()
    alive = {int(tokens.frame[anchor]) for anchor in anchors}
    edited = []
    for token in sequence:
        if token.slot is None:
            orphaned = token.frame is not None and token.frame not in alive
            if not (orphaned and separators == "follow"):
                edited.append(replace(token))
        else:
            for slot, anchor in enumerate(anchors):
                if anchor == token.slot:
                    edited.append(Token(values[slot], token.position, slot))
    if positions == "renumber":
        for position, token in enumerate(edited):
            token.position = position
    return edited


def _attention_needs():
    from tokenlab.compressors.evidence import TowerAttention

    return (TowerAttention(layer=-2, query="cls_or_mean"),)
