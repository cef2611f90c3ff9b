"""What a shell sees: output, one line for a mistake, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

import tokenlab
from tokenlab.cli import main
from tokenlab.compressors import REGISTRY, LayerReduction

CHECKOUT = str(Path(tokenlab.__file__).parents[1])


def shell(*argv):
    environment = {**os.environ, "PYTHONPATH": CHECKOUT}
    return subprocess.run([sys.executable, "-m", "tokenlab", *argv], capture_output=True, text=True, env=environment)


def test_help_is_immediate():
    def seconds():
        start = perf_counter()
        assert "Examples:" in shell("--help").stdout
        return perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.3


def test_help_and_version(capsys):
    assert main([]) == main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"tokenlab {tokenlab.__version__}\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["fit"], "there is no fit: models are frozen and compressors learn nothing; use validate, test or predict"),
        (["valdate"], "there is no command 'valdate'; did you mean 'validate'? (tokenlab --help lists them)"),
        (
            ["validate"],
            "model is missing: a config says which `mllm` and which `pipelines`; start from --config quickstart",
        ),
        (["validate", "--config", "quikstart.yaml"], None),
        (["compressors", "randm"], "no compressor is called 'randm'; did you mean 'random'?"),
        (["compressors", "a", "b"], "compressors takes one name, got a b"),
        (
            ["compressors", "--stage", "gird"],
            "--stage: invalid choice: 'gird' (choose from 'frames', 'pixels', 'tower', 'grid', 'layers', 'cache')",
        ),
    ],
)
def test_mistakes_are_one_line(capsys, argv, line):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("tokenlab: error: ")
    assert line is None or captured.err == f"tokenlab: error: {line}\n"


def test_real_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("tokenlab.cli.commands.compressors.show", lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["compressors"])


def test_compressors_for_programs(capsys):
    assert main(["compressors", "--json", "--stage", "layers"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found.keys() == {name for name, cls in REGISTRY.items() if issubclass(cls, LayerReduction)}
    assert found["holitom"]["stages"] == ["grid", "layers"]
    assert found["fastv"]["looks_at_question"]
    assert not found["sttm"]["looks_at_question"]


@pytest.mark.parametrize("name", [name for name, cls in REGISTRY.items() if cls.paper])
def test_published_methods_say_where_and_under_which_licence(name):
    assert REGISTRY[name].venue
    assert REGISTRY[name].licence


def test_table_of_compressors(capsys):
    assert main(["compressors"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in REGISTRY)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_page_of_a_compressor(capsys, name):
    assert main(["compressors", name]) == 0
    assert "retention_ratio" in capsys.readouterr().out


def test_printed_config_round_trips(tmp_path, capsys):
    first = shell("validate", "--config", "quickstart", "--print_config")
    assert (first.returncode, first.stderr) == (0, "")
    assert "retention_ratio: 0.25" in first.stdout
    (tmp_path / "d.yaml").write_text(first.stdout)
    assert main(["validate", "--config", str(tmp_path / "d.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == first.stdout


@pytest.mark.parametrize(
    "argv",
    [
        ["compressors"],
        pytest.param(["validate", "--config", "quickstart", "--print_config"], marks=pytest.mark.slow),
    ],
)
def test_output_that_nobody_reads_is_one_line(argv):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": CHECKOUT}
    run = subprocess.run(
        [sys.executable, "-m", "tokenlab", *argv], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, "tokenlab: nobody reads the output any more\n")
