"""`tokenlab models` says what every family offers, and why a compressor cannot run there."""

import json
import subprocess
import sys

import pytest

from tests.models.facts import LISTED, listed
from tokenlab.cli import main
from tokenlab.compressors import REGISTRY
from tokenlab.models.families import FAMILIES


def test_lists_every_family(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_gives_a_verdict_on_every_compressor(name, capsys):
    assert main(["models", name]) == 0
    printed = capsys.readouterr().out
    assert all(method in printed for method in REGISTRY)
    assert "auxiliary" in printed  # the joint space is never a checkpoint's own


def test_a_misspelt_family_gets_its_near_miss(capsys):
    assert main(["models", "lava"]) == 2
    assert "did you mean 'llava'" in capsys.readouterr().err


def test_the_list_is_fresh():
    assert LISTED.read_text() == listed(), "make facts"


def test_nothing_heavy_is_imported_for_it():
    heavy = "{'torch', 'transformers', 'scipy'} & set(sys.modules)"
    script = f"import sys; from tokenlab.cli import main; main(['models']); print({heavy})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "set()"


def test_families_can_be_chosen_by_what_runs_there(capsys):
    assert main(["models", "--runs", "tome", "--json"]) == 0
    found = {each["model_type"] for each in json.loads(capsys.readouterr().out)}
    assert found == {"llava", "video_llava"}
    assert main(["models", "--runs", "topc"]) == 2
    assert "no compressor is called 'topc'; did you mean 'topic'" in capsys.readouterr().err
