"""One resumable training loop for every stage: batches follow from the step alone, so stopping changes nothing."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

SECONDS_BETWEEN_CHECKPOINTS = 120
STEPS_BETWEEN_LOG_LINES = 20


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a stage: linear warm-up, then half a cosine down to a fiftieth."""

    steps: int
    rate: float
    warmup: int = 60

    def at(self, step: int) -> float:
        """Learning rate of a step (from 0)."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def step_generator(seed: int, stage: str, step: int) -> np.random.Generator:
    """The noise of one step: it depends on nothing that came before."""
    return np.random.Generator(np.random.PCG64([seed, *stage.encode(), step]))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a file beside `path`, which then takes its place at once."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    write(unfinished)
    unfinished.replace(path)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Bars with loss, time spent and time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, speed_estimate_period=120) as progress:
        yield progress


def train(
    stage: str,
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    folder: Path,
    progress: Progress,
    after_step: Callable[[int], None] = lambda step: None,
) -> float:
    """Trains to the end of a schedule, from the stage's checkpoint in `folder` if there is one.

    Args:
        stage: name of the stage and of its checkpoint.
        model: its parameters which require gradients are trained.
        loss_at: the loss of a step (from 0); must follow from the step and the weights alone.
        schedule: number of steps and learning rates.
        folder: where checkpoints and the log of losses are written.
        progress: gets a bar.
        after_step: called with the number of steps done.

    Returns:
        Seconds spent in training so far, earlier runs included.
    """
    optimizer = _optimizer(model, schedule)
    path = folder / f"{stage}.pt"
    step, seconds = _load(path, model, optimizer)
    task = progress.add_task(stage, total=schedule.steps, completed=step, note="")
    started = saved = time.monotonic()
    try:
        while step < schedule.steps:
            for group in optimizer.param_groups:
                group["lr"] = schedule.at(step)
            loss = _update(model, optimizer, loss_at, step)
            step += 1
            progress.update(task, completed=step, note=f"loss {loss:.3f}")
            if step % STEPS_BETWEEN_LOG_LINES == 0:
                _log(folder, stage=stage, step=step, loss=loss, seconds=seconds + time.monotonic() - started)
            after_step(step)
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(path, model, optimizer, step, seconds + time.monotonic() - started)
                saved = time.monotonic()
    finally:
        # Also when interrupted: the step under way is lost, none before it.
        seconds += time.monotonic() - started
        _save(path, model, optimizer, step, seconds)
    return seconds


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": 0.05},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss_at: Callable[[int], Tensor], step: int) -> float:
    loss = loss_at(step)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _log(folder: Path, **line: object) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    write_atomically(path, lambda unfinished: torch.save(state, unfinished))


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]
