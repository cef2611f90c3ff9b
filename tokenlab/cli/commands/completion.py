"""`tokenlab completion`: what a shell has to know to finish commands, settings and names at a press of Tab."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from string import Template

from tokenlab.cli import COMMANDS, PAGES
from tokenlab.cli.commands import compressors, models
from tokenlab.cli.commands.options import Parser
from tokenlab.cli.commands.run_help import datasets, print_help
from tokenlab.schema.files import shipped_configs

DESCRIPTION = """\
Prints what makes a shell finish tokenlab's commands, settings and names at a press of Tab.
"""
EXAMPLES = """\
once, in ~/.bashrc or ~/.zshrc:
  source <(tokenlab completion bash)
  source <(tokenlab completion zsh)
"""

SCRIPT = Template("""\
_tokenlab() {
    local word=$${COMP_WORDS[COMP_CWORD]} before=$${COMP_WORDS[COMP_CWORD-1]} words=
    case "$$before" in
        --config) words="$configs" ;;
        --data.help) words="$datasets" ;;
        --model.pipelines.help|compressors) words="$compressors" ;;
        models) words="$families" ;;
    esac
    if [ "$$COMP_CWORD" = 1 ]; then
        words="$commands"
    elif [ "$${word#-}" != "$$word" ]; then
        case "$${COMP_WORDS[1]}" in
$options
        esac
    fi
    COMPREPLY=($$(compgen -W "$$words" -- "$$word"))
}
complete -o default -F _tokenlab tokenlab
""")
"""In plain bash, so that nothing is imported at a press of Tab; what it does not know are names of files."""

ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def show(argv: Sequence[str]) -> int:
    """Prints the script."""
    parser = Parser.of_page("completion", DESCRIPTION, EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh"))
    if (options := parser.read(argv)) is None:
        return 0
    print((ZSH if options.shell == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """The script for bash, of what is registered now."""
    cases = [f'            {name}) words="{_spaced(_settings(name))}" ;;' for name in COMMANDS]
    return SCRIPT.substitute(
        commands=_spaced(COMMANDS),
        configs=_spaced(shipped_configs()),
        datasets=_spaced(datasets()),
        compressors=_spaced([*compressors.listed(), "new"]),
        families=_spaced(models.listed()),
        options="\n".join(cases),
    )


def _settings(command: str) -> list[str]:
    """What a command can be told, read off its source: a page of help would import what the command needs."""
    if command not in PAGES:
        page = io.StringIO()
        with redirect_stdout(page):
            print_help(command)
        return re.findall(r"(?<![\w`-])--[a-z][\w.-]*\w", page.getvalue())
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return [*re.findall(r'\(\s*"(--[a-z][\w-]*)"', source), "--help"]


def _spaced(words: Iterable[str]) -> str:
    return " ".join(sorted(set(words)))
