"""One question about one medium, drawn."""

import numpy as np
import pytest
from PIL import Image

from tests.test_evaluation import write_video
from tokenlab.cli import main


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "video.mp4", 5)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


@pytest.mark.parametrize(
    ("family", "file"), [("llava", "image.png"), ("qwen3_vl", "video.mp4"), ("llava_next", "image.png")]
)
def test_each_pipeline_answers_and_is_drawn(checkpoints, media, tmp_path, capsys, family, file):
    arms = ["--pipeline", "random@0.5", "--pipeline", "two=[{random: {retention_ratio: 0.5}}, fastv@0.5]"]
    options = ["--checkpoint", str(checkpoints[family]), "--new-tokens", "3", "--output", str(tmp_path / "a.png")]
    assert main(["show", *arms, *options, str(media / file), "what is this ?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["full", "random@0.5", "two", "Drawn"]
    kept = [int(line.split("(")[1].split()[0]) for line in lines[:3]]
    assert kept[0] > kept[1] > kept[2]
    drawn = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    thirds = [part.mean() for part in np.array_split(drawn, 3)]
    assert thirds[0] > thirds[1] > thirds[2]  # the more is gone, the darker


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.mp4", "what ?"], "nowhere.mp4' does not exist"),
        (["nowhere.png", "what ?"], "nowhere.png"),
        (["--pipeline", "topc@0.5", "a.mp4", "what ?"], "did you mean 'topic'?"),
        (["--output", "no/where.png", "a.mp4", "what ?"], "--output: cannot write no/where.png"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_answered_says_so(checkpoints, media, tmp_path, capsys):
    options = ["--checkpoint", str(checkpoints["llava"]), "--output", str(tmp_path / "a.png")]
    assert main(["show", *options, str(media / "image.png"), " "]) == 3
    assert capsys.readouterr().out == "full: failed: the question is empty\n"
