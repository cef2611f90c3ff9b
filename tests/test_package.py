"""The built wheel, installed elsewhere, runs the quickstart: everything it needs comes along."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_runs_the_quickstart(tmp_path):
    def run(*command: str, **kwargs) -> str:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=500, **kwargs)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # no option: a source distribution, and the wheel made of that
    run("-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25e6
    names = zipfile.ZipFile(wheel).namelist()
    assert "tokenlab/py.typed" in names
    assert any(name.endswith("shapes/checkpoint/llava/model.safetensors") for name in names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]

    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel))
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    where = run("-c", "import tokenlab; print(tokenlab.__file__)", cwd=elsewhere, env=environment)
    assert Path(where.strip()).is_relative_to(site)
    run("-m", "tokenlab", "validate", "--config", "quickstart", "--data.num_videos=2", cwd=elsewhere, env=environment)
    (summary,) = (elsewhere / "runs").glob("*/summary.json")
    arms = json.loads(summary.read_text())["arms"]
    assert [arm["arm"] for arm in arms] == ["full", "random", "differential", "similarity", "topic", "text", "joint"]
    assert all(arm["n"] == 6 and arm["failed"] == 0 for arm in arms)


def test_no_file_is_large_and_no_pickle_is_tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in listed if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    assert sum((ROOT / name).stat().st_size for name in listed if "checkpoint" in name) < 25e6
