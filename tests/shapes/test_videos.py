from pathlib import Path

import numpy as np
import pytest

from tokenlab.shapes.videos import decode_video, encode_video, ensure_videos
from tokenlab.shapes.world import Scene, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def test_files_read_back_close_to_the_render(folder: Path) -> None:
    for path in ensure_videos(folder, [3, 4]):
        rendered = render(Scene.from_seed(int(path.stem))).astype(int)
        decoded = decode_video(path).astype(int)
        assert decoded.shape == rendered.shape
        assert np.abs(decoded - rendered).mean() < 5
        # No frame is late or early.
        distance = np.abs(decoded[:, None] - rendered[None]).mean((2, 3, 4))
        assert (distance.diagonal() <= distance.min(1) + 0.1).all()


def test_what_is_there_is_kept_and_nothing_is_left_over(folder: Path) -> None:
    path = ensure_videos(folder, [3])[0]
    made = path.stat().st_mtime_ns
    assert ensure_videos(folder, [3, 5])[0].stat().st_mtime_ns == made
    assert {path.suffix for path in folder.iterdir()} == {".mp4"}
    assert path.read_bytes()[4:8] == b"ftyp"


def test_bytes_in_memory_and_on_disk_decode_alike(folder: Path) -> None:
    path = ensure_videos(folder, [5])[0]
    assert (decode_video(path) == decode_video(encode_video(render(Scene.from_seed(5))))).all()
