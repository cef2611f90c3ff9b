"""Packages that offer compressors, really installed as far as Python can tell: good ones, odd ones, broken ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokenlab
from tokenlab.compressors import REGISTRY, GridReduction
from tokenlab.compressors.spelling import expand_pipelines
from tokenlab.errors import UserError
from tokenlab.schema.plugins import load_plugins

CHECKOUT = str(Path(tokenlab.__file__).parents[1])
HEAD = """
from dataclasses import dataclass
from tokenlab.compressors import GridReduction, Reduction, TokenCompressor
"""
METHOD = '''
@dataclass(frozen=True, kw_only=True)
class {cls}(GridReduction, name="{name}"):
    """Keeps the first tokens."""

    def reduce_grid(self, view):
        return Reduction.keep(range(1), view.tokens.num_tokens)
'''
GOOD = HEAD + METHOD.format(cls="First", name="first")
ODD = HEAD + METHOD.format(cls="First", name="first").replace('"""Keeps the first tokens."""', "depth: int").replace(
    "view):", "view):\n        raise ValueError('no')\n"
)
BROKEN = {
    "raises": GOOD + "1 / 0",
    "imports what is not there": GOOD + "import absent_package",
    "exits": GOOD + "raise SystemExit(3)",
    "takes a built-in's name": GOOD + METHOD.format(cls="Other", name="random"),
    "takes a built-in's name and class": GOOD + METHOD.format(cls="Random", name="random"),
    "is abstract": GOOD + METHOD.format(cls="Other", name="other").replace("reduce_grid", "reduce"),
    "has no stage": GOOD + METHOD.format(cls="Other", name="other").replace("(GridReduction", "(TokenCompressor"),
    "is no Python": "class:",
}
COMMANDS = [
    ["compressors"],
    ["compressors", "first"],
    ["compressors", "--json"],
    ["models", "llava"],
    ["validate", "--config", "quickstart", "--print_config"],
]


def install(folder: Path, source: str, value: str = "their_methods") -> None:
    (folder / "their_methods.py").write_text(source)
    about = folder / "their_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[tokenlab.compressors]\ntheirs = {value}\n")


def shell(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    return python(folder, "-m", "tokenlab", *argv)


def python(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{folder}", "COLUMNS": "120"}
    command = [sys.executable, "-W", "error", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def test_a_plugin_is_one_of_the_compressors(tmp_path):
    install(tmp_path, GOOD)
    run = shell(tmp_path, "compressors", "first")
    assert (run.returncode, run.stderr) == (0, "")
    assert "first" in run.stdout


@pytest.mark.slow
def test_an_odd_plugin_breaks_no_command(tmp_path):
    """It asks for a parameter that nobody else's has, and says nothing of itself."""
    install(tmp_path, ODD)
    run = python(tmp_path, "-c", f"from tokenlab.cli import main\nprint([main(argv) for argv in {COMMANDS}])")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith(f"{[0] * len(COMMANDS)}\n")
    assert "cannot be built from a budget alone" in run.stdout  # a line of `models`


def test_a_broken_plugin_breaks_no_command(tmp_path):
    install(tmp_path, BROKEN["takes a built-in's name"])
    run = shell(tmp_path, "compressors")
    assert run.returncode == 0
    assert run.stderr.startswith("tokenlab: plug-in theirs (their_methods) of their-package is skipped: ")
    assert run.stderr.count("\n") == 1
    assert "random" in run.stdout


@pytest.fixture
def load(tmp_path, monkeypatch, caplog):
    """Loads a plug-in into this process; what it says."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(REGISTRY)

    def load(source: str, **more) -> str:
        install(tmp_path, source, **more)
        load_plugins("tokenlab.compressors", REGISTRY)
        return caplog.text

    yield load
    sys.modules.pop("their_methods", None)
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_skipped_whole_with_one_line(load, kind):
    before = dict(REGISTRY)
    said = load(BROKEN[kind])
    assert before == REGISTRY  # what it defined before it broke is gone as well
    assert said.count("tokenlab: plug-in theirs (their_methods) of their-package is skipped: ") == 1
    assert said.count("\n") == 1
    if "name" in kind:
        assert "two compressors are called 'random': tokenlab's (" in said
        assert "and their_methods's (their_methods." in said


def test_a_plugin_that_is_not_there_is_skipped(load):
    assert "is skipped: AttributeError" in load(GOOD, value="their_methods:absent")


@pytest.mark.parametrize("kind", ["takes a built-in's name", "raises"])
def test_a_class_path_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_methods.py").write_text(BROKEN[kind])
    step = {"class_path": "their_methods.Other", "init_args": {"retention_ratio": 0.5}}
    with pytest.raises(UserError, match=r"^model\.pipelines\.mine\[0\]: ") as raised:
        expand_pipelines({"mine": [step]})
    assert "\n" not in str(raised.value)
    sys.modules.pop("their_methods", None)
    REGISTRY.pop("first", None)


def test_a_built_in_s_name_is_refused_where_it_is_defined():
    before = dict(REGISTRY)
    with pytest.raises(UserError, match=r"two compressors are called 'random': tokenlab's .* and tests's .*Random\)"):

        class Random(GridReduction, name="random"):
            pass

    assert before == REGISTRY


def test_defining_a_method_again_replaces_it(monkeypatch):
    monkeypatch.setattr("tokenlab.compressors.base.REGISTRY", registry := {})

    def define():
        class Again(GridReduction, name="again"):
            pass

        return Again

    define()
    latest = define()
    assert registry == {"again": latest}
