"""LightningCLI without training: a frozen model, any dataset, a run folder and one line for every mistake."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import set_dumper
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from tokenlab import __version__
from tokenlab.cli.config.dumper import dump
from tokenlab.cli.config.messages import short_message
from tokenlab.data.module import QuestionData
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation, check_trainer
from tokenlab.report.progress import AnswerBar
from tokenlab.report.run_folder import RunFolder, default_loggers
from tokenlab.schema.arguments import check_names, parameters

COMMANDS = ("validate", "test", "predict")
LARGEST_SEED = 2**32 - 1
"""Of NumPy's, which `seed_everything` sets too."""


class EvaluationCLI(LightningCLI):
    """Parses, builds and runs; afterwards `model` is the evaluation that ran.

    Args:
        label: What a run folder without a name of its own is called after.
        arguments: The command line, beginning with the command.
    """

    def __init__(self, label: str, arguments: list[str]) -> None:
        self.label = label
        set_dumper("yaml", dump)
        parser = {"exit_on_error": False, "dump_header": [f"tokenlab=={__version__}"]}
        super().__init__(
            Evaluation,
            QuestionData,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            trainer_defaults={"devices": 1, "enable_checkpointing": False, "enable_model_summary": False},
            parser_kwargs=parser | {command: dict(parser) for command in COMMANDS},
            args=arguments,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands that need no training; nothing of theirs is left to set."""
        unused = {"ckpt_path", "weights_only", "verbose", "return_predictions"}
        return {command: {"model", "dataloaders", "datamodule"} | unused for command in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--run.folder`."""
        parser.add_lightning_class_args(RunFolder, "run")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses what it is given, whatever else stands in `sys.argv`."""
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            raise UserError(short_message(str(error), _options())) from None
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"seed_everything is {seed}, but must be from 0 to {LARGEST_SEED}")

    def instantiate_classes(self) -> None:
        """Builds what the config names; whatever a constructor raises is one line."""
        try:
            super().instantiate_classes()
        except Exception as error:  # jsonargparse wraps some of them
            raise _constructor_error(error) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with run folder, loggers and progress bar."""
        settings = self.config_init[str(self.subcommand)]
        folder, trainer = settings["run"], settings["trainer"]
        folder.label, folder.resolved_config = self.label, self.resolved_config()
        kwargs["callbacks"] = _with_progress_bar(
            trainer["callbacks"], wanted=trainer["enable_progress_bar"] is not False
        )
        wants_loggers = trainer["logger"] in (None, True)
        if wants_loggers:
            kwargs["logger"] = False
        try:
            built = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:  # such as a device that is not there
            raise UserError(f"trainer: {error}") from error
        check_trainer(built)
        if wants_loggers:  # only now: they make the folder
            built.loggers = default_loggers(folder.path, folder.resume)
        return built

    def resolved_config(self) -> str:
        """Every setting of this run, as a config that repeats it."""
        settings = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))[self.subcommand]
        settings["run"] |= {"folder": None, "resume": False}  # a repetition needs a folder of its own
        return dump(settings)

    def validate(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Runs the validation samples; the run folder prints the table."""
        self.trainer.validate(model, datamodule=datamodule, verbose=False)

    def test(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Runs the test samples; the run folder prints the table."""
        self.trainer.test(model, datamodule=datamodule, verbose=False)

    def predict(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Answers the samples; the run folder holds the answers."""
        self.trainer.predict(model, datamodule=datamodule, return_predictions=False)


def check_settings(config: dict[str, Any]) -> None:
    """Refuses keys under `trainer` and `run` that do not exist."""
    for key, cls in (("trainer", Trainer), ("run", RunFolder)):
        if isinstance(config.get(key), dict):
            check_names(key, config[key], parameters(cls))


def _with_progress_bar(callbacks: Callback | list[Callback] | None, wanted: bool) -> list[Callback]:
    callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks] if callbacks else []
    if wanted and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(AnswerBar())
    return callbacks


def _constructor_error(error: Exception) -> UserError:
    """The user's mistake that the error comes from, or a line that says what it is and where."""
    *_, root = causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return cause
    place = traceback.extract_tb(root.__traceback__)[-1]
    reason = f"{type(root).__name__}: {root}"
    return UserError(f"a class of the config cannot be built: {reason} ({place.filename}:{place.lineno})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _options() -> list[str]:
    """What may be set on the command line, beside `--model` and `--data`."""
    groups = {"trainer": Trainer, "run": RunFolder}
    settings = [f"--{group}.{name}" for group, cls in groups.items() for name in parameters(cls)]
    return [*settings, "--seed_everything", "--print_config", "--config"]
