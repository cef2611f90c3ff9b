"""A prompt as a list of tokens, edited one by one."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tokenlab.compressors.evidence import ProjectorInput, TokenEmbeddings
from tokenlab.reduction import Reduction
from tokenlab.tokens import VisualTokens


@dataclass
class Token:
    """One place of the sequence.

    Attributes:
        position: One number, or three under M-RoPE.
        home: Its position in the untouched sequence.
        slot: Its place in the medium's tokens; None for text.
        frame: For text that belongs to a frame, its medium and which.
        run: For visual tokens, which run without text between they are in.
        deep: What later layers add to it.
        medium: For visual tokens, whose they are.
        size: How many tokens it stands for, since a method that weighs by that has cut.
    """

    value: Tensor
    position: list[int]
    home: list[int]
    slot: int | None = None
    frame: tuple[int, int] | None = None
    run: int | None = None
    deep: list[Tensor] = field(default_factory=list)
    medium: int | None = None
    size: float = 1.0


def cut(
    sequence: list[Token],
    original: list[Token],
    media: list[VisualTokens],
    number: int,
    reduction: Reduction,
    method,
    project=None,
) -> tuple[list[Token], list[VisualTokens]]:
    """One medium reduced; with `project`, merged tokens are merged before the projector."""
    left = shrink(media[number], reduction)
    if project is not None:
        before = zip(left.values, left.evidence[ProjectorInput()], reduction.lengths.tolist(), strict=True)
        values = torch.stack([project(read[None])[0] if merged else value for value, read, merged in before])
        left = replace(left, values=values, evidence={**left.evidence, TokenEmbeddings("llm"): values})
    sequence = edit(sequence, original, (media[number], left), number, reduction, method)
    return sequence, [left if i == number else each for i, each in enumerate(media)]


def shrink(tokens: VisualTokens, reduction: Reduction) -> VisualTokens:
    """The tokens that are left, with their places and evidence."""
    evidence = {k: dense(reduction, v, k.combine) if k.per_token else v for k, v in tokens.evidence.items()}
    values, places = dense(reduction, tokens.values), tokens.places[reduction.anchor]
    tag = reduction.tag if reduction.tag is not None else None if tokens.tag is None else tokens.tag[reduction.anchor]
    return replace(tokens, values=values, places=places, evidence=evidence, tag=tag)


def edit(
    sequence: list[Token],
    original: list[Token],
    tokens: tuple[VisualTokens, VisualTokens],
    medium: int,
    reduction: Reduction,
    method,
) -> list[Token]:
    """The sequence after one medium's reduction, built token by token; `tokens` are the medium's before and after."""
    (before, left), anchors = tokens, reduction.anchor.tolist()
    slotted = {token.slot: token for token in sequence if token.slot is not None and token.medium == medium}
    depth = len(slotted[0].deep)
    deep = [dense(reduction, torch.stack([slotted[s].deep[k] for s in range(len(slotted))])) for k in range(depth)]
    alive = {int(before.frame[anchor]) for anchor in anchors}
    stands = standing(anchors, {slot: token.run for slot, token in slotted.items()}, method.order, sequence, medium)
    weighs = getattr(method, "proportional_attention", False) or any(token.size != 1 for token in sequence)
    sizes = torch.tensor([slotted[slot].size for slot in range(len(slotted))])
    sizes = dense(reduction, sizes, "sum").tolist() if weighs else [1.0] * len(anchors)
    edited = []
    for token in sequence:
        if token.slot is None and token.medium == medium and method.separators == "drop":
            continue
        if token.slot is None or token.medium != medium:
            orphaned = token.frame is not None and token.frame[0] == medium and token.frame[1] not in alive
            if not (orphaned and method.separators != "keep"):
                edited.append(replace(token))
            continue
        for slot in stands.get(token.slot, []):
            added = [layer[slot] for layer in deep]
            own = {"value": left.values[slot], "slot": slot, "deep": added, "size": sizes[slot]}
            edited.append(replace(slotted[anchors[slot]], **own))
    if method.positions == "renumber":
        renumber(edited, original)
    return edited


def standing(anchors: list[int], runs: dict[int, int], order: str, sequence, medium: int) -> dict[int, list[int]]:
    """For each kept place, the slots that stand there.

    Slots stand at their anchors; where a method ranks, those of a run fill the run's kept places in the method's order.
    """
    along = {token.slot: index for index, token in enumerate(sequence) if token.medium == medium}
    stands: dict[int, list[int]] = {}
    for run in dict.fromkeys(runs.values()):
        slots = [slot for slot, anchor in enumerate(anchors) if runs[anchor] == run]
        places = sorted((anchors[slot] for slot in slots), key=along.__getitem__)
        if order == "raster":
            slots.sort(key=lambda slot: along[anchors[slot]])
        for place, slot in zip(places, slots, strict=True):
            stands.setdefault(place, []).append(slot)
    return stands


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
    return torch.stack(rows) if rows else values[:0]
