"""Every notebook is committed with its outputs, and runs from top to bottom: its own assertions are the figures."""

import nbformat
import pytest

from tests.notebooks import NOTEBOOKS, executed

LARGEST = 400_000
"""Bytes of a notebook with its pictures."""

OTHERS = {"redundancy": "llava_onevision", "new_compressor": "llava", "compare_runs": "llava"}
"""A family that each is run on besides the embedded model; the first has no [CLS]."""


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(OTHERS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_outputs_and_without_noise(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image" in kind for output in outputs for kind in output.get("data", {}))
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert path.stat().st_size < LARGEST


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_the_embedded_model(path, tmp_path):
    executed(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_another_checkpoint(path, tmp_path, checkpoints):
    executed(path, tmp_path, str(checkpoints[OTHERS[path.stem]]))
