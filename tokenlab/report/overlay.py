"""Pictures of what a method does: each frame with its tokens kept, merged or gone; one renderer for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from tokenlab.report.sidecar import MediumTokens
from tokenlab.trace import DROPPED, GATHERED, MERGED

if TYPE_CHECKING:
    from tokenlab.data.samples import Frames
    from tokenlab.models.vision.processing import MediaProcessor

GAP = 3  # pixels between frames
GONE = 0.2  # of the light that falls on what is gone
TINTS = {GATHERED: ((40, 190, 90), 0.35), MERGED: ((60, 110, 250), 0.55)}
"""Colours of tokens that stand for several, and of those that went into others, and how thickly they are laid on."""

LEGEND = "bright: kept; green: stands for several; blue: merged into another; dark: gone"


@dataclass(frozen=True)
class Pictures:
    """What a medium looks like.

    Attributes:
        pixels: Candidate frames of a video; an image, or the tiles that it is cut into.
        numbers: Of the frames in the file.
        is_image: Whether it is an image.
        cropped: Whether the tower sees the middle square alone.
    """

    pixels: Sequence[UInt8[np.ndarray, "h w 3"]]
    numbers: tuple[int, ...]
    is_image: bool = False
    cropped: bool = False


def pictures_of(media: MediaProcessor, frames: Frames) -> Pictures:
    """What a medium looks like to a model's tower; raises SampleError where its processor cannot read it."""
    processed = media.process(frames)
    seen = media.pictures(processed)
    return Pictures(list(seen.pixels), seen.numbers, seen.is_image, media.is_cropped(processed))


def strip(pictures: Pictures, tokens: MediumTokens | None, side: int = 96, columns: int = 8) -> Image.Image:
    """Draws a medium's frames, in rows of so many, each at most `side` pixels high.

    Args:
        pictures: What the medium looks like.
        tokens: What became of its tokens; None draws it as it is.
        side: Pixels of a frame's height.
        columns: Frames in a row.
    """
    shown = tokens.shown if tokens is not None else ()
    drawn = [
        _frame(_as_shown(pictures.pixels[place], shown), fates, side, pictures.cropped)
        for place, fates in _frames(pictures, tokens)
    ]
    width = max(frame.shape[1] for frame in drawn)
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    canvas = np.full((len(rows) * (side + GAP) - GAP, min(columns, len(drawn)) * (width + GAP) - GAP, 3), 128, np.uint8)
    for row, frames in enumerate(rows):
        for column, frame in enumerate(frames):
            top, left = row * (side + GAP), column * (width + GAP)
            canvas[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    return Image.fromarray(canvas)


def labelled(drawn: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Puts pictures below one another, each row under its name."""
    band = 16
    rows = [(name, picture) for name, pictures in drawn.items() for picture in pictures]
    width, height = max(picture.width for _, picture in rows), sum(picture.height + band for _, picture in rows)
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    pen = ImageDraw.Draw(canvas)
    for name, picture in rows:
        pen.text((2, top + 2), name, fill="black")
        canvas.paste(picture, (0, top + band))
        top += picture.height + band
    return canvas


def _frames(pictures: Pictures, tokens: MediumTokens | None) -> Iterator[tuple[int, Sequence[str]]]:
    """Which picture is drawn with which rows of fates; those of a frame that was not encoded are one token, gone."""
    if tokens is None:
        yield from ((place, ()) for place in range(len(pictures.pixels)))
        return
    grids, start = [], 0
    for rows, columns in tokens.shapes:
        grids.append([tokens.fates[start + row * columns :][:columns] for row in range(rows)])
        start += rows * columns
    if pictures.is_image and tokens.shown:  # a smaller image has tiles of its own: the last one shows all of it
        yield len(pictures.pixels) - 1, grids[-1]
        return
    if pictures.is_image:  # a whole image lies on the grid beside the mosaic of its tiles
        yield from ((min(place, len(pictures.pixels) - 1), grid) for place, grid in enumerate(grids))
        return
    for place, number in enumerate(pictures.numbers):
        if number in tokens.frames:
            yield place, grids[tokens.frames.index(number) * len(grids) // len(tokens.frames)]
        else:
            yield place, [DROPPED]


def _as_shown(pixels: UInt8[np.ndarray, "h w 3"], shown: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of its own size, as coarse as a smaller one that was shown for it."""
    if not shown:
        return pixels
    picture = Image.fromarray(pixels)
    coarse = picture.resize((shown[1], shown[0]), Image.Resampling.BICUBIC)
    return np.asarray(coarse.resize(picture.size, Image.Resampling.NEAREST))


def _frame(
    pixels: UInt8[np.ndarray, "h w 3"], fates: Sequence[str], side: int, cropped: bool
) -> UInt8[np.ndarray, "side v 3"]:
    picture = Image.fromarray(pixels)
    if cropped:
        edge = min(picture.size)
        left, top = ((size - edge) // 2 for size in picture.size)
        picture = picture.crop((left, top, left + edge, top + edge))
    picture = picture.resize((max(1, round(side * picture.width / picture.height)), side), Image.Resampling.BILINEAR)
    light = np.asarray(picture, dtype=np.float32)
    if not fates:
        return light.astype(np.uint8)
    grey = light.mean(-1, keepdims=True) * GONE
    drawn = np.where(_mask(fates, DROPPED, light.shape), grey, light)
    for fate, (colour, strength) in TINTS.items():
        tinted = (1 - strength) * light + strength * np.asarray(colour, dtype=np.float32)
        drawn = np.where(_mask(fates, fate, light.shape), tinted, drawn)
    return drawn.round().astype(np.uint8)


def _mask(fates: Sequence[str], fate: str, shape: tuple[int, ...]) -> Float[np.ndarray, "h w 1"]:
    """Where tokens of one fate lie."""
    found = np.array([[letter == fate for letter in row] for row in fates], dtype=np.uint8)
    resized = Image.fromarray(255 * found).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.float32)[..., None] / 255
