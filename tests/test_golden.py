"""Methods against what their authors' code made of the same inputs; `--golden DIR` takes another such folder."""

import json
from pathlib import Path

import pytest

from tests.golden import FOLDER, read_case
from tests.golden.adapters import ADAPTERS

NOT_WANTED = ("left_out", "optional")
"""Statuses of folders for which no adapter is needed."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case a test: of the adapters' folders, or of all folders that `--golden` finds."""
    if "path" not in metafunc.fixturenames:
        return
    other = metafunc.config.getoption("golden")
    folder = Path(other) if other else FOLDER
    names = sorted(path.parent.name for path in folder.glob("*/case_1")) if other else ADAPTERS
    cases = [path for name in names for path in sorted((folder / name).glob("case_*"))]
    metafunc.parametrize("path", cases, ids=lambda path: f"{path.parent.name}-{path.name}")


def test_decides_as_the_authors_code(path: Path):
    name, readme = path.parent.name, path.parents[1] / "README.json"
    status = json.loads(readme.read_text())["status"].get(name, {}) if readme.exists() else {}
    wanted = status.get("cases", {}).get(path.name, status.get("status"))
    if name not in ADAPTERS and wanted in NOT_WANTED:
        pytest.skip(status.get("reason", wanted))
    assert name in ADAPTERS, f"no adapter reads {name}"
    ADAPTERS[name](read_case(path))


def test_every_folder_is_read():
    assert set(ADAPTERS) == {path.name for path in FOLDER.iterdir() if any(path.glob("case_*"))}
