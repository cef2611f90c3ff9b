"""The command line. This file imports nothing heavy: help and typing mistakes answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from signal import SIGPIPE

from tokenlab import __version__
from tokenlab.errors import UserError

HELP = """\
tokenlab: learning-free visual-token reduction on frozen multimodal LLMs, compared honestly on the same samples.

usage: tokenlab COMMAND [ARGUMENTS]

Run: the arms of a config on a dataset (each is a command of Lightning's command line)
  validate      on the validation samples
  test          on the test samples
  predict       answer questions that need no right answer

Compare:
  report        a run's numbers again, from its records; several runs side by side, as a table, Markdown, LaTeX or CSV
  verify        a random few of a run's questions, answered anew and compared

Look:
  compressors   list the compressors and their parameters; `tokenlab compressors NAME` shows one in full
  models        list the model families and what they offer; `tokenlab models FAMILY` says which compressors run there
  show          one question about one video: what each pipeline answers, and a picture of the tokens it keeps
  profile       what pipelines would cost on a model of real size, from its config alone
  bench         what a method saves in time on a model of real size, with random weights
  calibrate     what a method has to know of a model, such as FitPrune's scheme
  doctor        which versions are here and which are tested; checks that tiny models still answer exactly

Extend:
  check         whether a compressor, yours too, keeps what all of them promise; `tokenlab compressors new` writes one
  shapes        rebuild the embedded model and the video world it was trained on

Help:
  completion    what your shell needs to finish commands, settings and names at a press of Tab
  COMMAND --help, --version

Examples:
  tokenlab validate --config quickstart
  tokenlab test --config my.yaml --model.pipelines.mine='[random: {retention_ratio: 0.5}]' --data.num_videos=10

A config holds `model:` (the frozen `mllm` and the `pipelines`, one per arm) and `data:`. Several --config files are
merged in their order, a later one adds arms or, with `ARM: null`, removes them. `retention_ratio: [0.5, 0.25]` makes
one arm of each. Values may name other YAML files. `--print_config` shows the result and runs nothing.
Exit code: 0 all answered, 1 `verify` found a difference, 2 a mistake in what was asked, 3 some samples failed (they
are in the run's records), 130 Ctrl-C, 143 SIGTERM.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a user's mistake is one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] == "--version":
        print(f"tokenlab {__version__}")
        return 0
    try:
        code = _command(argv[0])(argv[1:])
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _unread()
    except UserError as error:
        print(f"tokenlab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tokenlab: interrupted", file=sys.stderr)
        return 130


def _unread() -> int:
    """Ends as a shell expects of a command whose reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it
    print("tokenlab: nobody reads the output any more", file=sys.stderr)
    return 128 + SIGPIPE


def _command(name: str) -> Callable[[list[str]], int]:
    """The function behind a command, imported only now."""
    if name == "fit":
        raise UserError(
            "there is no fit: models are frozen and compressors learn nothing; use validate, test or predict"
        )
    if name not in COMMANDS:
        from tokenlab.schema.arguments import suggest

        raise UserError(f"there is no command {name!r}{suggest(name, COMMANDS)} (tokenlab --help lists them)")
    return COMMANDS[name]


def _run(command: str) -> Callable[[list[str]], int]:
    def start(argv: list[str]) -> int:
        from tokenlab.cli.commands.run import run

        return run(command, argv)

    return start


def _page(command: str) -> Callable[[list[str]], int]:
    def start(argv: list[str]) -> int:
        return import_module(f"tokenlab.cli.commands.{command}").show(argv)

    return start


PAGES = (
    "compressors",
    "models",
    "show",
    "profile",
    "bench",
    "doctor",
    "calibrate",
    "check",
    "completion",
    "report",
    "verify",
    "shapes",
)
"""Commands with a file of their own."""

COMMANDS = {name: _run(name) for name in ("validate", "test", "predict")} | {name: _page(name) for name in PAGES}
