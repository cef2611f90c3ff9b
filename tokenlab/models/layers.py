"""The hooks inside the LLM: prompts lose tokens from layer to layer, and each layer's cache keeps what that layer read.

They come after the hook at the LLM's entry (`entry.py`), and like it leave `generate` as it is. From the first cut on
every layer is given the mask and the rotary embedding of its own sequence, at prefill and at every step after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from tokenlab.compressors.base import CacheReduction, CacheView, Moment
from tokenlab.models.arrangement import left_padded
from tokenlab.models.entry import Entry, Rewrite, reduced_prompts
from tokenlab.models.hf import CACHE
from tokenlab.models.passage import LAST_ATTENTION, Passage, Riders
from tokenlab.models.probes import Kernel, last_attention, probed
from tokenlab.tensors import Evidence


@dataclass(frozen=True)
class Columns:
    """A left-padded batch as some layers read it.

    Attributes:
        mask: Which of its columns are tokens.
        last: Position ids of the last column.
        rotary: Cosines and sines of its positions; None where they are those of the LLM's entry.
        moved: Whether positions were renumbered after the LLM's entry.
    """

    mask: Int[Tensor, "b s"]
    last: Int[Tensor, "*axes b 1"]
    rotary: tuple[Tensor, Tensor] | None = None
    moved: bool = False


@contextmanager
def reduced(
    model: nn.Module, rewrites: Sequence[Rewrite], passages: Sequence[Passage]
) -> Iterator[Callable[[int], None]]:
    """While active, `generate` reads rewritten prompts, cut further on their way; with neither nothing changes.

    Yields what takes back a number of decode steps, for prompts that are rewritten.
    """
    decoder: Any = model.model.get_decoder()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    walked: list[Entry | _Walk] = []
    with ExitStack() as stack:
        if rewrites:
            entry = stack.enter_context(reduced_prompts(decoder, rewrites))
            walked.append(entry)
            if passages:
                walked.append(stack.enter_context(reductions_inside(decoder, entry, passages)))

        def rewind(steps: int) -> None:
            for each in walked:
                each.rewind(steps)

        yield rewind


@contextmanager
def reductions_inside(decoder: nn.Module, entry: Entry, passages: Sequence[Passage]) -> Iterator[_Walk]:
    """While active, the decoder's layers cut a batch as the passages' methods say; hooks go on any way out."""
    walk = _Walk(decoder, entry, passages)
    with ExitStack() as stack:
        stack.callback(decoder.register_forward_pre_hook(walk.enter, with_kwargs=True).remove)
        for index, module in enumerate(walk.layers):
            layer: Any = module
            stack.callback(layer.register_forward_pre_hook(partial(walk.before, index), with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(partial(walk.behind, index)).remove)
            if index in walk.cut_after:
                norm, mlp = layer.post_attention_layernorm, layer.mlp
                stack.callback(norm.register_forward_pre_hook(partial(walk.between, index)).remove)
                stack.callback(mlp.register_forward_hook(walk.fed).remove)
            heard = index in walk.heard_at_prefill | walk.heard_at_decode
            listening = [partial(walk.listen, index)] if heard else []
            narrowing = partial(walk.narrow, index) if index >= walk.first_cache_layer else None
            if listening or narrowing:
                stack.enter_context(probed(layer.self_attn, listening, narrowing))
        yield walk
    moved = len({id(columns) for columns in walk.read if columns.moved})
    for passage in passages:
        passage.rotated = (passage.rotated[0], moved)


class _Walk:
    """One call of `generate`; all its prompts come from the same pipeline."""

    def __init__(self, decoder: nn.Module, entry: Entry, passages: Sequence[Passage]) -> None:
        self.decoder, self.entry, self.passages = decoder, entry, passages
        stack: Any = decoder.layers
        self.layers: list[nn.Module] = list(stack)
        depth = len(self.layers)
        self.layer_methods, self.cache_methods = passages[0].layer_methods, passages[0].cache_methods
        self.points = [set(method.points(depth)) for method in self.layer_methods]
        self.cut_after = {layer for points in self.points for layer, moment in points if moment == "after_attention"}
        self.cache_points = [set(method.cache_layers(depth)) for method in self.cache_methods]
        self.first_cache_layer = min((layer for points in self.cache_points for layer in points), default=depth)
        self.heard_at_prefill, self.heard_at_decode = self._listened()
        self.step = -1  # 0: prefill
        self.paid_in: int | None = None  # the latest layer whose attention was heard at prefill
        self.paid: list[Tensor] = []  # there, in each row
        self.read: list[Columns] = []  # by layer, at prefill
        self.deepstack: list[Tensor] = []  # what is still to be added behind each layer, text included (zeros)

    def _listened(self) -> tuple[set[int], set[int]]:
        prefill = {
            layer if moment == "after_attention" else layer - 1
            for method, points in zip(self.layer_methods, self.points, strict=True)
            for layer, moment in points
            if LAST_ATTENTION in method.needs()
        }
        decode = {
            layer - 1
            for method, layers in zip(self.cache_methods, self.cache_points, strict=True)
            for layer in layers
            if LAST_ATTENTION in method.needs()
        }
        return prefill, decode

    def enter(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """What the decoder is about to read; the features of DeepStack are added here, as the layers get shorter."""
        self.step += 1
        self.heard: dict[int, Tensor] = {}
        self.prepared: dict[int, dict[str, Any]] = {}
        self.hidden_sources = [np.empty(0, dtype=np.int64) for _ in self.passages]
        if self.step == 0:
            positions = kwargs["position_ids"]
            self.columns = Columns(kwargs["attention_mask"], positions[..., -1:])
            if (features := kwargs.get("deepstack_visual_embeds")) is not None:
                visual = kwargs["visual_pos_masks"]
                kwargs = {**kwargs, "deepstack_visual_embeds": None, "visual_pos_masks": None}
                for feature in features:
                    dense = kwargs["inputs_embeds"].new_zeros(kwargs["inputs_embeds"].shape)
                    dense[visual] = feature.to(dense)
                    self.deepstack.append(dense)
        else:
            if self.step == 1:
                self.prefilled = [dict(passage.states) for passage in self.passages]
            for passage in self.passages:
                passage.sight.append(())
        return args, kwargs

    def rewind(self, steps: int) -> None:
        """Takes back decode steps up to the prefill, with what methods remember of them."""
        if steps:
            self.step -= steps
            for passage, states in zip(self.passages, self.prefilled, strict=True):
                passage.states = dict(states)

    def before(self, index: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """At a layer's entry: cuts at prefill, narrows at decode, and gives the layer what belongs to its sequence."""
        given, kwargs = bool(args), dict(kwargs)
        hidden = args[0] if given else kwargs["hidden_states"]
        if self.step == 0:
            if self.columns.rotary is None:
                self.rotary = kwargs["position_embeddings"]
            hidden = self.reduce(hidden, index, "before_attention")
            self.read.append(self.columns)
            for passage in self.passages:
                passage.attention.append(len(passage.arrangement))
                passage.sources.append(passage.arrangement.source)
        else:
            self.choose_sight(index)
        if self.read[index].rotary is not None:
            kwargs.update(self.prepare(index, hidden, kwargs))
        if given:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def prepare(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask, positions and rotary embedding of a layer whose sequence is shorter than the first one's."""
        columns = self.read[index]
        key = id(columns)
        config: Any = self.decoder.config
        if key not in self.prepared:
            rotary: Any = columns.rotary
            if self.step:
                moved = columns.moved
                rotary = self.rotate(hidden, columns.last + self.step) if moved else kwargs["position_embeddings"]
            mask = create_causal_mask(
                config=config,
                inputs_embeds=hidden,
                attention_mask=self.mask(index).to(hidden.device),
                layer_idx=index,
                **{CACHE: kwargs[CACHE]},
            )
            self.prepared[key] = {"attention_mask": mask, "position_embeddings": rotary}
        return self.prepared[key]

    def mask(self, index: int) -> Int[Tensor, "b k"]:
        """Which columns of a layer's cache are tokens, with those of the steps so far."""
        mask = self.read[index].mask
        return torch.cat([mask, mask.new_ones(len(mask), self.step)], dim=1)

    def rotate(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines; M-RoPE has a fourth row, of plain text positions, which is not rotated by."""
        return self.decoder.rotary_emb(hidden, positions if positions.ndim == 2 else positions[-3:])

    def listen(self, index: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keeps what the last token pays the others."""
        if index in (self.heard_at_decode if self.step else self.heard_at_prefill):
            heard = last_attention(query, key, scaling, self.mask(index).to(query.device))
            if self.step:
                self.heard[index] = heard
            else:  # cut from here on as the tokens are
                self.paid = [heard[row, -len(passage.arrangement) :] for row, passage in enumerate(self.passages)]
                self.paid_in = index

    # --- prefill ---------------------------------------------------------------------------------------------------

    def reduce(self, hidden: Float[Tensor, "b s d"], layer: int, moment: Moment) -> Float[Tensor, "b r d"]:
        """All methods that look at this point, one after the other."""
        places = [place for place, points in enumerate(self.points) if (layer, moment) in points]
        if not places:
            return hidden
        latest = layer if moment == "after_attention" else layer - 1
        paid = self.paid if self.paid_in == latest else [None] * len(self.passages)
        batch = [self.rider(hidden, row, attention) for row, attention in enumerate(paid)]
        for place in places:
            for row, passage in enumerate(self.passages):
                method = passage.layer_methods[place]
                decisions = passage.look(method, layer, len(self.layers), moment, batch[row])
                batch[row] = passage.cut(method, decisions, batch[row])
        self.paid = [riders.attention for riders in batch if riders.attention is not None]
        moved = any(self.layer_methods[place].positions == "renumber" for place in places)
        self.deepstack = [_pad([riders.added[k] for riders in batch]) for k in range(len(self.deepstack))]
        hidden = _pad([riders.hidden for riders in batch])
        self.columns = self.cut_columns(batch, hidden, moved)
        return hidden

    def rider(self, hidden: Tensor, row: int, attention: Tensor | None) -> Riders:
        """One prompt without its padding."""
        length, device = len(self.passages[row].arrangement), hidden.device
        column = np.arange(hidden.shape[1] - length, hidden.shape[1])
        added = [x[row, -length:].to(device) for x in self.deepstack]
        return Riders(hidden[row, -length:], added, None if attention is None else attention.to(device), column)

    def cut_columns(self, batch: Sequence[Riders], hidden: Tensor, moved: bool) -> Columns:
        """Mask and rotary embedding of the batch that is left; where positions are kept, columns of what there was."""
        device = hidden.device
        index, mask = left_padded([riders.column for riders in batch])
        if moved:
            arrangements = [passage.arrangement for passage in self.passages]
            positions = self.entry.batch_positions(arrangements, hidden.shape[1])
            rotary = self.rotate(hidden, positions.to(device))
            for passage in self.passages:
                passage.rotated = (passage.rotated[0] + len(passage.arrangement), 0)
            return Columns(torch.from_numpy(mask).to(device), positions[..., -1:].to(device), rotary, True)
        where = torch.from_numpy(index).to(device)
        cosines, sines = (_take(part, where) for part in self.columns.rotary or self.rotary)
        return Columns(torch.from_numpy(mask).to(device), self.columns.last, (cosines, sines), self.columns.moved)

    def between(self, index: int, _: nn.Module, args: tuple) -> tuple | None:
        """Between attention and MLP: the MLP reads what the cut leaves."""
        if self.step:
            return None
        self.residual = self.reduce(args[0], index, "after_attention")
        return (self.residual, *args[1:])

    def fed(self, _: nn.Module, __: tuple, output: Tensor) -> Tensor | None:
        """The layer would add the MLP's output to its uncut residual; `behind` adds it to the cut one."""
        if self.step:
            return None
        self.mlp_output = output
        return output.new_zeros(1)

    def behind(self, index: int, _: nn.Module, __: tuple, output: Tensor) -> Tensor | None:
        """At a layer's end: its true output, where it was cut in the middle, and what DeepStack adds."""
        if self.step:
            return None
        for passage in self.passages:
            passage.behind.append(len(passage.arrangement))
        if index in self.cut_after:
            output = self.residual + self.mlp_output
        if self.deepstack:
            output = output + self.deepstack.pop(0).to(output.device)
        return output

    # --- decode ----------------------------------------------------------------------------------------------------

    def choose_sight(self, index: int) -> None:
        """Asks the methods on the cache what this layer and those above it look at in this step."""
        for row, passage in enumerate(self.passages):
            for method, layers in zip(passage.cache_methods, self.cache_points, strict=True):
                if index in layers:
                    self.hide(passage, row, method, index)
            cached = passage.attention[index] + self.step - 1
            unseen = int(np.isin(passage.sources[index], self.hidden_sources[row]).sum())
            passage.sight[-1] = (*passage.sight[-1], cached - unseen)

    def hide(self, passage: Passage, row: int, method: CacheReduction, index: int) -> None:
        """One method's choice for one prompt."""
        source = passage.sources[index]
        alive = ~np.isin(source, self.hidden_sources[row])
        for medium, where in enumerate(passage.rewrite.prompt.media):
            visual = np.nonzero(np.isin(source, where.visual) & alive)[0]
            view = CacheView(
                layer=index,
                num_layers=len(self.layers),
                step=self.step,
                visual=torch.from_numpy(visual).to(self.read[index].mask.device),
                evidence=self.heard_at(index, row, source),
                generator=passage.generator(method.name),
            )
            reduction, passage.states[method.name, medium] = method.reduce_cache(
                view, passage.states.get((method.name, medium))
            )
            kept = np.zeros(len(visual), dtype=bool)
            kept[reduction.check().anchor.cpu().numpy()] = True
            self.hidden_sources[row] = np.concatenate([self.hidden_sources[row], source[visual[~kept]]])

    def heard_at(self, index: int, row: int, source: Int[np.ndarray, " s"]) -> dict[Evidence, Tensor]:
        """The step's attention in the layer before, at the tokens which this layer's cache holds."""
        if (heard := self.heard.get(index - 1)) is None:
            return {}
        below = self.passages[row].sources[index - 1]
        own = heard[row, -(len(below) + self.step) :]
        where = np.concatenate([np.searchsorted(below, source), len(below) + np.arange(self.step)])
        return {LAST_ATTENTION: own[torch.from_numpy(where).to(own.device)]}

    def narrow(self, index: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Kernel:
        """Cuts keys and values of one step down to what it looks at; the cache itself stays."""
        if self.step == 0 or not any(map(len, self.hidden_sources)):
            return key, value, mask
        total, seen = key.shape[2], []
        for passage, hidden in zip(self.passages, self.hidden_sources, strict=True):
            source = passage.sources[index]
            start = total - self.step - len(source)
            alive = start + np.nonzero(~np.isin(source, hidden))[0]
            seen.append(np.concatenate([alive, np.arange(total - self.step, total)]))
        columns, valid = left_padded(seen)
        where = torch.from_numpy(columns).to(key.device)[:, None, :, None]
        key, value = (x.gather(2, where.expand(-1, x.shape[1], -1, x.shape[3])) for x in (key, value))
        padding = torch.from_numpy(valid == 0).to(key.device)[:, None, None]
        if not padding.any():
            return key, value, None
        blocked = torch.finfo(query.dtype).min
        return key, value, torch.zeros_like(padding, dtype=query.dtype).masked_fill(padding, blocked)


def _pad(rows: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "b s d"]:
    """One batch, padded on the left."""
    longest = max(row.shape[0] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, 0, longest - row.shape[0], 0)) for row in rows])


def _take(part: Float[Tensor, "*axes b s e"], index: Int[Tensor, "b r"]) -> Float[Tensor, "*axes b r e"]:
    """Columns of cosines or sines, row by row; those of one row may stand for all."""
    part = part.expand(*part.shape[:-3], index.shape[0], *part.shape[-2:])
    return part.gather(-2, index.to(part.device)[..., None].expand(*part.shape[:-2], -1, part.shape[-1]))
