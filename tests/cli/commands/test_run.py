"""Runs with a model that answers at once: what the command line does before, during and after a run."""

import signal

import pytest
import yaml
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from tokenlab.cli import main
from tokenlab.cli.commands import lightning_cli as glue
from tokenlab.cli.commands.run_help import TRAINER, datasets
from tokenlab.compressors import TokenCompressor
from tokenlab.data import DATASETS
from tokenlab.data.module import QuestionData
from tokenlab.errors import UserError
from tokenlab.evaluation import Evaluation
from tokenlab.models.settings import MLLM
from tokenlab.report.run_folder import RunFolder
from tokenlab.schema.arguments import parameters

CONFIG = """
model: {mllm: {checkpoint: shapes}, pipelines: {full: [], topic: [{topic: {retention_ratio: [0.5, 1]}}]}}
data: {class_path: tests.cli.test_run.Numbers}
trainer: {logger: false, accelerator: cpu}
"""


class Numbers(QuestionData):
    def clips(self, split):
        return []

    def setup(self, stage):
        pass

    def val_dataloader(self):
        return DataLoader(range(3), collate_fn=lambda numbers: [])


class Unbuildable(Numbers):
    """A data set of somebody else's, whose constructor fails in its own way."""

    error: Exception = UserError("data.colour is 'x', but must be red")

    def __init__(self, **shared):
        super().__init__(**shared)
        raise self.error


class Answers(LightningModule):
    outcome = 0

    def __init__(self, mllm: MLLM, pipelines: dict[str, list[TokenCompressor]], seed: int = 0) -> None:
        super().__init__()
        self.pipelines, self.num_failed = pipelines, 0

    def validation_step(self, batch):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        self.num_failed = self.outcome


@pytest.fixture
def validate(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(CONFIG.replace("tests.cli.test_run", __name__))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(glue, "Evaluation", Answers)
    interrupt = signal.getsignal(signal.SIGINT)

    def run(*argv, outcome=0):
        monkeypatch.setattr(Answers, "outcome", outcome)
        return main(["validate", "--config", "mine.yaml", *argv])

    yield run
    signal.signal(signal.SIGINT, interrupt)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(0, 0), (2, 3), (KeyboardInterrupt(), 130), (SIGTERMException(), 143), (UserError("no\n  way"), 2)],
)
def test_exit_codes(validate, capsys, outcome, code):
    assert validate(outcome=outcome) == code
    if code == 2:
        assert capsys.readouterr().err.endswith("tokenlab: error: no way\n")


def test_lightning_s_own_complaints_are_one_line(validate, capsys):
    assert validate(outcome=MisconfigurationException("no loader")) == 2
    assert capsys.readouterr().err.endswith("tokenlab: error: trainer: no loader\n")


def test_bugs_of_a_run_keep_their_traceback(validate):
    with pytest.raises(ZeroDivisionError):
        validate(outcome=ZeroDivisionError())


def test_the_run_folder_holds_a_config_that_repeats_the_run(validate, tmp_path):
    assert validate("--run.folder", "here", "--model.pipelines.text=[text: {retention_ratio: 0.5}]") == 0
    config = yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())
    assert list(config["model"]["pipelines"]) == ["full", "topic@0.5", "topic@1", "text"]
    assert config["model"]["pipelines"]["topic@1"][0]["init_args"]["positions"] == "keep"
    assert config["run"] == {"folder": None, "resume": False, "tokens": 200, "verbose": False}
    assert main(["validate", "--config", "here/config.yaml"]) == 0
    assert list((tmp_path / "runs").glob("config-*"))


def test_the_terminal_is_left_to_progress_bar_and_table(validate, capfd, recwarn):
    assert validate() == 0
    captured = capfd.readouterr()
    assert captured.err == ""  # where nobody watches, progress is a line a minute
    for noise in ("GPU available", "Tip", "Seed set", "Warning", "Validate metric"):
        assert noise not in captured.out
    shown = [warning for warning in recwarn if not issubclass(warning.category, DeprecationWarning)]
    assert [str(warning.message) for warning in shown] == []


def test_loggers_write_into_the_run_folder(validate, tmp_path):
    assert validate("--trainer.logger=null", "--run.folder=logged") == 0
    assert list((tmp_path / "logged").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--trainer.devces=2"], "there is no option --trainer.devces; did you mean '--trainer.devices'"),
        (["--trainer.max_epochs=x"], "trainer.max_epochs: must be a whole number or null, got x"),
        (["--trainer.accelerator=tpuu"], "trainer: "),
        (["--run.foldr=x"], "there is no option --run.foldr; did you mean '--run.folder'?"),
        (["--seed_everything=-5"], "seed_everything is -5, but must be from 0 to 4294967295"),
        (
            ["--trainer.precision=bf16-mixed"],
            "trainer.precision is 'bf16-mixed' (MixedPrecision), but the precision of",
        ),
        (["--trainer.precision=16-true"], "trainer.precision is '16-true' (HalfPrecision), but the precision of"),
        (["--trainer.plugins=lightning.pytorch.plugins.DoublePrecision"], "trainer.precision is '64-true'"),
        (["--trainer.devices=2"], "trainer.devices=2: a run is measured on one device; set it to 1"),
        (["--data.num_frames=-1"], "data.num_frames is -1, but must be at least 1"),
        (["--data.batch_size=0"], "data.batch_size is 0, but must be at least 1"),
        (["--model.seed=x"], "model.seed: must be a whole number, got x"),
        (["extra"], "'extra' stands alone"),
    ],
)
def test_mistakes_are_one_line(validate, capsys, argv, line):
    assert validate(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tokenlab: error: {line}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Unbuildable.error, "data.colour is 'x', but must be red"),
        (FileNotFoundError(2, "No such file", "a.csv"), "a class of the config cannot be built: FileNotFoundError: "),
        (ValueError("two\nlines"), "a class of the config cannot be built: ValueError: two lines ("),
        (KeyError("colour"), "a class of the config cannot be built: KeyError: 'colour' ("),
    ],
)
def test_whatever_a_constructor_raises_is_one_line(validate, capsys, monkeypatch, error, line):
    monkeypatch.setattr(Unbuildable, "error", error)
    test_mistakes_are_one_line(validate, capsys, [f"--data.class_path={__name__}.Unbuildable"], line)


@pytest.mark.parametrize("callback", ["Timer", "DeviceStatsMonitor", "LambdaCallback", "RichProgressBar"])
def test_a_config_with_any_callback_can_be_written(validate, tmp_path, capsys, callback):
    """Timer's default is an enum, RichProgressBar's a dataclass."""
    argument = f"--trainer.callbacks+=lightning.pytorch.callbacks.{callback}"
    assert validate(argument, "--run.folder=here") == 0
    assert callback in (tmp_path / "here" / "config.yaml").read_text()
    capsys.readouterr()
    assert validate(argument, "--print_config") == 0
    assert callback in capsys.readouterr().out


def test_misspelt_settings_in_a_config(validate, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("trainer: {devces: 1}")
    assert validate("--config", "more.yaml") == 2
    assert "trainer: there is no parameter 'devces'; did you mean 'devices'?" in capsys.readouterr().err


def test_a_progress_bar_can_be_chosen_or_left_out(validate):
    assert validate("--trainer.enable_progress_bar=false") == 0
    assert validate("--trainer.callbacks=lightning.pytorch.callbacks.TQDMProgressBar", "--run.folder=b") == 0


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_help_is_short_and_in_groups(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    groups = [line for line in out.splitlines() if line and not line.startswith((" ", "usage", "CONFIG"))]
    assert [group.split()[0] for group in groups] == ["Model", "Arms", "Data", "Run", "Trainer", "More"]
    for setting in ("--model.mllm.dtype", "--model.seed", "--data.num_frames", "--run.resume", "--trainer.logger"):
        assert f"  {setting} " in out
    assert len(out.splitlines()) < 90
    assert max(map(len, out.splitlines())) <= 110
    assert "max_epochs" not in out


def test_help_says_of_every_setting_what_its_class_takes(capsys):
    assert main(["validate", "--help"]) == 0
    out = capsys.readouterr().out
    for key, cls in (("model.mllm", MLLM), ("model", Evaluation), ("data", QuestionData), ("run", RunFolder)):
        for name in parameters(cls):
            assert name == "mllm" or f"--{key}.{name}" in out, f"{key}.{name}"
    for name in TRAINER:
        assert name in parameters(Trainer)


def test_all_of_the_help_is_lightning_s(capsys):
    assert main(["validate", "--help-all"]) == 0
    out = capsys.readouterr().out
    assert "--trainer.max_epochs" in out
    assert "--run.folder" in out
    assert "ckpt_path" not in out


@pytest.mark.parametrize("argv", [["--data.help", "shapes"], ["--data.help=shapes"]])
def test_help_of_a_dataset(argv, capsys):
    assert main(["validate", *argv]) == 0
    out = capsys.readouterr().out
    for name in parameters(DATASETS["shapes"]):
        assert f"--data.{name}" in out


def test_help_of_every_dataset_that_comes_along(capsys):
    here = {name for name, cls in DATASETS.items() if cls.__module__.startswith("tokenlab.")}
    assert set(datasets()) == here
    for name in here:
        assert main(["test", "--data.help", name]) == 0
    assert main(["test", "--data.help", "shape"]) == 2
    assert "did you mean 'shapes'?" in capsys.readouterr().err


def test_help_of_a_compressor(capsys):
    assert main(["validate", "--model.pipelines.help", "topic"]) == 0
    assert capsys.readouterr().out.startswith("topic (grid)")
