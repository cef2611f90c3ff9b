"""validate, test and predict: Lightning's command line over configs that are expanded first."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from signal import SIGTERM

import yaml

from tokenlab.cli.commands.run_help import print_dataset, print_help
from tokenlab.cli.config.expand import expand, read
from tokenlab.errors import UserError


def run(command: str, argv: list[str]) -> int:
    """Runs one of Lightning's commands; 3 if some samples failed, 143 if it was told to end, else 0."""
    if (shown := _help(command, argv)) is not None:
        return shown
    names, configs, rest = read(argv)
    wants_help = "--help-all" in rest
    rest = ["--help" if each == "--help-all" else each for each in rest]
    config = {} if wants_help else expand(configs)
    silence_libraries()

    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from tokenlab.cli.commands.lightning_cli import EvaluationCLI, check_settings

    check_settings(config)
    arguments = [] if wants_help else [f"--config={yaml.safe_dump(config, sort_keys=False)}"]
    try:
        cli = EvaluationCLI("+".join(Path(name).stem for name in names) or "run", [command, *arguments, *rest])
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt from None
        if isinstance(exit_, SIGTERMException):  # it carries no code
            print("tokenlab: terminated", file=sys.stderr)
            return 128 + SIGTERM
        return int(exit_.code or 0)
    return 3 if cli.model.num_failed else 0


def _help(command: str, argv: list[str]) -> int | None:
    """Prints the help that is asked for; None if none is."""
    for place, argument in enumerate(argv):
        option, _, value = argument.partition("=")
        value = value or next(iter(argv[place + 1 :]), "")
        if option == "--data.help":
            return print_dataset(value)
        if option == "--model.pipelines.help":
            from tokenlab.cli.commands.compressors import show

            return show([value])
    return print_help(command) if {"-h", "--help"} & set(argv) else None


def silence_libraries() -> None:
    """Leaves the terminal to progress bar and table: hides what libraries say about themselves."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    of_no_concern = ("does not have many workers", "available but not used", "LeafSpec", "returned None")
    for message in (*of_no_concern, "Total length of .* is zero"):  # a run that is resumed may have nothing left to ask
        warnings.filterwarnings("ignore", f"(?s).*{message}")
