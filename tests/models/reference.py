"""An independent reference: edits the sequence by hand, one sample at a time, no cache, no hooks.

It imports nothing from `tokenlab.models`; a method's decision is taken from the method itself, everything that follows
from the decision is done again here, with plain loops and dense matrices.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tests.models import in_tower
from tests.models.by_hand import Checkpoint
from tests.models.dense import dense
from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import (
    CacheReduction,
    FrameSelection,
    FrameView,
    GridReduction,
    GridView,
    LayerReduction,
    TowerReduction,
    seeded_generator,
)
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings, TowerAttention, TowerKeys
from tokenlab.tensors import Evidence, Reduction, VisualTokens

ATTENTION, KEYS = TowerAttention(layer=-2, query="cls_or_mean"), TowerKeys(layer=-2)


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


class Reference(Checkpoint):
    """A checkpoint, asked by hand."""

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
        inputs = self.inputs(frames, question)
        sequence, tokens = self._sequence(inputs, question)
        original = [replace(token) for token in sequence]
        for method in pipeline.at(TowerReduction):
            noise = seeded_generator(seed, method.name, uid.split("#")[0])
            left = in_tower.look(self, inputs, method, noise, ATTENTION, KEYS, ATTENTION.layer)
            sequence, tokens = behind_tower(sequence, original, tokens, left, method)
        for method in pipeline.at(GridReduction):
            reduction = method.reduce_grid(GridView(tokens, question, seeded_generator(seed, method.name, uid)))
            sequence = edit(sequence, original, tokens, reduction, method.positions, method.separators)
            tokens = shrink(tokens, reduction)
        if pipeline.at(LayerReduction) or pipeline.at(CacheReduction):
            from tests.models.inside import Inside

            return Inside(self, pipeline, uid, seed).greedy(sequence, original, tokens, new_tokens)
        return self._greedy(sequence, new_tokens)

    def _sequence(self, inputs, question: str) -> tuple[list[Token], VisualTokens]:
        """Text and visual tokens in order, each with its position; and the visual ones on their grid."""
        ids, seen, positions = inputs["input_ids"][0].tolist(), self.look(inputs), self.positions(inputs)
        embedded = self.model.get_input_embeddings()(inputs["input_ids"][0])
        sequence, row, slot, run = [], 0, 0, 0
        for index, token in enumerate(ids):
            position = positions[:, index].tolist()
            if token != self.placeholder:
                sequence.append(Token(embedded[index], position, position))
                run += index > 0 and ids[index - 1] == self.placeholder
                continue
            deep, on_grid = [layer[row] for layer in seen.deep], bool(seen.on_grid[row])
            value = seen.features[row]
            sequence.append(Token(value, position, position, slot if on_grid else None, run=run, deep=deep))
            row, slot = row + 1, slot + on_grid
        assert row == len(seen.features)
        self._mark(sequence, seen.grid)
        words = self.processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        values = seen.features[seen.on_grid]
        evidence: dict[Evidence, Tensor] = {
            TokenEmbeddings("llm"): values,
            QuestionEmbeddings("llm"): self.model.get_input_embeddings()(words),
            ATTENTION: self.attention(inputs, ATTENTION.layer, seen.grid),
            KEYS: self.keys(inputs, KEYS.layer, seen.grid),
        }
        return sequence, VisualTokens.from_grid(values.reshape(*seen.grid, -1), evidence)

    def _mark(self, sequence: list[Token], grid: tuple[int, int, int]) -> None:
        """Says of text between frames which of them it belongs to."""
        per_frame = grid[1] * grid[2]
        firsts = [next(i for i, t in enumerate(sequence) if t.slot == frame * per_frame) for frame in range(grid[0])]
        if grid[0] == 1 or any(token.run is not None for token in sequence[firsts[0] + per_frame : firsts[1]]):
            return
        between = firsts[1] - firsts[0] - per_frame
        for frame, first in enumerate(firsts):
            before = first - firsts[frame - 1] - per_frame if frame else between - self.following
            opening, end = before - self.closing, first + per_frame
            for token in sequence[first - opening : first] + sequence[end : end + min(self.closing, between)]:
                token.frame = frame

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
            hidden = self.model.model.get_decoder()(
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


def behind_tower(
    sequence: list[Token], original: list[Token], tokens: VisualTokens, left: in_tower.Left, method: TowerReduction
) -> tuple[list[Token], VisualTokens]:
    """The sequence with what the tower left, slot by slot."""
    gone = Reduction.keep(left.home, tokens.num_tokens)
    sequence = edit(sequence, original, tokens, gone, method.positions, method.separators)
    evidence = {**tokens.evidence, TokenEmbeddings("llm"): left.features}
    tokens = replace(shrink(tokens, gone), values=left.features)
    tokens = replace(tokens, evidence={**evidence, **left.evidence})
    outside = iter(left.class_tokens)
    for token in sequence:
        if token.slot is not None:
            token.value = left.features[token.slot]
        elif token.run is not None:
            token.value = next(outside)
    return sequence, tokens


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
