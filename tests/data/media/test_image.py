"""Transparency on white, 16 bits scaled, what is not taken named; right values are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tokenlab.data import MediaError
from tokenlab.data.media.image import FORMATS, read_image

FILES = Path(__file__).parent / "files"
BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def _pixels(path: Path) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in read_image(path).pixels.reshape(-1, 3).tolist()]


def test_a_drawing_on_nothing_is_a_drawing_on_white():
    pixels = read_image(FILES / "black-drawing-on-transparent.png").pixels[0]
    assert tuple(pixels[0, 0]) == WHITE
    assert tuple(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]) == BLACK


def _transparent() -> dict[str, tuple[Image.Image, dict]]:
    """Black, half black and red pixels, the last of them clear, in every way that a file can say so."""
    palette = Image.new("P", (3, 1))
    palette.putpalette([*BLACK, *RED])
    palette.putdata([0, 0, 1])
    rgb = Image.new("RGB", (3, 1))
    rgb.putpixel((2, 0), RED)
    rgba = rgb.convert("RGBA")
    rgba.putpixel((2, 0), (*RED, 0))
    grey = Image.new("L", (3, 1))
    grey.putpixel((2, 0), 9)
    both = Image.new("LA", (3, 1), (0, 255))
    both.putpixel((2, 0), (9, 0))
    deep = Image.fromarray(np.array([[0, 255, 2304]], np.uint16))
    bits = Image.new("1", (3, 1))
    bits.putpixel((2, 0), 1)
    return {
        "rgba.png": (rgba, {}),
        "rgba.webp": (rgba, {"lossless": True, "exact": True}),
        "rgba.tiff": (rgba, {}),
        "grey and alpha.png": (both, {}),
        "palette.png": (palette, {"transparency": 1}),
        "palette of alphas.png": (palette, {"transparency": b"\xff\x00"}),
        "palette.gif": (palette, {"transparency": 1}),
        "trns of rgb.png": (rgb, {"transparency": RED}),
        "trns of grey.png": (grey, {"transparency": 9}),
        "trns of 16 bits.png": (deep, {"transparency": 2304}),
        "trns of one bit.png": (bits, {"transparency": 1}),
    }


@pytest.mark.parametrize("name", _transparent())
def test_what_is_clear_is_white(tmp_path, name):
    image, options = _transparent()[name]
    image.save(tmp_path / name, **options)
    assert _pixels(tmp_path / name) == [BLACK, BLACK, WHITE]


def test_what_is_half_clear_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (1, 1), (0, 100, 200, 51)).save(tmp_path / "a.png")
    assert _pixels(tmp_path / "a.png") == [(204, 224, 244)]


def test_16_bits_of_grey_are_scaled():
    assert read_image(FILES / "grey16-ramp.png").pixels[0, 0, [0, 24, 48, 95]].tolist() == [
        [value] * 3 for value in (0, 64, 129, 255)
    ]


RAMP = [0, 255, 256, 32768, 65535]
SCALED = [0, 0, 1, 128, 255]


@pytest.mark.parametrize(("byte_order", "white_is_zero"), [("<", False), (">", False), ("<", True)])
def test_16_bits_in_tiff(tmp_path, byte_order, white_is_zero):
    _write_tiff(tmp_path / "a.tif", byte_order, 16, np.array(RAMP, f"{byte_order}u2").tobytes(), 5, white_is_zero)
    expected = [255 - value for value in SCALED] if white_is_zero else SCALED
    assert _pixels(tmp_path / "a.tif") == [(value,) * 3 for value in expected]


def test_12_bits_in_tiff(tmp_path):
    _write_tiff(tmp_path / "a.tif", "<", 12, bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10]), 4, False)
    assert _pixels(tmp_path / "a.tif") == [(value,) * 3 for value in (0, 255, 128, 1)]


def test_16_bits_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").pixels[0, :, :, 0].tolist() == [[0], [255]]


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float32, "a.tif"), (np.int32, "b.tif")], ids=["floats", "32-bit whole numbers"]
)
def test_numbers_without_a_scale_are_refused(tmp_path, dtype, name):
    Image.fromarray(np.array([[0, 1]], dtype)).save(tmp_path / name)
    with pytest.raises(MediaError, match=rf"{name}' holds .* nothing says which of them is white"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.ppm", "a.jp2", "a.heic"])
def test_other_formats_are_told_which_are_taken(tmp_path, name):
    if name == "a.heic":  # what a phone's file begins with
        (tmp_path / name).write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100))
    else:
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    with pytest.raises(MediaError, match=f"{name}' cannot be read: it is damaged, or none of {', '.join(FORMATS)}$"):
        read_image(tmp_path / name)


def test_the_largest_image_is_a_setting(tmp_path):
    Image.new("1", (40, 30)).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    assert read_image(tmp_path / "a.png", max_pixels=1200).pixels.shape == (1, 30, 40, 3)
    for limit in (1199, 100):  # Pillow warns of a little more, and raises for twice as much
        with pytest.raises(MediaError, match=rf"has more than {limit} pixels: data\.max_image_pixels says"):
            read_image(tmp_path / "a.png", max_pixels=limit)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_broken_text_chunk_is_one_line(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * 2_000_000, zip=True)
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(MediaError, match=r"a\.png' cannot be read: .*TEXT_CHUNK"):
        read_image(tmp_path / "a.png")


def _write_tiff(path: Path, byte_order: str, bits: int, pixels: bytes, width: int, white_is_zero: bool) -> None:
    """A grey image of one row, written by hand: Pillow writes no such file."""
    entries = [(256, width), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 0), (277, 1)]
    entries += [(278, 1), (279, len(pixels))]
    start = 8 + 2 + 12 * len(entries) + 4
    number = {"<": "little", ">": "big"}[byte_order]

    def encoded(value: int, size: int) -> bytes:
        return value.to_bytes(size, number)

    file = (b"II" if byte_order == "<" else b"MM") + encoded(42, 2) + encoded(8, 4) + encoded(len(entries), 2)
    for tag, value in entries:
        file += encoded(tag, 2) + encoded(4, 2) + encoded(1, 4) + encoded(start if tag == 273 else value, 4)
    path.write_bytes(file + encoded(0, 4) + pixels)
