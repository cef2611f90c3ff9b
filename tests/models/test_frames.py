"""Frames selected for a processor of one's own."""

import numpy as np
import pytest

import tokenlab
from tests.data.conftest import write_mp4
from tokenlab.compressors import REGISTRY
from tokenlab.data.samples import Frames
from tokenlab.errors import UserError

VIDEO = Frames(np.zeros((8, 4, 6, 3), np.uint8), tuple(range(0, 80, 10)), np.arange(8) / 2)


def test_frames_keep_their_numbers_and_times():
    frames = tokenlab.select_frames(VIDEO, "frame_stride@0.5")
    assert frames.numbers == (10, 30, 50, 70)
    assert frames.seconds.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert frames.pixels.shape == (4, 4, 6, 3)


def test_a_file_is_decoded(tmp_path):
    path = write_mp4(tmp_path / "video.mp4", num_frames=20, rate=10)
    frames = tokenlab.select_frames(path, [REGISTRY["frame_stride"](retention_ratio=0.25)], num_frames=8)
    assert frames.numbers == (5, 16)
    scored = tokenlab.select_frames(path, "aks@0.5", question="is there a red circle ?", num_frames=8, clip="shapes")
    assert len(scored.numbers) == 4


def test_what_cannot_be_is_one_line():
    with pytest.raises(UserError, match=r"topic acts on .*; use tokenlab.compress"):
        tokenlab.select_frames(VIDEO, "topic@0.5")
    with pytest.raises(UserError, match="aks scores frames against the question"):
        tokenlab.select_frames(VIDEO, "aks@0.5", question="what is there ?")
    with pytest.raises(UserError, match="num_frames is 0"):
        tokenlab.select_frames(VIDEO, "frame_stride@0.5", num_frames=0)
