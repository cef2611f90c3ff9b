"""Every YAML that comes along goes through the real expander: the configs themselves, and through them their parts."""

from pathlib import Path

import pytest

from tokenlab.cli.config.expand import expand, read
from tokenlab.compressors import REGISTRY
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import why_unsupported
from tokenlab.schema import files

CONFIGS = Path(__file__).parents[2] / "configs"
ALL = sorted(CONFIGS.rglob("*.yaml"))
WHOLE = sorted(CONFIGS.glob("*.yaml"))


def expanded(path):
    return expand(read(["--config", str(path)])[1])


def test_there_are_configs_and_every_part_is_used(monkeypatch):
    assert len(WHOLE) > 0
    opened = set()
    read_yaml = files.read_yaml
    monkeypatch.setattr(files, "read_yaml", lambda path: opened.add(path.resolve()) or read_yaml(path))
    for path in WHOLE:
        expanded(path)
    assert opened == set(ALL)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_config_expands_and_expanding_again_changes_nothing(path):
    once = expanded(path)
    assert once["model"]["pipelines"]["full"] == []
    assert expand([once]) == once


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_first_line_is_the_command(path):
    config = path.read_text().partition("\n")[0].split("--config ")[1].split()[0].rstrip(":")
    assert path.read_text().startswith("# tokenlab ")
    assert files.find_config(config).is_file()


def test_every_compressor_that_can_run_has_an_arm():
    steps = [
        step["class_path"] for path in WHOLE for arm in expanded(path)["model"]["pipelines"].values() for step in arm
    ]
    own = [method for method in REGISTRY.values() if method.__module__.startswith("tokenlab.")]
    runs = [method for method in own if why_unsupported(FAMILIES["llava"], method.example(), ["clip"]) is None]
    assert runs
    assert {f"{method.__module__}.{method.__name__}" for method in runs} <= set(steps)
