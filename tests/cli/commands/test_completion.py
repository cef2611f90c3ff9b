"""Completion, in the shells themselves."""

import shutil
import subprocess

import pytest

from tokenlab.cli import main
from tokenlab.cli.commands.completion import script


def completed(text: str) -> set[str]:
    """What bash offers at the end of a command line."""
    words = text.split(" ")
    line = f"COMP_WORDS=({' '.join(map(repr, words))}) COMP_CWORD={len(words) - 1}"
    lines = f"{script()}\n{line}\n_tokenlab\necho ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("tokenlab val", {"validate"}),
        ("tokenlab validate --config q", {"quickstart"}),
        ("tokenlab validate --model.ti", {"--model.timed_questions", "--model.timed_batch_sizes"}),
        ("tokenlab report --wi", {"--within"}),
        ("tokenlab compressors vispr", {"vispruner"}),
        ("tokenlab models qwen3", {"qwen3_vl"}),
        ("tokenlab validate --data.help sha", {"shapes"}),
        ("tokenlab nothing --x", set()),
    ],
)
def test_bash_offers_what_there_is(text, offered):
    assert completed(text) == offered


def test_both_shells_read_their_script(capsys):
    for shell in ("bash", "zsh"):
        assert main(["completion", shell]) == 0
        printed = capsys.readouterr().out
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=printed, text=True, check=True)
    assert main(["completion", "fish"]) == 2
