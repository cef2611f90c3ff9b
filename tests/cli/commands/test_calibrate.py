"""`tokenlab calibrate`: a scheme that meets its budget, written as a config that runs."""

from itertools import accumulate

import pytest
import yaml

from tokenlab.cli import main
from tokenlab.compressors import Pipeline


def test_a_scheme_is_found_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "fitprune", "--retention", "0.4", "--videos", "2", "--output", "fitted.yaml"]) == 0
    out = capsys.readouterr().out
    assert "watched 6 media; layers read 4" in out
    written = yaml.safe_load((tmp_path / "fitted.yaml").read_text())
    ((arm, (step,)),) = written["model"]["pipelines"].items()
    scheme = step["fitprune"]["scheme"]
    assert arm == "fitprune@0.4"
    left = [1 - gone for gone in accumulate(scheme)]
    assert len(left) == 4
    assert 0.4 <= sum(left) / 4 + 1e-5 < 0.45  # a share of attention moves whole tokens
    few = ["--data.num_videos=1", "--data.num_workers=0", "--model.timed_questions=0"]
    assert main(["validate", "--config", "quickstart", "--config", "fitted.yaml", *few]) == 0
    assert Pipeline.from_config("fitted.yaml", arm=arm).compressors[0].scheme == scheme


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["random"], "calibrate: random has nothing that is fitted to a model; those that have: fitprune"),
        (["fitprun"], "calibrate: no compressor is called 'fitprun'; did you mean 'fitprune'?"),
        (["fitprune", "--retention", "1"], "--retention: must be greater than 0 and less than 1, got 1"),
        (["fitprune", "--checkpoint", "absent/folder"], "absent/folder"),
        (["fitprune", "--config", "quikstart"], "quikstart"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, line):
    assert main(["calibrate", *argv]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
