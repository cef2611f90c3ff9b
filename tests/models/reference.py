"""An independent reference: edits the sequence by hand, one sample at a time, no cache, no hooks.

It imports nothing from `tokenlab.models`; a method's decision is taken from the method itself, everything that follows
from the decision is done again here, with plain loops and dense matrices.
"""

import sys
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import FrameSelection, FrameView, GridView, seeded_generator
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings, TowerAttention
from tokenlab.tensors import Evidence, Reduction, VisualTokens

ATTENTION = TowerAttention(layer=-2, query="cls_or_mean")


@dataclass
class Token:
    """One place of the sequence.

    Attributes:
        position: One number, or three under M-RoPE.
        home: Its position in the untouched sequence.
        slot: Its place in the medium's tokens; None for text.
        frame: For text that belongs to a frame, which.
        run: For visual tokens, which run without text between they are in.
        deep: What later layers add to it.
    """

    value: Tensor
    position: list[int]
    home: list[int]
    slot: int | None = None
    frame: int | None = None
    run: int | None = None
    deep: list[Tensor] = field(default_factory=list)


class Reference:
    """A checkpoint, asked by hand."""

    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.eager = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.kind = self.model.config.model_type
        self.frames_as_images = self.kind == "llava"

    # --- the prompt, as the checkpoint's own processor writes it -------------------------------------------------

    def inputs(self, frames, question: str) -> dict[str, Tensor]:
        """Processor output for the whole prompt."""
        marker = getattr(self.model.config, "frame_text", "")
        content = [{"type": "video"}]
        if self.frames_as_images:
            content = []
            for number in frames.numbers:
                content += [{"type": "text", "text": marker.format(number=number + 1)}] if marker else []
                content += [{"type": "image"}]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if self.frames_as_images:
            return self.processor(text=[text], images=list(frames.pixels), return_tensors="pt")
        pixels, numbers = frames.pixels, list(frames.numbers)
        if self.kind == "qwen3_vl" and len(numbers) == 1:  # its processor refuses one frame
            pixels, numbers = pixels[[0, 0]], numbers * 2
        gap = 24.0 if len(numbers) == 1 or numbers[0] == numbers[-1] else None
        rate = gap or (numbers[-1] - numbers[0]) / float(frames.seconds[-1] - frames.seconds[0])
        mean_gap = 1 / 24 if len(numbers) == 1 else float(frames.seconds[-1] - frames.seconds[0]) / (len(numbers) - 1)
        total = max(1, round(rate * mean_gap * len(numbers)))
        metadata = {"total_num_frames": total, "fps": rate, "duration": total / rate, "frames_indices": numbers}
        return self.processor(
            text=[text], videos=[pixels], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
        )

    @torch.no_grad()
    def plain(self, frames, question: str, new_tokens: int) -> list[int]:
        """Untouched greedy `generate`."""
        inputs = self.inputs(frames, question)
        output = self.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    # --- the same prompt, reduced by hand ------------------------------------------------------------------------

    @torch.no_grad()
    def reduced(self, frames, question: str, uid: str, pipeline: Pipeline, new_tokens: int, seed: int = 0) -> list[int]:
        """The pipeline's answer, token by token, each from a whole new forward."""
        for method in pipeline.at(FrameSelection):
            generator = seeded_generator(seed, method.name, uid)
            view = FrameView(len(frames.numbers), torch.from_numpy(frames.seconds), question, {}, generator)
            chosen = method.select_frames(view).anchor.tolist()
            numbers = tuple(frames.numbers[i] for i in chosen)
            frames = replace(frames, pixels=frames.pixels[chosen], numbers=numbers, seconds=frames.seconds[chosen])
        sequence, tokens = self._sequence(self.inputs(frames, question), question)
        original = [replace(token) for token in sequence]
        for method in pipeline.active:
            if isinstance(method, FrameSelection):
                continue
            reduction = method.reduce_grid(GridView(tokens, question, seeded_generator(seed, method.name, uid)))
            sequence = edit(sequence, original, tokens, reduction, method.positions, method.separators)
            tokens = shrink(tokens, reduction)
        return self._greedy(sequence, new_tokens)

    def _sequence(self, inputs, question: str) -> tuple[list[Token], VisualTokens]:
        """Text and visual tokens in order, each with its position; and the visual ones on their grid."""
        config, ids = self.model.config, inputs["input_ids"][0]
        embedded = self.model.get_input_embeddings()(ids)
        placeholder = config.image_token_id if self.frames_as_images else config.video_token_id
        features, deep = self._features(inputs)
        grid = self._grid(inputs, features.shape[0])
        positions = self._positions(inputs)
        sequence, seen, run = [], 0, 0
        for index, token in enumerate(ids.tolist()):
            position = positions[:, index].tolist()
            if token != placeholder:
                sequence.append(Token(embedded[index], position, position))
                run += bool(index and ids[index - 1] == placeholder)
                continue
            slot = seen if seen < grid[0] * grid[1] * grid[2] else None
            sequence.append(
                Token(features[seen], position, position, slot, run=run, deep=[layer[seen] for layer in deep])
            )
            seen += 1
        self._mark(sequence, grid)
        words = self.processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        values = features[: grid[0] * grid[1] * grid[2]]
        evidence: dict[Evidence, Tensor] = {
            TokenEmbeddings("llm"): values,
            QuestionEmbeddings("llm"): self.model.get_input_embeddings()(words),
            ATTENTION: self._attention(inputs),
        }
        return sequence, VisualTokens.from_grid(values.reshape(*grid, -1), evidence)

    def _features(self, inputs) -> tuple[Tensor, list[Tensor]]:
        core = self.model.model
        if self.frames_as_images:
            return torch.cat(core.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output), []
        asked = {"video_grid_thw": inputs["video_grid_thw"]} if "video_grid_thw" in inputs else {}
        output = core.get_video_features(inputs["pixel_values_videos"], **asked, return_dict=True)
        deep = [layer[0] for layer in getattr(output, "deepstack_features", None) or []]
        return output.pooler_output[0], deep

    def _grid(self, inputs, num_features: int) -> tuple[int, int, int]:
        if "video_grid_thw" in inputs:
            frames, rows, columns = inputs["video_grid_thw"][0].tolist()
            return frames, rows // 2, columns // 2
        frames = len(inputs["pixel_values"]) if self.frames_as_images else inputs["pixel_values_videos"].shape[1]
        side = int((num_features // frames) ** 0.5)
        return frames, side, side

    def _positions(self, inputs) -> Tensor:
        """One row, or three under M-RoPE."""
        if not self.kind.startswith("qwen"):
            return torch.arange(inputs["input_ids"].shape[1])[None]
        names = ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        positions, _ = self.model.model.get_rope_index(
            inputs["input_ids"], **{name: inputs[name] for name in names if name in inputs}
        )
        return positions[:, 0]

    def _mark(self, sequence: list[Token], grid: tuple[int, int, int]) -> None:
        """Says of text between frames which of them it belongs to."""
        per_frame = grid[1] * grid[2]
        firsts = [next(i for i, t in enumerate(sequence) if t.slot == frame * per_frame) for frame in range(grid[0])]
        if grid[0] == 1 or firsts[1] == firsts[0] + per_frame:
            return
        between = firsts[1] - firsts[0] - per_frame
        closing = 1 if self.kind == "qwen3_vl" else 0  # <|vision_end|> closes a frame
        for frame, first in enumerate(firsts):
            opening = between - closing if frame == 0 else first - firsts[frame - 1] - per_frame - closing
            for token in sequence[first - opening : first] + sequence[first + per_frame : first + per_frame + closing]:
                token.frame = frame

    def _attention(self, inputs) -> Tensor:
        """The tower's attention maps, worked out from its own projections in plain sight."""
        if self.kind.startswith("qwen"):
            return self._packed_attention(inputs)
        tower = self.eager.model.vision_tower
        pixels = inputs["pixel_values"] if self.frames_as_images else inputs["pixel_values_videos"][0]
        maps = tower(pixels, output_attentions=True).attentions[ATTENTION.layer].mean(1)  # frames, queries, keys
        if self.frames_as_images:
            return maps[:, 0, 1:].flatten()
        return self.eager.model.apply_pooling(maps.mean(1)[..., None]).flatten()

    def _packed_attention(self, inputs) -> Tensor:
        """Records the weights of the eager kernel, segment by segment, and brings them to the raster."""
        visual = self.eager.model.visual
        module = sys.modules[type(visual).__module__]
        kernel, received = module.eager_attention_forward, []

        def recording(layer, *args, **kwargs):
            output, weights = kernel(layer, *args, **kwargs)
            if layer is visual.blocks[ATTENTION.layer].attn:
                received.append(weights[0].mean(0).mean(0))
            return output, weights

        module.eager_attention_forward = recording
        try:
            self.eager.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        finally:
            module.eager_attention_forward = kernel
        merged = torch.cat(received).reshape(-1, 4).mean(1)
        if self.kind != "qwen2_5_vl":
            return merged
        order, _ = (
            visual.get_window_index(inputs["video_grid_thw"]) if hasattr(visual, "get_window_index") else (None, 0)
        )
        if order is None:
            from transformers.vision_utils import get_vision_window_index

            vision = self.eager.config.vision_config
            order, _ = get_vision_window_index(inputs["video_grid_thw"], 2, vision.window_size, vision.patch_size)
        return merged[torch.argsort(torch.as_tensor(order))]

    def _greedy(self, sequence: list[Token], new_tokens: int) -> list[int]:
        values = torch.stack([token.value for token in sequence])
        positions = [token.position for token in sequence]
        visual = [bool(token.deep) for token in sequence]
        layers = zip(*(token.deep for token in sequence if token.deep), strict=True)
        deep = [torch.stack(layer) for layer in layers]
        answer = []
        for _ in range(new_tokens):
            ids = torch.tensor(positions).T
            extra = {}
            if deep:
                mask = torch.tensor([visual + [False] * len(answer)])
                extra = {"visual_pos_masks": mask, "deepstack_visual_embeds": deep}
            hidden = self.model.model.language_model(
                inputs_embeds=values[None],
                position_ids=ids if len(ids) == 1 else ids[:, None],
                attention_mask=torch.ones(1, len(positions), dtype=torch.long),
                use_cache=False,
                **extra,
            )[0]
            answer.append(int(self.model.lm_head(hidden[0, -1]).argmax()))
            if answer[-1] == self.model.generation_config.eos_token_id:
                break
            values = torch.cat([values, self.model.get_input_embeddings()(torch.tensor(answer[-1:]))])
            positions.append([number + 1 for number in positions[-1]])
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


def shrink(tokens: VisualTokens, reduction: Reduction) -> VisualTokens:
    """The tokens that are left, with their places and evidence."""
    evidence = {k: dense(reduction, v, k.combine) if k.per_token else v for k, v in tokens.evidence.items()}
    values, places = dense(reduction, tokens.values), tokens.places[reduction.anchor]
    return replace(tokens, values=values, places=places, evidence=evidence)


def edit(
    sequence: list[Token],
    original: list[Token],
    tokens: VisualTokens,
    reduction: Reduction,
    positions: str,
    separators: str,
) -> list[Token]:
    """The sequence after one reduction, built token by token."""
    values, anchors = dense(reduction, tokens.values), reduction.anchor.tolist()
    slotted = {token.slot: token for token in sequence if token.slot is not None}
    depth = len(slotted[0].deep)
    deep = [dense(reduction, torch.stack([slotted[s].deep[k] for s in range(len(slotted))])) for k in range(depth)]
    alive = {int(tokens.frame[anchor]) for anchor in anchors}
    edited = []
    for token in sequence:
        if token.slot is None:
            orphaned = token.frame is not None and token.frame not in alive
            if not (orphaned and separators == "follow"):
                edited.append(replace(token))
            continue
        for slot, anchor in enumerate(anchors):
            if anchor == token.slot:
                added = [layer[slot] for layer in deep]
                edited.append(Token(values[slot], token.position, token.home, slot, run=token.run, deep=added))
    if positions == "renumber":
        renumber(edited, original)
    return edited


def renumber(edited: list[Token], original: list[Token]) -> None:
    """Closes the gaps: token by token on one axis, run by run under M-RoPE."""
    free = max(original[0].position)
    if len(original[0].position) == 1:
        for index, token in enumerate(edited):
            token.position = [free + index]
        return
    index = 0
    while index < len(edited):
        run = edited[index].run
        if run is None:
            edited[index].position = [free] * 3
            free += 1
            index += 1
            continue
        whole = [token.position for token in original if token.run == run]
        left = [i for i in range(index, len(edited)) if edited[i].run == run]
        origin = whole[0]
        times = sorted({t - origin[0] for t, _, _ in whole})
        kept = sorted({edited[i].home[0] - origin[0] for i in left})
        for i in left:
            t, h, w = (axis - start for axis, start in zip(edited[i].home, origin, strict=True))
            edited[i].position = [free + times[kept.index(t)], free + h, free + w]
        free += max(max(edited[i].home[1] - origin[1], edited[i].home[2] - origin[2]) for i in left) + 1
        index = left[-1] + 1
