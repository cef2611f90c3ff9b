"""What is drawn where: tokens of a known fate on plain pictures."""

import numpy as np
import pytest
from PIL import Image

from tokenlab.errors import SampleError
from tokenlab.metrics.record import Record
from tokenlab.report.gallery import draw_gallery, most_disputed, read_gallery
from tokenlab.report.overlay import GAP, Pictures, labelled, strip
from tokenlab.report.sidecar import AnswerTokens, MediumTokens, read_tokens

WHITE = np.full((40, 40, 3), 255, dtype=np.uint8)


def corner(picture: Image.Image, row: int, column: int, frame: int = 0, side: int = 40) -> tuple[int, ...]:
    """The middle of one of four tokens of a frame."""
    x = frame * (side + GAP) + (2 * column + 1) * side // 4
    return picture.getpixel((x, (2 * row + 1) * side // 4))


def test_each_fate_has_its_look():
    drawn = strip(Pictures([WHITE], (0,)), MediumTokens((0,), ((2, 2),), "#+-."), side=40)
    kept, several, merged, gone = (corner(drawn, row, column) for row in (0, 1) for column in (0, 1))
    assert kept == (255, 255, 255)
    assert several[1] > several[0] > several[2] - 60
    assert merged[2] > merged[0]
    assert gone == (51, 51, 51)


def test_frames_that_were_not_encoded_are_gone():
    drawn = strip(Pictures([WHITE] * 3, (0, 4, 8)), MediumTokens((0, 8), ((2, 2), (2, 2)), "#" * 4 + "...#"), side=40)
    assert [corner(drawn, 0, 0, frame) for frame in range(3)] == [(255,) * 3, (51,) * 3, (51,) * 3]
    assert [corner(drawn, 1, 1, frame) for frame in range(3)] == [(255,) * 3, (51,) * 3, (255,) * 3]


def test_frames_read_in_pairs_share_their_tokens():
    drawn = strip(Pictures([WHITE] * 4, (0, 1, 2, 3)), MediumTokens((0, 1, 2, 3), ((1, 1), (1, 1)), "#."), side=40)
    assert [corner(drawn, 0, 0, frame)[0] for frame in range(4)] == [255, 255, 51, 51]


def test_a_whole_image_stands_beside_its_mosaic():
    image = Pictures([WHITE], (0,), is_image=True)
    drawn = strip(image, MediumTokens((0,), ((1, 1), (2, 2)), ".###."), side=40)
    assert drawn.width == 2 * 40 + GAP
    assert [corner(drawn, 0, 0, frame)[0] for frame in range(2)] == [51, 255]


def test_pictures_that_were_made_smaller_are_as_coarse_as_they_were_shown():
    """A line of a pixel's width is gone in a picture of four; of an image in tiles, the one that shows all is drawn."""
    lined = WHITE.copy()
    lined[::2] = 0
    drawn = np.asarray(strip(Pictures([lined], (0,)), MediumTokens((0,), ((2, 2),), "####", (2, 2)), side=40))
    assert np.ptp(drawn) < 10
    tiles = Pictures([lined, lined, WHITE], (0, 1, 2), is_image=True)
    drawn = strip(tiles, MediumTokens((0,), ((1, 1), (1, 1)), ".#", (20, 20)), side=40)
    assert drawn.size == (40, 40)
    assert np.asarray(drawn).min() == 255


def test_what_the_tower_does_not_see_is_not_drawn():
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 20:60] = 255
    drawn = strip(Pictures([wide], (0,), cropped=True), None, side=40)
    assert drawn.size == (40, 40)
    assert np.asarray(drawn).min() == 255


def test_long_videos_run_over_several_rows():
    assert strip(Pictures([WHITE] * 9, tuple(range(9))), None, side=40).size == (8 * (40 + GAP) - GAP, 2 * 40 + GAP)


def test_labels_stand_above_their_pictures():
    picture = strip(Pictures([WHITE], (0,)), None, side=40)
    both = labelled({"full": [picture], "topic": [picture, picture]})
    assert (both.width, both.height) == (40, 3 * 56)


def test_a_sidecar_comes_back(tmp_path):
    rows = [
        AnswerTokens(f"q{k}", "topic", (3, 4), 7, (MediumTokens((0, 2), ((1, 2), (1, 2)), "#.+-"),)) for k in range(2)
    ]
    (tmp_path / "tokens.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows) + rows[0].to_json()[:30])
    assert list(read_tokens(tmp_path / "tokens.jsonl").values()) == rows
    assert read_tokens(tmp_path / "none.jsonl") == {}


def record(uid, arm, answer):
    return Record(uid, "v", arm, arm, "", "?", ["red"], answer=answer, correct=answer == "red")


def test_the_most_disputed_question_comes_first():
    answers = {"a": ("red", "Red."), "b": ("red", "blue"), "c": ("red", "green")}
    rows = [record(uid, arm, said) for uid, both in answers.items() for arm, said in zip("xy", both, strict=True)]
    assert most_disputed(rows) == ["b", "c", "a"]


def test_a_gallery_leaves_out_what_cannot_be_read(tmp_path):
    rows = [record(uid, "full", "red") for uid in ("a", "b")]
    known = {
        ("full", uid): AnswerTokens(uid, "full", (1,), 4, (MediumTokens((0,), ((1, 1),), "#"),)) for uid in ("a", "b")
    }

    def pictures(uid):
        if uid == "a":
            raise SampleError("gone")
        return [Pictures([WHITE], (0,))]

    draw_gallery(tmp_path, rows, known, pictures)
    (sample,) = read_gallery(tmp_path)
    assert (sample.uid, sample.arms) == ("b", {})
    assert all((tmp_path / "gallery" / name).exists() for name in sample.plain)


@pytest.mark.parametrize("side", [24, 97])
def test_sides_are_what_they_are_asked_to_be(side):
    assert strip(Pictures([WHITE], (0,)), None, side=side).height == side
