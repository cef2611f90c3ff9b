from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tokenlab.cli import main
from tokenlab.training import training
from tokenlab.training.evaluate import interval


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main(["shapes", "--output", str(folder), "--smoke"]) == 0
    return folder


@pytest.mark.slow
def test_smoke_run_leaves_two_checkpoints_with_cards(finished: Path) -> None:
    for name in ("llava", "clip"):
        card = (finished / name / "README.md").read_text()
        assert f"tokenlab shapes --output {finished} --smoke" in card
        assert "| **mean over types** | 12 |" in card


@pytest.mark.slow
def test_interrupted_in_both_stages_and_resumed_is_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = training._update

    def interrupt_at(stop: int) -> None:
        calls = iter(range(stop))

        def interrupted(*args: object) -> float:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return update(*args)

        monkeypatch.setattr(training, "_update", interrupted)

    for stop in (2, 3):
        interrupt_at(stop)
        assert main(["shapes", "--output", str(tmp_path), "--smoke", "--resume"]) == 130
    monkeypatch.setattr(training, "_update", update)
    assert main(["shapes", "--output", str(tmp_path), "--smoke", "--resume"]) == 0
    for name in ("llava", "clip"):
        weights, expected = (load_file(folder / name / "model.safetensors") for folder in (tmp_path, finished))
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name


@pytest.mark.slow
def test_an_earlier_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shapes", "--output", str(finished), "--smoke"]) == 2
    assert "holds an earlier run: add --resume" in capsys.readouterr().err
    assert main(["shapes", "--output", str(finished), "--smoke", "--resume", "--seed", "1"]) == 2
    assert "holds a run with another seed or plan" in capsys.readouterr().err


def test_wilson_interval() -> None:
    low, high = interval([True] * 90 + [False] * 10)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
