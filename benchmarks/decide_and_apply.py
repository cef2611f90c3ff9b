"""How long methods on the token grid decide and apply, as multiples of one pass over the same tokens in the same run.

    python benchmarks/decide_and_apply.py [METHOD ...]

Tokens are random: 32 frames of 14 x 14, of width 3584, float32, on the CPU with one thread. A pass is `(x * x).sum()`,
and `normalize(x)`; each time is the median of so many runs as fit in a few seconds, after one that does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import REGISTRY, Evidence, GridReduction, TokenEmbeddings
from tokenlab.testing.views import grid_view

GRID, WIDTH, RATIO = (32, 14, 14), 3584, 0.25
TOWER_WIDTH = 1152
SECONDS, MOST = 3.0, 15


def milliseconds(call: Callable[[], Any]) -> float:
    """The median of several runs."""
    call()
    taken: list[float] = []
    while not taken or (len(taken) < MOST and sum(taken) < 1000 * SECONDS):
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


def at_real_width(need: Evidence, value: Tensor, tokens: Tensor) -> Tensor:
    """Evidence as wide as it is beside such tokens: in the LLM's space as they are, in the tower's as SigLIP's are."""
    if need == TokenEmbeddings():
        return tokens
    if not need.axes.endswith("d"):
        return value
    in_llm = getattr(need, "space", "") == "llm"
    return torch.randn(*value.shape[:-1], WIDTH if in_llm else TOWER_WIDTH, generator=torch.Generator().manual_seed(1))


def main(names: list[str]) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    wide = torch.randn(GRID[0] * GRID[1] * GRID[2], WIDTH, generator=torch.Generator().manual_seed(0))
    one_pass = {"(x * x).sum()": lambda: (wide * wide).sum(), "normalize(x)": lambda: normalize(wide, dim=-1)}
    taken = {name: milliseconds(call) for name, call in one_pass.items()}
    table = Table("method", "decide ms", "x sum", "x normalize", "apply ms", "x sum", "x normalize", box=None)
    chosen = names or sorted(name for name, cls in REGISTRY.items() if cls.example(RATIO).acts_at(GridReduction))
    columns: dict[str, list[float]] = {"decide": [], "apply": []}
    for name in track(chosen, console=Console(stderr=True), transient=True):
        method: Any = REGISTRY[name].example(RATIO)
        view = grid_view(method, GRID)
        evidence = {need: at_real_width(need, value, wide) for need, value in view.evidence.items()}
        view = replace(view, tokens=replace(view.tokens, values=wide, evidence=evidence))
        with torch.inference_mode():
            reduction = method.reduce_grid(view).settle(method.order)
            times = {
                "decide": milliseconds(lambda method=method, view=view: method.reduce_grid(view)),
                "apply": milliseconds(lambda reduction=reduction: reduction.apply(wide)),
            }
        row = [name]
        for kind, time_of in times.items():
            columns[kind].append(time_of / taken["normalize(x)"])
            row += [f"{time_of:.1f}", *(f"{time_of / each:.2f}" for each in taken.values())]
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name}: {time_of:.1f} ms" for name, time_of in taken.items()))
    console.print(", ".join(f"median {kind}: {median(found):.2f} x normalize(x)" for kind, found in columns.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
