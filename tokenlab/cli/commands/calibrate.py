"""`tokenlab calibrate`: what a method has to know of a model, found once by watching it answer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track
from rich.table import Table
from rich.text import Text

from tokenlab.cli.commands.options import Parser, whole_number
from tokenlab.cli.config.expand import expand
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal, progress_console
from tokenlab.schema.files import find_config, load_run_config

HOW_MANY = 32
DIGITS = 6
"""Of a share: a millionth of a video's tokens is no token."""


def show(argv: Sequence[str]) -> int:
    """Finds a method's parameters for a model, and prints or writes the arm that has them."""
    options = _options(argv)
    configs = [load_run_config(find_config(name)) for name in options.config or ["quickstart"]]
    if options.checkpoint is not None:
        configs.append({"model": {"mllm": {"checkpoint": options.checkpoint}}})
    # arms are none of its business: methods that the model cannot have may be among them
    config = expand([{**each, "model": {**each.get("model", {}), "pipelines": {"full": []}}} for each in configs])
    method = _calibrated(options.method)

    from transformers.utils.logging import disable_progress_bar

    from tokenlab.models.mllm import LoadedModel
    from tokenlab.models.observe import observe
    from tokenlab.models.settings import MLLM

    disable_progress_bar()
    loaded = LoadedModel.load(MLLM(**config["model"]["mllm"]))
    clips = islice(_clips(config["data"], options.split), options.videos)
    media = observe(loaded, clips, frozenset({method.attention}), method.look)
    console = progress_console()
    observed = list(track(media, "Watching", console=console, transient=True))
    if not observed:
        raise UserError(f"calibrate: no question of the {options.split} split has a medium that could be watched")
    fitted = method.fitted(observed, options.retention)
    _report(fitted, len(observed), options)
    return 0


def _options(argv: Sequence[str]) -> Any:
    parser = Parser(
        prog="tokenlab calibrate",
        description="Watches a model answer questions, finds what a method has to know of it, and prints the arm.",
    )
    parser.add_argument("method", help="fitprune")
    parser.add_argument("--config", action="append", help="the model and the questions (default: quickstart)")
    parser.add_argument("--checkpoint", help="the model, in place of the config's")
    parser.add_argument("--retention", type=_share, default=0.5, help="mean share of visual tokens that layers read")
    parser.add_argument("--split", choices=["test", "validation"], default="test", help="not what you compare on")
    parser.add_argument("--videos", type=whole_number(1), default=HOW_MANY, help=f"how many (default: {HOW_MANY})")
    parser.add_argument("--output", type=Path, help="a config with the arm, for --config beside another")
    return parser.parse_args(argv)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"must be greater than 0 and less than 1, got {text}")
    return share


def _calibrated(name: str) -> Any:
    """The class of a method that is fitted to models."""
    from tokenlab.compressors import REGISTRY
    from tokenlab.compressors.spelling import find_compressor

    cls = find_compressor("calibrate", name)
    if not hasattr(cls, "fitted"):
        those = ", ".join(sorted(each for each, method in REGISTRY.items() if hasattr(method, "fitted")))
        raise UserError(f"calibrate: {name} has nothing that is fitted to a model; those that have: {those}")
    return cls


def _clips(data: dict[str, Any], split: str) -> Iterator[Any]:
    from tokenlab.data.module import QuestionData
    from tokenlab.schema.arguments import import_class

    module = import_class("data", data["class_path"], QuestionData)(**data["init_args"])
    module.prepare_data()
    loader = {"test": module.test_dataloader, "validation": module.val_dataloader}[split]()
    return (clip for batch in loader for clip in batch)


def _report(fitted: Any, number: int, options: Any) -> None:
    """The share of tokens behind every layer; and the arm, in a file or as text for one."""
    scheme = [round(share, DIGITS) for share in fitted.scheme]
    console, table = Terminal(), Table("layer", "% gone there", "% left", box=None, pad_edge=False)
    for layer, (share, gone) in enumerate(zip(scheme, accumulate(scheme), strict=True)):
        table.add_row(str(layer), f"{100 * share:.1f}", f"{100 * (1 - gone):.1f}")
    console.print(table)
    mean = sum(1 - gone for gone in accumulate(scheme)) / len(scheme)
    console.print(Text(f"watched {number} media; layers read {100 * mean:.1f} % of the visual tokens on average"))
    arm = f"{fitted.name}@{options.retention:g}"
    text = yaml.safe_dump(
        {"model": {"pipelines": {arm: [{fitted.name: {"scheme": scheme}}]}}}, default_flow_style=None, sort_keys=False
    )
    if options.output is None:
        console.print(Text(f"\n{text}"))
    else:
        options.output.write_text(text)
        console.print(Text(f"wrote {options.output}; next: tokenlab validate --config ... --config {options.output}"))
