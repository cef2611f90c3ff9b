"""Methods of one's own: written by `compressors new`, held to what all promise by `check`, named by their file."""

import re
import sys
from pathlib import Path

import pytest

from tokenlab.cli import main
from tokenlab.compressors import REGISTRY, STAGES
from tokenlab.compressors.spelling import parse_pipeline
from tokenlab.errors import UserError
from tokenlab.schema.arguments import class_path

BAD = """
import torch
from dataclasses import dataclass
from tokenlab.compressors import GridReduction, Reduction


@dataclass(frozen=True, kw_only=True)
class Bad(GridReduction, name="bad"):
    def reduce_grid(self, view):
        tokens = view.tokens.num_tokens
        keep = max(1, int(tokens * self.retention_ratio))
        return Reduction.keep(torch.rand(tokens).topk(keep).indices.sort().values, tokens)
"""


@pytest.fixture(autouse=True)
def registry():
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "stage", [pytest.param(each.stage, marks=[] if each.stage == "grid" else pytest.mark.slow) for each in STAGES]
)
def test_a_new_method_keeps_all_promises(folder, capsys, stage):
    assert main(["compressors", "new", f"my_{stage}", "--stage", stage]) == 0
    assert f"tokenlab check my_{stage}.py:My{stage.capitalize()}" in capsys.readouterr().out
    assert main(["check", f"my_{stage}.py:My{stage.capitalize()}", "--examples", "10"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    count = re.search(rf"my_{stage}: (\d+) of \1 promises kept", out)
    assert count
    assert "broken" not in out
    assert "tiny llava: " in out
    assert "promises_of(My" in (folder / f"test_my_{stage}.py").read_text()


def test_broken_promises_are_named_with_what_was_drawn(folder, capsys):
    (folder / "bad.py").write_text(BAD)
    assert main(["check", "bad.py:Bad"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "broken is frozen and documented its docstring has no first line of at most 120 characters" in out
    assert "broken decides the same twice in torch.float32 the same tokens are reduced otherwise" in out
    assert re.search(
        r"tokens \d+ are left, but kept\(\) says \d+ \(at ratio=[\d.]+, frames=\d, rows=\d, columns=\d\)", out
    )
    assert "tiny" not in out  # models are for methods that keep their promises


def test_nothing_is_written_over(folder, capsys):
    (folder / "mine.py").write_text("here")
    assert main(["compressors", "new", "mine", "--stage", "grid"]) == 2
    assert "mine.py is there already" in capsys.readouterr().err
    assert (folder / "mine.py").read_text() == "here"
    assert not (folder / "test_mine.py").exists()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["compressors", "new", "random", "--stage", "grid"], "there already is a compressor 'random'"),
        (["compressors", "new", "My-Method", "--stage", "grid"], "'My-Method' names no module"),
        (["compressors", "new", "class", "--stage", "grid"], "'class' names no module"),
        (["compressors", "new", "mine"], "the following arguments are required: --stage"),
        (
            ["compressors", "new", "mine", "--stage", "grid", "--folder", "absent"],
            "--folder: there is no folder absent",
        ),
        (
            ["check", "absent.py:Mine"],
            "check: class_path 'absent.py:Mine' cannot be imported: there is no file absent.py",
        ),
        (["check", "randm"], "no compressor is called 'randm'; did you mean 'random'?"),
        (["check", "random", "--examples", "0"], "--examples: must be a whole number of at least 1"),
        (["check", "json:loads"], "class_path 'json:loads' is not a TokenCompressor"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, argv, line):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_file_is_a_place_for_compressors(folder):
    main(["compressors", "new", "mine", "--stage", "grid"])
    (elsewhere := folder / "elsewhere").mkdir()
    (elsewhere / "mine.py").write_text((folder / "mine.py").read_text().replace('name="mine"', 'name="theirs"'))
    one, other = parse_pipeline("mine.py:Mine@0.25+elsewhere/mine.py:Mine").compressors
    assert (one.name, one.retention_ratio, other.name, other.retention_ratio) == ("mine", 0.25, "theirs", 0.5)
    assert class_path(type(other)) == f"{elsewhere}/mine.py:Mine"
    assert parse_pipeline(f"[{{{class_path(type(one))}: {{retention_ratio: 0.25}}}}]").compressors == (one,)
    (folder / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match=r"class_path 'broken.py:Mine' cannot be imported: ZeroDivisionError"):
        parse_pipeline("broken.py:Mine@0.5")


def test_a_run_with_a_file_s_method_can_be_repeated(folder, capsys):
    main(["compressors", "new", "mine", "--stage", "grid"])
    arm = f"--model.pipelines={{mine: [{folder}/mine.py:Mine@0.5]}}"
    few = ["--data.num_videos=1", "--data.num_workers=0", "--model.timed_questions=0"]
    assert main(["validate", "--config", "quickstart", "--model.pipelines=null", arm, *few]) == 0
    (config,) = folder.glob("runs/*/config.yaml")
    assert f"class_path: {folder}/mine.py:Mine" in config.read_text()
    sys.modules.pop(REGISTRY.pop("mine").__module__)  # as in another process
    assert main(["validate", "--config", str(config)]) == 0


def test_a_method_that_changes_what_it_is_shown_breaks_a_promise(folder, capsys):
    main(["compressors", "new", "meddler", "--stage", "layers"])
    file = folder / "meddler.py"
    file.write_text(file.read_text().replace("        scores =", "        view.hidden.zero_()\n        scores ="))
    assert main(["check", "meddler.py:Meddler", "--examples", "5"]) == 1
    assert "the method changes what it is shown" in " ".join(capsys.readouterr().out.split())
