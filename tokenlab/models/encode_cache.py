"""What the arms of a run share: encoded media and written prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import QuestionEmbeddings
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import TowerReduction
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError
from tokenlab.models.clock import stage
from tokenlab.models.families.media import PromptMedium
from tokenlab.models.vision.auxiliary import AuxiliaryClip, best_cosine
from tokenlab.models.vision.encode import Encoded
from tokenlab.models.vision.frame_selection import Score
from tokenlab.models.vision.tower import method_in_tower
from tokenlab.tokens import Evidence
from tokenlab.tokens.sequence import Prompt

if TYPE_CHECKING:
    from tokenlab.models.mllm import LoadedModel


Embedded = TypeVar("Embedded")


class EncodeCache:
    """The media of one batch of clips, each encoded once, and each question written once, however many arms share them.

    Likewise what an auxiliary CLIP makes of whole frames and of questions.

    Args:
        needs: The evidence that some arm looks at.
    """

    def __init__(self, needs: frozenset[Evidence]) -> None:
        self.needs = needs
        self._encoded: dict[tuple, Encoded | SampleError] = {}
        self._prompts: dict[tuple, Prompt] = {}
        self._embedded: dict[tuple, Any] = {}

    def encode(self, loaded: LoadedModel, clip: Clip, number: int, frames: Frames, pipeline: Pipeline) -> Encoded:
        """The encoding of one of a clip's media, for these frames and what a pipeline does inside the tower.

        Raises SampleError, every time, if it cannot be encoded.
        """
        key = (clip.cluster, number, frames.choice, repr(pipeline.placed(TowerReduction)))
        if key not in self._encoded:
            method = method_in_tower(pipeline, SampleNoise(loaded.seed, clip.cluster), number)
            try:
                self._encoded[key] = loaded.encode(frames, self.needs, method)
            except SampleError as error:
                self._encoded[key] = error
        found = self._encoded[key]
        if isinstance(found, SampleError):
            raise found
        return found

    def scorer(self, clip: AuxiliaryClip | None, cluster: str, numbers: Sequence[int], question: str) -> Score | None:
        """What scores the frames of those of a clip's media that a question is about; None without a CLIP."""
        if clip is None:
            return None

        def score(place: int, frames: Frames) -> tuple[Float[Tensor, " t"], tuple[int, ...]]:
            whole = self._once((cluster, numbers[place], frames.numbers), lambda: clip.embed_frames(frames))
            words, lengths = self.embed_question(clip, question)
            return best_cosine(whole, words), lengths

        return score

    def embed_question(self, clip: AuxiliaryClip, question: str) -> tuple[Float[Tensor, "q e"], tuple[int, ...]]:
        """The question's embedding, segment by segment, and their lengths."""
        return self._once((question,), lambda: clip.embed_question(question))

    def question(
        self, loaded: LoadedModel, question: str, pipeline: Pipeline
    ) -> tuple[dict[Evidence, Float[Tensor, "q _"]], tuple[int, ...]]:
        """The question in every space that some method compares it in, and the lengths of texts CLIP read for it."""
        evidence: dict[Evidence, Float[Tensor, "q _"]] = {}
        read: tuple[int, ...] = ()
        for need in pipeline.needs():
            if not isinstance(need, QuestionEmbeddings):
                continue
            words = None if need.words is None else need.words(question)
            if need.space == "llm":
                evidence[need] = loaded.embed_words(question if words is None else words)
            elif loaded.clip is not None:
                text = question if words is None else " ".join(words)
                evidence[need], lengths = self.embed_question(loaded.clip, text)
                read += lengths
        return evidence, read

    def _once(self, key: tuple, embed: Callable[[], Embedded]) -> Embedded:
        if key not in self._embedded:
            with stage("auxiliary"):
                self._embedded[key] = embed()
        return self._embedded[key]

    def prompt(
        self, loaded: LoadedModel, sample: Sample, content: Sequence[str | int], encoded: Sequence[Encoded]
    ) -> Prompt:
        """The sample's prompt about encoded media; raises SampleError, every time, if it cannot be asked."""
        media = [each.processed for each in encoded if isinstance(each.processed, PromptMedium)]
        key = (sample.uid, *(each.frames.choice for each in media))
        if key not in self._prompts:
            left = iter(media)
            parts = [part if isinstance(part, str) else next(left) for part in content]
            self._prompts[key] = loaded.writer.write(parts, loaded.settings.max_new_tokens)
        return self._prompts[key]
