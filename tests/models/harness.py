"""One family under test: its tiny checkpoint as the bench loads it, and the reference beside it."""

from dataclasses import dataclass, replace
from functools import cached_property

from tests.reference.prompts import Reference
from tokenlab.compressors import Pipeline
from tokenlab.data.samples import Clip
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import FAMILIES, Family
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Answer, Request
from tokenlab.models.settings import MLLM
from tokenlab.testing import ANSWER_TOKENS

WHOLE = ("llava", "llava_onevision", "qwen3_vl")
"""One family a way of reading: what runs every day; the others are in the matrix."""

EACH_KIND = (*WHOLE, "qwen2_5_vl", "internvl")
"""Besides those, windows in the tower, and tiles: every method runs on each kind, in the matrix."""

VIDEO_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.video is not None)


@dataclass
class Harness:
    """A family's checkpoint, the reference, and clips to ask about."""

    loaded: LoadedModel
    reference: Reference
    clips: list[Clip]

    @classmethod
    def of(cls, folder: str, clips: list[Clip]) -> "Harness":
        return cls(LoadedModel.load(settings(folder)), Reference(folder), clips)

    @property
    def family(self) -> Family:
        return self.loaded.family

    @cached_property
    def costs(self) -> ModelCosts:
        return ModelCosts(self.loaded.config, self.family)

    @cached_property
    def baseline(self) -> dict[str, tuple[int, ...]]:
        """Plain transformers' answers about videos, prompt by prompt."""
        return {
            sample.uid: tuple(self.reference.plain([frames, sample.question], ANSWER_TOKENS))
            for frames, sample in self.samples()
        }

    def ask(self, pipeline: Pipeline, clips=None, batch_size: int = 1) -> dict[str, tuple[int, ...]]:
        return {answer.sample.uid: answer.ids for answer in self.answers(pipeline, clips, batch_size)}

    def answers(self, pipeline: Pipeline, clips=None, batch_size: int = 1) -> list[Answer]:
        loaded = replace(self.loaded, settings=replace(self.loaded.settings, batch_size=batch_size))
        return list(loaded.answer(clips or self.clips, pipeline, EncodeCache(pipeline.needs())))

    def prepare(self, clip: Clip, pipeline: Pipeline, cache: EncodeCache | None = None) -> Request:
        """The clip's first question, up to the LLM."""
        return self.loaded.prepare(clip, clip.samples[0], pipeline, cache or EncodeCache(pipeline.needs()))

    def samples(self):
        return [(clip.media[0], sample) for clip in self.clips for sample in clip.samples]


def settings(folder: str, **more) -> MLLM:
    return MLLM(checkpoint=str(folder), **{"max_new_tokens": ANSWER_TOKENS, **more})
