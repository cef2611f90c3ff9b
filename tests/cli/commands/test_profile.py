import json

import pytest

from tokenlab.cli import main
from tokenlab.models.costs.configs import SHIPPED

TOPIC = "topic=[{topic: {retention_ratio: 0.25}}]"


def test_help_names_what_comes_along(capsys):
    assert main(["profile", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in SHIPPED)
    assert all(option in out for option in ("--checkpoint", "--pipeline", "--frames", "--resolution", "--json"))


def test_the_table_fits_and_the_file_says_the_same(tmp_path, capsys):
    target = tmp_path / "profile.json"
    argv = ["profile", "--checkpoint", "shapes", "--frames", "8", "--new-tokens", "4", "--json", str(target)]
    pipelines = ["--pipeline", TOPIC, "--pipeline", "fastv=[{fastv: {retention_ratio: [0.5, 0.25]}}]"]
    assert main([*argv, *pipelines, "--pipeline", "native=[framefusion]"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "4nd²+2n²d+2ndm" in out
    assert "varies: depends on the video" in out
    assert "512 visual + 64 text tokens" in out
    written = json.loads(target.read_text())
    rows = {row["arm"]: row for row in written["arms"]}
    assert list(rows) == ["full", "topic", "fastv@0.5", "fastv@0.25", "native"]
    assert (rows["topic"]["visual_tokens"], rows["topic"]["prefill_tokens"]) == (128, 192)
    assert (rows["fastv@0.5"]["visual_tokens"], rows["fastv@0.5"]["visual_tokens_left"]) == (512, 256)
    assert rows["full"]["prefill_flops"] > rows["fastv@0.5"]["prefill_flops"] > rows["topic"]["prefill_flops"]
    assert rows["native"]["total_flops"] is None
    assert written["grid"] == {"frames": 8, "rows": 8, "columns": 8}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "the following arguments are required: --checkpoint"),
        (
            ["--checkpoint", "llava-1.5-7"],
            "--checkpoint: no config of the name 'llava-1.5-7' comes along; did you mean",
        ),
        (["--checkpoint", "./nowhere"], "--checkpoint: there is no file or folder './nowhere'"),
        (["--checkpoint", "shapes", "--frames", "0"], "--frames: must be a whole number of at least 1, got 0"),
        (["--checkpoint", "shapes", "--frames", "many"], "--frames: must be a whole number of at least 1, got many"),
        (["--checkpoint", "shapes", "--frames", "1000000"], "--frames: 1,000,000 frames of 64 visual tokens"),
        (["--checkpoint", "shapes", "--resolution", "640"], "--resolution: must be WIDTHxHEIGHT, such as 640x360, got"),
        (["--checkpoint", "shapes", "--dtype", "int4"], "--dtype: invalid choice: 'int4'"),
        (["--checkpoint", "shapes", "--fames", "3"], "there is no option --fames; did you mean '--frames'?"),
        (["--checkpoint", "shapes", "--json", "/nowhere/x"], "--json: cannot write /nowhere/x"),
        (["--checkpoint", "shapes", "--pipeline", "topic"], "--pipeline: write ARM=[COMPRESSORS]"),
        (["--checkpoint", "shapes", "--pipeline", "full=[]"], "--pipeline: full is always there"),
        (["--checkpoint", "shapes", "--pipeline", TOPIC, "--pipeline", TOPIC], "--pipeline: topic is given twice"),
        (
            ["--checkpoint", "shapes", "--pipeline", "a=[topik]"],
            "--pipeline a[0]: no compressor is called 'topik'; did",
        ),
        (["--checkpoint", "shapes", "--pipeline", "a=[topic]"], "--pipeline a[0].topic: retention_ratio is missing"),
        (["--checkpoint", "shapes", "--pipeline", "a=[topic: {"], "--pipeline a, line 1: "),
    ],
)
def test_mistakes_are_one_line(capsys, argv, line):
    assert main(["profile", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"tokenlab: error: {line}")
