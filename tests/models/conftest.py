"""Families under test, built once a process: three every day, all in the matrix."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.models.harness import VIDEO_FAMILIES, WHOLE, Harness
from tests.models.prompts import PROMPTS, media_clips
from tokenlab.models.families import FAMILIES
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.media import video_clips


def by_tier(families, daily=WHOLE) -> list:
    return [pytest.param(name, marks=[] if name in daily else pytest.mark.matrix) for name in families]


@pytest.fixture(scope="session")
def harnesses(checkpoints) -> Callable[[str], Harness]:
    """Families that read videos, each built once, in whatever order tests name them."""
    return cache(lambda family: Harness.of(str(checkpoints[family]), video_clips()))


@pytest.fixture(scope="session", params=by_tier(VIDEO_FAMILIES))
def harness(request, harnesses) -> Harness:
    """A family that reads videos, with clips of different lengths."""
    return harnesses(request.param)


@pytest.fixture(scope="session")
def baseline(harness: Harness) -> dict[str, tuple[int, ...]]:
    """Plain transformers, prompt by prompt."""
    return harness.baseline


@pytest.fixture(scope="session", params=by_tier(FAMILIES))
def media_harness(request, checkpoints) -> Harness:
    """A family, with prompts of images, of several media, and of none."""
    return Harness.of(str(checkpoints[request.param]), media_clips(request.param))


@pytest.fixture(scope="session")
def media_baseline(media_harness: Harness) -> dict[str, tuple[int, ...]]:
    """Plain transformers, prompt by prompt."""
    return {
        clip.samples[0].uid: tuple(media_harness.reference.plain(list(PROMPTS[clip.cluster]), ANSWER_TOKENS))
        for clip in media_harness.clips
    }
