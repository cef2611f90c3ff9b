import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.data import MediaError, decode
from tokenlab.data.media.readers import refuse_unmaintained_decord
from tokenlab.data.media.video import sample_frames
from tokenlab.errors import SampleError, UserError


@pytest.mark.parametrize("num_frames", [1, 2, 7, 19, 20, 64])
def test_frames_are_the_ones_they_say_they_are(tmp_path, write_video, grey_levels, num_frames):
    frames = decode(write_video(tmp_path / "a.mp4"), num_frames)
    assert frames.pixels.dtype == np.uint8
    assert frames.pixels.shape == (min(num_frames, 20), 32, 40, 3)
    assert frames.numbers == sample_frames(20, num_frames)
    assert grey_levels(frames.pixels) == list(frames.numbers)
    np.testing.assert_allclose(frames.seconds, np.array(frames.numbers) / 10, atol=1e-6)


def test_frames_between_key_frames_and_out_of_order_in_the_file(tmp_path, write_video, grey_levels):
    frames = decode(write_video(tmp_path / "b.mp4", 40, preset="medium", g="12", bf="3"), 9)
    assert grey_levels(frames.pixels) == list(frames.numbers) == [0, 4, 9, 14, 19, 24, 29, 34, 39]


def test_seconds_are_the_container_s_where_the_rate_varies(tmp_path, write_video):
    pts = np.cumsum([0, *[1, 2, 5] * 6, 1]).tolist()
    frames = decode(write_video(tmp_path / "vfr.mp4", 20, pts=pts), 5)
    np.testing.assert_allclose(frames.seconds, [pts[n] / 10 for n in frames.numbers], atol=1e-6)


def test_one_frame_is_a_video(tmp_path, write_video, grey_levels):
    frames = decode(write_video(tmp_path / "one.mp4", 1), 16)
    assert frames.numbers == (0,)
    assert frames.seconds.tolist() == [0.0]
    assert grey_levels(frames.pixels) == [0]


@pytest.mark.parametrize("name", ["a b.mp4", "concat:a.mp4", "%03d.mp4", "-i.mp4", "été 日本.mp4", "a#b?c.mp4"])
def test_any_file_name(tmp_path, write_video, monkeypatch, name):
    write_video(tmp_path / "plain.mp4", 2)
    shutil.copy(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert decode(name, 2).numbers == (0, 1)


@given(st.integers(1, 5000), st.integers(1, 500))
def test_candidates_are_spread(num_available, num_wanted):
    numbers = sample_frames(num_available, num_wanted)
    assert len(numbers) == min(num_available, num_wanted)
    assert list(numbers) == sorted(set(numbers))
    assert 0 <= numbers[0] <= numbers[-1] < num_available
    if len(numbers) > 1:
        steps = np.diff(numbers)
        assert steps.max() - steps.min() <= 1
        assert (numbers[0], numbers[-1]) == (0, num_available - 1)


def _text(path):
    path.write_text("not a video\n" * 50)


def _png(path):
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))


def _sound(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD_FILES = {
    "does not exist": lambda path: None,
    "is empty (0 bytes)": Path.touch,
    "is a directory": Path.mkdir,
    "is not a file": os.mkfifo,
    "is no video, or is cut off": _text,
    "is an image (png)": _png,
    "holds no video stream": _sound,
    "is a playlist (concat)": lambda path: path.write_text("ffconcat version 1.0\nfile good.mp4\n"),
}


@pytest.mark.parametrize("problem", BAD_FILES)
def test_bad_file_is_one_clear_line(tmp_path, write_video, capfd, problem):
    write_video(tmp_path / "good.mp4", 2)
    path = tmp_path / "bad.mp4"
    BAD_FILES[problem](path)
    capfd.readouterr()
    _assert_one_line(path, problem, capfd)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_file_whose_index_is_cut_off(tmp_path, write_video, capfd, share):
    whole = _index_last(write_video(tmp_path / "a.mp4", 60, noise=True))
    (tmp_path / "bad.mp4").write_bytes(whole[: int(share * len(whole))])
    _assert_one_line(tmp_path / "bad.mp4", "is no video, or is cut off", capfd)


def test_file_whose_pictures_are_cut_off_or_damaged(tmp_path, write_video, capfd):
    whole = write_video(tmp_path / "a.mp4", 60, noise=True, g="10").read_bytes()
    half, middle = len(whole) // 2, len(whole) // 3
    (tmp_path / "half.mp4").write_bytes(whole[:half])
    (tmp_path / "hole.mp4").write_bytes(whole[:middle] + bytes(half) + whole[middle + half :])
    _assert_one_line(tmp_path / "half.mp4", "is cut off: its header says 6.0 s, but 2.9 s are there", capfd)
    _assert_one_line(tmp_path / "hole.mp4", "(h264 in mov,mp4,m4a,3gp,3g2,mj2) cannot be decoded: ", capfd)


def test_packets_without_a_picture_are_no_frames(tmp_path, capfd):
    """MPEG-4 pictures that say "skipped" (vop_coded 0) are counted by the index, but never decoded."""
    with av.open(str(tmp_path / "skips.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        packets = [packet for i in range(21) for packet in stream.encode(picture if i < 20 else None)]
        for i, packet in enumerate(packets):
            skipped = av.Packet(bytes([0, 0, 1, 0xB6, 0x50 | i % 10, 0x9F]))
            skipped.pts, skipped.dts, skipped.time_base, skipped.stream = (
                packet.pts,
                packet.dts,
                packet.time_base,
                stream,
            )
            container.mux(skipped if 4 < i < 9 else packet)
    frames = decode(tmp_path / "skips.mp4", 20)
    assert frames.numbers == tuple(range(16))
    np.testing.assert_allclose(frames.seconds, [n / 10 for n in range(20) if not 4 < n < 9], atol=1e-6)
    assert capfd.readouterr() == ("", "")


def test_damage_elsewhere_does_not_outlast_the_file(tmp_path, write_video):
    good = write_video(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(good.read_bytes()[:-50])
    before = decode(good, 8)
    with pytest.raises(MediaError):
        decode(tmp_path / "bad.mp4", 64)
    assert (decode(good, 8).pixels == before.pixels).all()


@pytest.mark.parametrize("name", ["\x00.mp4", "\ud800.mp4", "x" * 300 + ".mp4"])
def test_name_that_no_file_can_have(tmp_path, name):
    with pytest.raises(MediaError, match="cannot be read"):
        decode(tmp_path / name, 2)


def test_decord_s_own_log_is_off(tmp_path, write_video, capfd):
    decode(write_video(tmp_path / "a.mp4"), 8)
    assert capfd.readouterr().err == ""


def test_unmaintained_decord_is_refused():
    refuse_unmaintained_decord("3.4.0")
    with pytest.raises(UserError, match=r"decord 0\.6\.0 is installed together with decord2.*pip uninstall"):
        refuse_unmaintained_decord("0.6.0")


def _assert_one_line(path, problem, capfd):
    with pytest.raises(MediaError) as raised:
        decode(path, 8)
    message = str(raised.value)
    assert isinstance(raised.value, SampleError)
    assert message.startswith(f"video '{path}' ")
    assert problem in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def _index_last(path):
    """The same video with its index behind its pictures, as cameras write it."""
    with av.open(str(path)) as source, av.open(str(path.with_suffix(".last.mp4")), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path.with_suffix(".last.mp4").read_bytes()
