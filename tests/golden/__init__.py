"""What the authors' own code makes of synthetic inputs; README.md says where each case is from."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    params: dict
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def folders(method: str) -> list[Path]:
    """Every case of a method; a folder without any is a mistake, not a test that passes."""
    found = sorted((FOLDER / method).glob("case_*"))
    assert found, f"no golden case in {FOLDER / method}"
    return found


def read_case(path: Path) -> Case:
    """One case."""
    written = json.loads((path / "case.json").read_text())
    if isinstance(written, list):  # numbers alone
        return Case({"rows": written}, {}, {})
    params = written["params"]
    return Case(params, load_file(path / "inputs.safetensors"), load_file(path / "outputs.safetensors"))


def cases(method: str) -> list:
    """The cases as parameters of a test."""
    return [pytest.param(read_case(path), id=path.name) for path in folders(method)]


def assert_features(ours: Tensor, theirs: Tensor) -> None:
    """The tolerance for values that were merged."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
