"""What loggers get of a run: numbers by arm, hyperparameters, and a few pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image

from tokenlab.metrics.summary import ArmSummary, Summary
from tokenlab.report.gallery import FOLDER, read_gallery
from tokenlab.report.overlay import labelled

PICTURES = 3

ARMS = "arms"
"""Folder of TensorBoard's runs, one an arm, in the run folder."""


def log_summary(loggers: list[Logger], summary: Summary, folder: Path) -> None:
    """Writes a run's numbers to all loggers: to TensorBoard by arm, with some of the gallery; to others in one row."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            _log_arms(logger, summary)
            _log_pictures(logger, folder)
        else:
            logger.log_metrics(scalars(summary), step=0)
        logger.save()


def _log_arms(logger: TensorBoardLogger, summary: Summary) -> None:
    """Each arm is a run of its own, so that one chart a quantity holds all arms, however many there are."""
    for row in summary.arms:
        about = {
            "arm": row.arm,
            "method": row.method,
            "ratio": row.ratio,
            "parameters": json.dumps(row.pipeline),
            "positions": ", ".join(row.positions),
        }
        folder = "".join(letter if letter.isalnum() or letter in "-_.@" else "_" for letter in row.arm)
        logger.experiment.add_hparams(about, _arm_scalars(row), run_name=f"{ARMS}/{folder}", global_step=0)


def _log_pictures(logger: TensorBoardLogger, folder: Path) -> None:
    for number, sample in enumerate(read_gallery(folder)[:PICTURES]):
        files = {"": sample.plain, **sample.arms}
        drawn = {arm: [Image.open(folder / FOLDER / name) for name in names] for arm, names in files.items()}
        logger.experiment.add_image(f"gallery/{number}", np.asarray(labelled(drawn)), dataformats="HWC")


def scalars(summary: Summary) -> dict[str, float]:
    """Each number as `NAME/ARM`."""
    return {f"{name}/{row.arm}": value for row in summary.arms for name, value in _arm_scalars(row).items()}


def _arm_scalars(row: ArmSummary) -> dict[str, float]:
    """An arm's numbers, as far as there are any."""
    accuracy, cost, against, latency = row.accuracy, row.cost, row.against_baseline, row.latency
    answers, speedup = against and against.answers, against and against.speedup
    numbers = {
        "accuracy": accuracy and accuracy.mean,
        "accuracy_low": accuracy and accuracy.low,
        "accuracy_high": accuracy and accuracy.high,
        "accuracy_mean_over_types": row.mean_over_types,
        "failed": float(row.failed),
        "visual_tokens": cost and cost.visual_tokens_out,
        "retention": cost and cost.retention,
        "prefill_tokens": cost and cost.prefill_tokens,
        "flops_total": cost and cost.flops.total,
        "seconds": latency and latency.mean.total / 1000,
        "points_against_baseline": answers and answers.points.mean,
        "agreement_with_baseline": against and against.agreement,
        "flops_ratio": against and against.flops_ratio,
        "speedup": speedup and speedup.total.mean,
        "prefill_speedup": speedup and speedup.prefill.mean,
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}
