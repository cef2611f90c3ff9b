"""Prompts of several media, of one, and of none."""

from tests.models.pipelines import PIPELINES, build
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.models.families import FAMILIES
from tokenlab.testing.media import noise_image, noise_video

WIDE, SMALL, FIRST, SECOND = noise_image(1, 60, 110), noise_image(2, 64, 64), noise_video(3, 3), noise_video(4, 3)
PROMPTS = {
    "image": (WIDE, "what is there ?"),
    "text": ("what colour is the circle ?",),
    "text between images": ("is", SMALL, "the same as", WIDE, "?"),
    "two videos": (FIRST, "and", SECOND, "how many objects ?"),  # of one length: most stock processors stack them
    "image in the middle": ("what happens ?", FIRST, "is it like", SMALL, "?"),
}
"""Texts and media in the order of the prompt."""

ONE_KIND_A_PROMPT = ("smolvlm",)
"""Where plain transformers, with which we compare, writes a video's pixels over an image's."""

LOOKS = {
    "random": Pipeline((REGISTRY["random"](retention_ratio=0.4),)),
    "text, renumbered": Pipeline((REGISTRY["text"](retention_ratio=0.4, positions="renumber"),)),
    **{name: build(PIPELINES[name]) for name in ("fastv", "framefusion", "tome", "frames then grid")},
    "grid, layers, cache": Pipeline(
        (REGISTRY["random"](retention_ratio=0.7), *build(PIPELINES["grid, layers, cache"]).compressors[1:])
    ),
}


def media_clips(family: str) -> list[Clip]:
    """A clip a prompt that the family can read."""
    found = []
    for name, parts in PROMPTS.items():
        media = tuple(part for part in parts if isinstance(part, Frames))
        if FAMILIES[family].video is None and not all(frames.is_image for frames in media):
            continue
        if family in ONE_KIND_A_PROMPT and len({frames.is_image for frames in media}) > 1:
            continue
        numbers = iter(range(len(media)))
        content = tuple(part if isinstance(part, str) else next(numbers) for part in parts)
        question = " ".join(part for part in parts if isinstance(part, str))
        found.append(Clip(name, (Sample(f"{name}#0", name, question, content=content),), media))
    return found


def parts_of(clip: Clip) -> list:
    return list(PROMPTS[clip.cluster])
