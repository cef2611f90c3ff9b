"""The pixel stage: how large the pictures are that the checkpoint's processor reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import PixelReduction, PixelView, Size
from tokenlab.data.samples import Frames
from tokenlab.errors import failing_sample
from tokenlab.models.clock import stage
from tokenlab.models.vision.processing import MediaProcessor, MediumSize
from tokenlab.reduction import Reduction
from tokenlab.trace import AppliedReduction, Trace


def resize_media(
    media: Sequence[Frames], pipeline: Pipeline, processor: MediaProcessor
) -> tuple[list[Frames], list[MediumSize], Trace]:
    """Resizes media one by one. To find the size counts for no time: who runs a model so has set it beforehand.

    Args:
        media: What was selected of each.
        pipeline: Its methods of the pixel stage decide, one after the other.
        processor: Says how many tokens come of a size.

    Returns:
        What the processor will read; what each medium loses by it in a prompt; and the trace, of whose reductions the
        numbers of tokens alone are meant.
    """
    shown, trace = list(media), Trace()
    for method in pipeline.of_stage(PixelReduction):
        for number, frames in enumerate(shown):
            size_at = partial(processor.size_at, frames)
            with failing_sample(method.name), stage(None):
                size = method.choose_size(PixelView(frames.size, lambda size, at=size_at: at(size).visual_tokens))
                if not all(0 < new <= old for new, old in zip(size, frames.size, strict=True)):
                    raise ValueError(f"it makes pictures of {frames.size} pixels {size} large")
                before, after = size_at(frames.size), size_at(size)
            shown[number] = _resized(frames, size)
            left = Reduction.keep(torch.arange(after.grid_tokens), before.grid_tokens)
            fewer = before.separators - after.separators
            applied = AppliedReduction("pixels", method.name, number, left, fewer_separators=fewer)
            trace += Trace(reductions=(applied,))
    with stage(None):
        lost = [
            MediumSize(0, 0, 0) if new is old else processor.size_at(old, old.size) - processor.size_at(new, new.size)
            for old, new in zip(media, shown, strict=True)
        ]
    return shown, lost, trace


def _resized(frames: Frames, size: Size) -> Frames:
    """All pictures at another size, by the cubic filter that processors use themselves."""
    if size == frames.size:
        return frames
    height, width = size
    with stage("processing"):
        pictures = [Image.fromarray(pixels) for pixels in frames.pixels]
        pixels = np.stack([np.asarray(each.resize((width, height), Image.Resampling.BICUBIC)) for each in pictures])
    return replace(frames, pixels=pixels)
