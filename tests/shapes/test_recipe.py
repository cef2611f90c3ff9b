from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tokenlab.shapes import recipe, training
from tokenlab.shapes.measure import interval


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    recipe.main(["--output", str(folder), "--smoke"])
    return folder


def test_smoke_run_leaves_two_checkpoints_with_cards(finished: Path) -> None:
    for name in ("llava", "clip"):
        card = (finished / name / "README.md").read_text()
        assert f"recipe --output {finished} --smoke" in card
        assert "| **mean over types** | 12 |" in card


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
        with pytest.raises(KeyboardInterrupt):
            recipe.main(["--output", str(tmp_path), "--smoke", "--resume"])
    monkeypatch.setattr(training, "_update", update)
    recipe.main(["--output", str(tmp_path), "--smoke", "--resume"])
    for name in ("llava", "clip"):
        weights, expected = (load_file(folder / name / "model.safetensors") for folder in (tmp_path, finished))
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name


def test_an_earlier_run_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(SystemExit, match="earlier run"):
        recipe.main(["--output", str(finished), "--smoke"])
    with pytest.raises(SystemExit, match="another seed"):
        recipe.main(["--output", str(finished), "--smoke", "--resume", "--seed", "1"])


def test_wilson_interval() -> None:
    low, high = interval([True] * 90 + [False] * 10)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
