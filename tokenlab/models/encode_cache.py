"""What the arms of a run share: encoded media and written prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import TowerReduction
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError
from tokenlab.models.families.media import PromptMedium
from tokenlab.models.vision.encode import Encoded
from tokenlab.models.vision.tower import method_in_tower
from tokenlab.tokens import Evidence
from tokenlab.tokens.sequence import Prompt

if TYPE_CHECKING:
    from tokenlab.models.mllm import LoadedModel


class EncodeCache:
    """The media of one batch of clips, each encoded once, and each question written once, however many arms share them.

    Args:
        needs: The evidence that some arm looks at.
    """

    def __init__(self, needs: frozenset[Evidence]) -> None:
        self.needs = needs
        self._encoded: dict[tuple[str, int, tuple[int, ...], str], Encoded | SampleError] = {}
        self._prompts: dict[tuple, Prompt] = {}

    def encode(self, loaded: LoadedModel, clip: Clip, number: int, frames: Frames, pipeline: Pipeline) -> Encoded:
        """The encoding of one of a clip's media, for these frames and what a pipeline does inside the tower.

        Raises SampleError, every time, if it cannot be encoded.
        """
        key = (clip.cluster, number, frames.numbers, repr(pipeline.placed(TowerReduction)))
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

    def prompt(
        self, loaded: LoadedModel, sample: Sample, content: Sequence[str | int], encoded: Sequence[Encoded]
    ) -> Prompt:
        """The sample's prompt about encoded media; raises SampleError, every time, if it cannot be asked."""
        media = [each.processed for each in encoded if isinstance(each.processed, PromptMedium)]
        key = (sample.uid, *(each.frames.numbers for each in media))
        if key not in self._prompts:
            left = iter(media)
            parts = [part if isinstance(part, str) else next(left) for part in content]
            self._prompts[key] = loaded.writer.write(parts, loaded.settings.max_new_tokens)
        return self._prompts[key]
