"""Methods against what their authors' code made of the same inputs; `--golden DIR` takes another such folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.golden import FOLDER, Case, read_case
from tests.golden.views import decide_on_grid, mask_of, on_grid
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import TowerAttention

NOT_WANTED = ("left_out", "optional")
"""Statuses of folders for which no adapter is needed."""


def divprune(case: Case) -> None:
    method = REGISTRY["divprune"](retention_ratio=case.params["threshold_ratio"])
    assert torch.equal(decide_on_grid(method, on_grid(case.inputs["x"])).anchor, case.outputs["keep_sorted"])


def dtd(case: Case) -> None:
    mode = "absolute" if case.params["absolute"] else "relative"
    method = REGISTRY["dtd"](threshold=case.params["threshold"], mode=mode)
    tokens = on_grid(case.inputs["x"], case.params["frames"], case.params["h"])
    kept, prefix = decide_on_grid(method, tokens).anchor, case.params["prefix_tokens"]
    before, behind = torch.arange(prefix), torch.arange(case.params["suffix_tokens"]) + prefix + tokens.num_tokens
    assert torch.equal(torch.cat([before, prefix + kept, behind]), case.outputs["kept_abs_index"])
    assert method.positions == "keep"


def evs(case: Case) -> None:
    method = REGISTRY["evs"](retention_ratio=1 - case.params["pruning_rate"])
    rows = case.params["H"] // case.params["spatial_merge_size"]
    tokens = on_grid(case.inputs["x"], case.params["T"], rows)
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["mask"])


def fastervlm(case: Case) -> None:
    method = REGISTRY["fastervlm"](tokens=case.params["visual_token_num"])
    received = case.inputs["cls_attention_heads"].mean(dim=1)
    tokens = on_grid(case.inputs["features"], len(received), 1, {TowerAttention(-2, "cls"): received.flatten()})
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["keep_mask"].flatten())


def vidcom2(case: Case) -> None:
    method = REGISTRY["vidcom2"](retention_ratio=case.params["base_scale"], channels=case.params["channel_ratio"])
    tokens = on_grid(case.inputs["x"], case.params["num_frames"])
    assert torch.equal(decide_on_grid(method, tokens).anchor, case.outputs["keep_flat_index"])


ADAPTERS: dict[str, Callable[[Case], None]] = {
    adapter.__name__: adapter for adapter in (divprune, dtd, evs, fastervlm, vidcom2)
}
"""By folder."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case a test: of the adapters' folders, or of all folders that `--golden` finds."""
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
