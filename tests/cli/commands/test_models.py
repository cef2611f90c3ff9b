"""`tokenlab models` says what every family offers, and why a compressor cannot run there."""

import pytest

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
