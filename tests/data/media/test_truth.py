"""The right frames of every kind of file, against the whole file read in order by PyAV."""

import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.conftest import ENCODERS, read_bars, write_bars
from tokenlab.data import MediaError, decode
from tokenlab.data.media import readers, video
from tokenlab.data.media.picture import upright
from tokenlab.data.media.timeline import read_timeline
from tokenlab.data.media.video import sample_frames, sample_times

FILES = Path(__file__).parent / "files"
COUNTS = (1, 8, 16, 64)

HOLDS = {
    "mp4": ("h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2", "mpeg1"),
    "mov": ("h264", "hevc", "mpeg4", "mpeg2", "mpeg1"),
    "mkv": ("h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2", "mpeg1"),
    "webm": ("vp9", "av1"),
    "avi": ("h264", "mpeg4", "mpeg2", "mpeg1", "wmv2"),
    "ts": ("h264", "hevc", "mpeg4", "mpeg2", "mpeg1"),
    "mpg": ("mpeg2", "mpeg1"),
    "asf": ("wmv2", "mpeg4", "h264"),
}
EVERY_DAY = {("mp4", "h264"), ("mov", "mpeg4"), ("mkv", "hevc"), ("webm", "vp9"), ("avi", "mpeg4"), ("ts", "h264")}
EVERY_DAY |= {("mpg", "mpeg2"), ("asf", "wmv2")}
GRID = [
    pytest.param(kind, codec, marks=[] if (kind, codec) in EVERY_DAY else pytest.mark.matrix)
    for kind, codecs in HOLDS.items()
    for codec in codecs
]


def in_order(path) -> tuple[np.ndarray, list[float]]:
    """The truth: all pictures and their times, from start to end."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [float(frame.pts * frame.time_base) for frame in frames]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [time - times[0] for time in times]


def assert_true(path, bits=10, counts=COUNTS):
    pixels, seconds = in_order(path)
    drawn = read_bars(pixels, bits)
    for count in counts:
        frames = decode(path, count)
        assert frames.numbers == sample_frames(len(drawn), count)
        assert read_bars(frames.pixels, bits) == [drawn[number] for number in frames.numbers]
        if (np.diff(seconds) > 0).all():  # AVI says no times of frames out of order
            np.testing.assert_allclose(frames.seconds, [seconds[number] for number in frames.numbers], atol=1e-6)
        difference = np.abs(frames.pixels.astype(int) - pixels[list(frames.numbers)])
        assert difference.mean((1, 2, 3)).max() < 2
    return drawn


@pytest.mark.parametrize(("kind", "codec"), GRID)
def test_every_container_and_codec(tmp_path, kind, codec):
    drawn = assert_true(write_bars(tmp_path / f"clip.{kind}", codec))
    assert drawn == list(range(80))


@pytest.mark.parametrize(
    ("name", "bits", "first"),
    [
        ("trimmed-by-copy.mp4", 8, 45),
        ("edit-list-2s.mp4", 8, 20),
        ("camcorder.ts", 8, 0),
        ("vcd-mpeg1.mpg", 8, 0),
        ("xvid-bframes.avi", 8, 0),
        ("h264-open-gop.mp4", 8, 0),
        ("windows-media.wmv", 8, 0),
    ],
)
def test_trimmed_streamed_and_open_files(name, bits, first):
    assert assert_true(FILES / name, bits) == list(range(first, 90))


def test_a_trimmed_clip_begins_at_its_own_start():
    frames = decode(FILES / "trimmed-by-copy.mp4", 8)
    assert read_bars(frames.pixels, 8) == [45, 51, 57, 63, 70, 76, 82, 89]
    assert frames.seconds.round(2).tolist() == [0, 0.2, 0.4, 0.6, 0.83, 1.03, 1.23, 1.47]


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("keyint", [24, 60, pytest.param(250, marks=pytest.mark.matrix)])
def test_open_groups_of_hevc(tmp_path, kind, keyint):
    params = f"log-level=none:keyint={keyint}:min-keyint={keyint}"
    path = write_bars(tmp_path / f"open.{kind}", "hevc", num_frames=300, rate=10, **{"x265-params": params})
    assert assert_true(path) == list(range(300))


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_open_groups_of_h264(tmp_path, kind):
    options = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3", "bf": "3"}
    assert assert_true(write_bars(tmp_path / f"open.{kind}", num_frames=120, **options)) == list(range(120))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_pictures_refreshed_little_by_little(tmp_path, kind):
    """Intra refresh: what is called a key frame is whole some frames later."""
    options = {"x264-params": "intra-refresh=1:keyint=20", "bf": "0"}
    assert_true(write_bars(tmp_path / f"refresh.{kind}", num_frames=120, **options))


def test_far_key_frames_twenty_times(tmp_path):
    path = write_bars(tmp_path / "far.mp4", num_frames=1000, size=(320, 192), g="250", preset="ultrafast")
    for _ in range(20):
        frames = decode(path, 32)
        assert read_bars(frames.pixels) == list(frames.numbers)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(st.integers(1, 60), st.integers(0, 3), st.integers(1, 60), st.booleans())
def test_any_group_of_pictures(tmp_path_factory, gop, bframes, num_frames, decords):
    """Sizes that decord takes over, and sizes that it does not."""
    path = tmp_path_factory.mktemp("any") / "any.mp4"
    size = (160, 64) if decords else (150, 64)
    write_bars(path, num_frames=num_frames, size=size, g=str(gop), bf=str(bframes), preset="ultrafast")
    frames = decode(path, 16)
    assert read_bars(frames.pixels) == list(frames.numbers) == list(sample_frames(num_frames, 16))


def test_decord_serves_where_it_was_shown_right(tmp_path):
    plain = write_bars(tmp_path / "plain.mp4", num_frames=60)
    assert readers.suits_decord(plain, read_timeline(plain))
    others = [
        FILES / "h264-open-gop.mp4",
        FILES / "trimmed-by-copy.mp4",
        FILES / "mirrored-selfie.mp4",
        FILES / "width-48.mp4",
        write_bars(tmp_path / "far.mp4", num_frames=60, g="60"),
        write_bars(tmp_path / "other.mkv", num_frames=20),
        write_bars(tmp_path / "other.mp4", "mpeg4", num_frames=20),
    ]
    assert not any(readers.suits_decord(path, read_timeline(path)) for path in others)


# --- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_the_first_frame_is_at_zero_wherever_the_clock_starts(tmp_path, kind):
    path = write_bars(tmp_path / f"late.{kind}", num_frames=20, start=100)
    assert decode(path, 4).seconds[0] == 0
    assert_true(path, counts=(8,))


def test_variable_rates_are_spread_by_time_or_by_number():
    path = FILES / "screen-recording-vfr.mp4"
    by_time, by_number = decode(path, 8), decode(path, 8, sampling="number")
    assert by_number.numbers == sample_frames(90, 8)
    assert by_number.seconds[6] < 2.7 < by_number.seconds[7]
    assert by_time.numbers == (0, 49, 80, 82, 83, 85, 87, 89)
    assert read_bars(by_time.pixels, 8) == list(by_time.numbers)
    targets = np.linspace(0, by_time.seconds[-1], 8)
    assert (targets - by_time.seconds).max() < 1  # of which frames are shown
    assert decode(path, 1).seconds[0] == pytest.approx(5.67, abs=0.01)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=60), st.integers(1, 30))
def test_times_give_distinct_frames_in_order(gaps, wanted):
    seconds = np.concatenate([[0], np.cumsum(gaps)])
    numbers = sample_times(seconds, wanted)
    assert len(numbers) == min(wanted, len(seconds))
    assert list(numbers) == sorted(set(numbers))
    assert 0 <= numbers[0] <= numbers[-1] < len(seconds)
    if wanted > 1:
        assert (numbers[0], numbers[-1]) == (0, len(seconds) - 1)


def test_one_frame_in_an_mkv_is_at_zero():
    frames = decode(FILES / "one-frame.mkv", 8)
    assert (frames.numbers, frames.seconds.tolist(), read_bars(frames.pixels, 8)) == ((0,), [0.0], [7])


# --- files that are not whole ------------------------------------------------------------------------------------


def test_a_file_shorter_than_its_header_says():
    with pytest.raises(MediaError, match=r"cut off: its header says 9\.0 s, but 3\.2 s are there"):
        decode(FILES / "cut-off.mkv", 8)


@pytest.mark.parametrize(("kind", "codec"), [("webm", "vp9"), ("mkv", "h264"), ("avi", "mpeg4"), ("asf", "wmv2")])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_file_that_is_cut_off(tmp_path, kind, codec, share):
    whole = write_bars(tmp_path / f"whole.{kind}", codec, num_frames=150)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(MediaError, match=r"is cut off: its header says 6\.0 s, but [0-4]\.\d s are there$"):
        decode(path, 8)


def test_sound_that_is_longer_than_the_pictures(tmp_path):
    for kind in ("mp4", "mkv"):
        path = tmp_path / f"sound.{kind}"
        with av.open(str(path), "w") as container:
            pictures, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=44100)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
            for _ in range(10):
                black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                container.mux(pictures.encode(black))
            container.mux(pictures.encode())
            for number in range(200):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.rate, frame.pts = 44100, 1024 * number
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
        assert len(decode(path, 64).numbers) == 10


# --- the way up, sizes, streams ----------------------------------------------------------------------------------

CORNERS = np.array([[1, 2], [3, 4]], np.uint8)[..., None].repeat(3, -1)
ORIENTATIONS = {  # how a step to the right and a step down are shown: (a, b, c, d)
    (1, 0, 0, 1): [[1, 2], [3, 4]],
    (-1, 0, 0, 1): [[2, 1], [4, 3]],
    (1, 0, 0, -1): [[3, 4], [1, 2]],
    (-1, 0, 0, -1): [[4, 3], [2, 1]],
    (0, 1, -1, 0): [[3, 1], [4, 2]],
    (0, -1, 1, 0): [[2, 4], [1, 3]],
    (0, 1, 1, 0): [[1, 3], [2, 4]],
    (0, -1, -1, 0): [[4, 2], [3, 1]],
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_turned_and_mirrored(matrix):
    assert upright(CORNERS, matrix)[..., 0].tolist() == ORIENTATIONS[matrix]


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_turned_and_mirrored_files(tmp_path, matrix):
    """The same, with the matrix written into a real file's track header."""
    data = bytearray((FILES / "mirrored-selfie.mp4").read_bytes())
    one = 1 << 16
    written = struct.pack(">9i", -one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    place = data.index(written)
    a, b, c, d = (one * each for each in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    plain = decode(FILES / "mirrored-selfie.mp4", 1).pixels[0][:, ::-1]
    assert np.array_equal(decode(path, 1).pixels[0], upright(plain, matrix))


def test_a_mirrored_video_is_shown_as_players_show_it():
    picture = decode(FILES / "mirrored-selfie.mp4", 1).pixels[0].astype(int)
    corners = [[picture[y, x] for x in (3, -3)] for y in (3, -3)]
    colours = [[[0, 255, 0], [255, 0, 0]], [[255, 255, 255], [0, 0, 255]]]
    assert np.abs(np.array(corners) - colours).max() <= 3


@pytest.mark.parametrize("width", [2, 4, 8, 16, 24, 48, 18, 30, 62])
def test_narrow_videos(tmp_path, width):
    path = write_bars(tmp_path / "narrow.mp4", num_frames=6, size=(width, 32), preset="ultrafast")
    pixels, _ = in_order(path)
    assert np.abs(decode(path, 6).pixels.astype(int) - pixels).mean() < 1


def test_the_larger_of_two_streams_is_the_video(tmp_path):
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for _ in range(5):
            for stream, side in zip(streams, (32, 64), strict=True):
                picture = np.full((side, side, 3), side, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    assert decode(path, 5).pixels.shape == (5, 64, 64, 3)


@pytest.mark.parametrize(("matrix", "name"), [(1, "ITU709"), (5, "ITU601")])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_those_that_the_stream_names(tmp_path, matrix, name, full_range):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50], [255, 255, 255]], np.uint8)
    picture = colours.repeat(32, 0)[None].repeat(32, 0)
    path, value = tmp_path / "colours.mp4", 2 if full_range else 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 32, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, value
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", src_colorspace=0, dst_colorspace=matrix, src_color_range=2, dst_color_range=value
            )
            frame.colorspace, frame.color_range, frame.pts = matrix, value, number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for suits in (lambda *_: True, lambda *_: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(video, "suits_decord", suits)
            shown = decode(path, 1).pixels[0, 16, 16::32].astype(int)
        assert np.abs(shown - colours).max() <= 4, name


def test_threads_read_side_by_side(tmp_path):
    path = write_bars(tmp_path / "a.mkv", num_frames=60)
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_bars(decode(path, 16).pixels))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(sample_frames(60, 16))] * 4


def test_every_encoder_is_tried():
    assert {codec for codecs in HOLDS.values() for codec in codecs} == set(ENCODERS)
