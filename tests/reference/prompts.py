"""An independent reference: edits the sequence by hand, one sample at a time, no cache, no hooks.

It imports nothing from `tokenlab.models`; a method's decision is taken from the method itself, everything that follows
from the decision is done again here, with plain loops and dense matrices.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.reference import tower
from tests.reference.families import Checkpoint
from tests.reference.llm import Inside, next_token
from tests.reference.sequence import Token, cut
from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import (
    PixelChange,
    ProjectorInput,
    QuestionEmbeddings,
    TokenEmbeddings,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
)
from tokenlab.compressors.stages import (
    CacheReduction,
    FrameSelection,
    FrameView,
    GridReduction,
    GridView,
    LayerReduction,
    PixelReduction,
    PixelView,
    TowerReduction,
)
from tokenlab.data.samples import Sample
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens

ATTENTION, KEYS = TowerAttention(layer=-2, query="cls_or_mean"), TowerKeys(layer=-2)
"""What the tower is looked at for, where a method acts inside it."""


class Reference(Checkpoint):
    """A checkpoint, asked by hand."""

    @torch.no_grad()
    def plain(self, parts, new_tokens: int) -> list[int]:
        """Untouched greedy `generate` on texts and media in order."""
        inputs = self.inputs(*parts)
        output = self.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    # --- the same prompt, reduced by hand ------------------------------------------------------------------------

    @torch.no_grad()
    def reduced(self, parts, sample: Sample, pipeline: Pipeline, new_tokens: int, seed: int = 0) -> list[int]:
        """The pipeline's answer, token by token, each from a whole new forward."""
        return [int(logits.argmax()) for logits in self._steps(parts, sample, pipeline, new_tokens, seed)]

    @torch.no_grad()
    def log_likelihood(self, parts, sample: Sample, pipeline: Pipeline, answer: list[int], seed: int = 0) -> float:
        """Of a given answer, each token's from a whole new forward."""
        steps = self._steps(parts, sample, pipeline, len(answer), seed, answer)
        return sum(float(logits.log_softmax(-1)[token]) for logits, token in zip(steps, answer, strict=True))

    def _steps(self, parts, sample, pipeline, new_tokens, seed, forced=()) -> list[Tensor]:
        """The logits of every step; what is fed back is the likeliest token, or the one that is forced."""
        question, uid = sample.question, sample.uid
        noise, shared = SampleNoise(seed, uid), SampleNoise(seed, uid.split("#")[0])
        for place, method in pipeline.placed(FrameSelection).items():
            numbers = number_media(parts)
            drawn = [noise.generator(place, number, "frames") for number in numbers]
            parts = [select(part, method, question, draw) for part, draw in zip(parts, drawn, strict=True)]
        for method in pipeline.placed(PixelReduction).values():
            parts = [part if isinstance(part, str) else self.shrink(part, method) for part in parts]
        sequence, media = self._sequence(parts, question, pipeline.needs())
        original = [replace(token) for token in sequence]
        for place, method in pipeline.placed(TowerReduction).items():
            for number, frames in enumerate(part for part in parts if not isinstance(part, str)):
                drawn = partial(shared.generator, place, number)
                left = tower.look(self, self.inputs(frames, ""), method, drawn, ATTENTION, KEYS, ATTENTION.layer)
                sequence, media = behind_tower(sequence, original, media, number, left, method)
        for place, method in pipeline.placed(GridReduction).items():
            for number, tokens in enumerate(media):
                if method.temporal and tokens.is_image:
                    continue
                reduction = method.reduce_grid(GridView(tokens, question, noise.generator(place, number, "grid")))
                project = self.projector if method.merges_before_projector else None
                sequence, media = cut(sequence, original, media, number, reduction, method, project)
        if pipeline.of_stage(LayerReduction) or pipeline.of_stage(CacheReduction):
            return Inside(self, pipeline, uid, seed).greedy(sequence, original, media, new_tokens, forced)
        return self._greedy(sequence, new_tokens, forced)

    def shrink(self, frames, method: PixelReduction):
        """All pictures at the size at which the whole processor, asked by hand, makes few enough tokens."""

        def tokens(size) -> int:
            blank = replace(frames, pixels=np.zeros((len(frames.numbers), *size, 3), dtype=np.uint8))
            ids = self.inputs(blank, "")["input_ids"][0]
            return int(torch.isin(ids, torch.tensor([self.image, self.video])).sum())

        height, width = method.choose_size(PixelView(frames.pixels.shape[1:3], tokens))
        pictures = [Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC) for each in frames.pixels]
        return replace(frames, pixels=np.stack([np.asarray(each) for each in pictures]))

    def _sequence(self, parts, question: str, needs) -> tuple[list[Token], list[VisualTokens]]:
        """Text and visual tokens in order, each with its position; and each medium's visual ones on their grid."""
        inputs = self.inputs(*parts)
        ids, positions = inputs["input_ids"][0].tolist(), self.positions(inputs)
        embedded = self.model.get_input_embeddings()(inputs["input_ids"][0])
        shown = [part for part in parts if not isinstance(part, str)]
        alone = [self.inputs(frames, "") for frames in shown]
        looks = [self.look(each) for each in alone]
        words = self.processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        asked = {QuestionEmbeddings("llm"): self.model.get_input_embeddings()(words)}
        media = [
            self._tokens(frames, alone, seen, {**asked, **self.further(frames, question, seen, needs)}, needs)
            for frames, alone, seen in zip(shown, alone, looks, strict=True)
        ]
        coming = {self.image: [], self.video: []}
        for number, (frames, seen) in enumerate(zip(shown, looks, strict=True)):
            slots = torch.where(seen.on_grid, seen.on_grid.cumsum(0) - 1, -1).tolist()
            coming[self.image if frames.is_image else self.video] += [(number, row, s) for row, s in enumerate(slots)]
        sequence, run = [], 0
        for index, token in enumerate(ids):
            position = positions[:, index].tolist()
            if token not in coming:
                sequence.append(Token(embedded[index], position, position))
                run += index > 0 and ids[index - 1] in coming
                continue
            number, row, slot = coming[token].pop(0)
            deep = [layer[row] for layer in looks[number].deep]
            value, slot = looks[number].features[row], None if slot < 0 else slot
            sequence.append(Token(value, position, position, slot, run=run, deep=deep, medium=number))
        assert not any(coming.values())
        for number, seen in enumerate(looks):
            self._mark(sequence, number, seen.grid)
        return sequence, media

    def further(self, frames, question: str, seen, needs) -> dict[Evidence, Tensor]:
        """What other encoders beside the model make of a medium and the question."""
        return {}

    def _tokens(self, frames, inputs, seen, asked, needs) -> VisualTokens:
        """One medium on its grid, with evidence; of a mosaic the tower's maps are not brought there by hand."""
        values = seen.features[seen.on_grid]
        evidence: dict[Evidence, Tensor] = {TokenEmbeddings("llm"): values, **asked}
        if "image_sizes" not in inputs:
            for need in needs:
                if isinstance(need, TowerAttention):
                    evidence[need] = self.attention(inputs, need, seen.grid)
                elif isinstance(need, PixelChange):
                    evidence[need] = self.pixel_change(inputs)
                elif isinstance(need, TowerKeys):
                    evidence[need] = self.keys(inputs, need, seen.grid)
                elif isinstance(need, TowerFeatures):
                    evidence[need] = self.features(inputs, need.layer, seen.grid)
            if self.projector is not None:
                evidence[ProjectorInput()] = self.before_projector(inputs)
        return VisualTokens(values, seen.places, seen.grid, evidence, is_image=frames.is_image)

    def _mark(self, sequence: list[Token], medium: int, grid: tuple[int, int, int]) -> None:
        """Says of text between a medium's frames which of them it belongs to."""
        places = {token.slot: i for i, token in enumerate(sequence) if token.medium == medium}
        per_frame = grid[1] * grid[2]
        if grid[0] == 1 or grid[0] * per_frame not in (len(places), len(places) - (None in places)):
            return
        firsts = [places[frame * per_frame] for frame in range(grid[0])]
        if any(token.run is not None for token in sequence[firsts[0] + per_frame : firsts[1]]):
            return
        between = firsts[1] - firsts[0] - per_frame
        for frame, first in enumerate(firsts):
            before = first - firsts[frame - 1] - per_frame if frame else between - self.following
            opening, end = before - self.closing, first + per_frame
            for token in sequence[first - opening : first] + sequence[end : end + min(self.closing, between)]:
                token.frame = (medium, frame)

    def _greedy(self, sequence: list[Token], new_tokens: int, forced) -> list[Tensor]:
        values = torch.stack([token.value for token in sequence])
        positions = [token.position for token in sequence]
        visual = [bool(token.deep) for token in sequence]
        layers = zip(*(token.deep for token in sequence if token.deep), strict=True)
        deep = [torch.stack(layer) for layer in layers]
        answer, steps = [], []
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
            steps.append(self.model.lm_head(hidden[0, -1]))
            answer.append(next_token(steps, forced))
            if answer[-1] == self.model.generation_config.eos_token_id:
                break
            values = torch.cat([values, self.model.get_input_embeddings()(torch.tensor(answer[-1:]))])
            positions.append([number + 1 for number in positions[-1]])
        return steps


def number_media(parts) -> list[int]:
    """For each part the number of media before it."""
    media = [not isinstance(part, str) for part in parts]
    return [sum(media[:place]) for place in range(len(parts))]


def select(part, method: FrameSelection, question: str, generator: torch.Generator):
    """A video's chosen frames; texts and images as they are."""
    if isinstance(part, str) or part.is_image:
        return part
    view = FrameView(len(part.numbers), torch.from_numpy(part.seconds), question, {}, generator)
    chosen = method.select_frames(view).anchor.tolist()
    numbers = tuple(part.numbers[i] for i in chosen)
    return replace(part, pixels=part.pixels[chosen], numbers=numbers, seconds=part.seconds[chosen])


def behind_tower(
    sequence: list[Token],
    original: list[Token],
    media: list[VisualTokens],
    number: int,
    left: tower.Left,
    method: TowerReduction,
) -> tuple[list[Token], list[VisualTokens]]:
    """The sequence with what the tower left of one medium, slot by slot."""
    sequence, media = cut(
        sequence, original, media, number, Reduction.keep(left.home, media[number].num_tokens), method
    )
    tokens = media[number]
    evidence = {**tokens.evidence, TokenEmbeddings("llm"): left.features, **left.evidence}
    media[number] = replace(tokens, values=left.features, evidence=evidence)
    outside = iter(left.class_tokens)
    for token in (token for token in sequence if token.medium == number):
        token.value = next(outside) if token.slot is None else left.features[token.slot]
    return sequence, media
