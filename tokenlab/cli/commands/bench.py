"""`tokenlab bench`: what token reduction saves in time on a model of real size, with random weights."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from tokenlab.cli.commands.options import Parser, known_checkpoint, resolution, whole_number, writable
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import Size
from tokenlab.data.samples import Clip
from tokenlab.errors import SampleError, UserError
from tokenlab.models.costs.profile import BYTES, read_config
from tokenlab.models.costs.vision import vision_cost_model
from tokenlab.models.families import family_of
from tokenlab.models.mllm import LoadedModel
from tokenlab.report.console import Terminal, followed
from tokenlab.schema.arguments import check_names
from tokenlab.speed.random_models import random_model, real_processor, shorten
from tokenlab.speed.real_sizes import (
    WIDTH,
    TimedQuery,
    make_arms,
    make_clip,
    measure_arms,
    summarise_rounds,
    table,
    timing_captions,
    timing_headline,
)

ABOUT = """\
What token reduction really saves in time on a model of real size: random weights, and the bench's own path.

    tokenlab bench --checkpoint llava-onevision-7b --frames 32

What the weights of a model say decides its answers, not how long they take.
"""


def show(argv: Sequence[str]) -> int:
    """Measures every arm, and prints one row for each."""
    arguments = _parser().parse_args(argv)
    target, config = writable(arguments.json), read_config(known_checkpoint(arguments.checkpoint))
    if arguments.layers:
        shorten(config, arguments.layers)
    check_names("--method", [arguments.method], REGISTRY, "compressor")
    processor, arms = real_processor(config), make_arms(arguments.method, arguments.retention, family_of(config))
    size = arguments.resolution or vision_cost_model(config, family_of(config)).shape(1).resolution
    about = _about(arguments, size)
    queries = _queries(config, processor, make_clip(arguments.frames, size), arms, arguments, about["dtype"])
    rows = summarise_rounds(queries, arms)
    console = Terminal(width=WIDTH)
    for line in timing_headline(about, queries[0].tokens):
        console.print(line, style="bold", markup=False)
    console.print(table(rows))
    for line in timing_captions(rows):
        console.print(line, markup=False)
    if target is not None:
        written = {**about, "arms": [asdict(row) for row in rows], "queries": [asdict(query) for query in queries]}
        target.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return 0


def _queries(
    config: PretrainedConfig,
    processor: Any,
    clip: Clip,
    arms: Mapping[str, Pipeline],
    arguments: argparse.Namespace,
    dtype: str,
) -> list[TimedQuery]:
    """Everything measured; what the model cannot read, or the device not hold, is the user's mistake here."""
    try:
        model = random_model(config, arguments.device, getattr(torch, dtype))
        mllm = LoadedModel.of(model, processor)
        mllm = replace(mllm, settings=replace(mllm.settings, max_new_tokens=arguments.new_tokens))
        queries, total = measure_arms(mllm, clip, arms, arguments.rounds), len(arms) * (arguments.rounds + 1)
        return list(followed(queries, "queries", total))
    except SampleError as error:
        raise UserError(f"--frames, --resolution: {error}") from error
    except torch.OutOfMemoryError as error:
        raise UserError("--checkpoint, --frames: model and video do not fit into the device's memory") from error


def _about(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """The invocation, with its defaults filled in, and the machine."""
    device = arguments.device
    return {
        "checkpoint": arguments.checkpoint,
        "layers": arguments.layers,
        "dtype": arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"),
        "device": _name(device),
        "frames": arguments.frames,
        "resolution": f"{size[1]}x{size[0]}",
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.get_num_threads()} threads)"
    )


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error


def _parser() -> Parser:
    parser = Parser(prog="tokenlab bench", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    fastest = "cuda" if torch.cuda.is_available() else "cpu"
    add("--checkpoint", required=True, metavar="NAME", help="a config that comes along, as for `tokenlab profile`")
    add("--frames", type=whole_number(1), default=32, metavar="N", help="frames of the video (default: 32)")
    add("--resolution", type=resolution, metavar="WxH", help="of a frame (default: the tower's own, or 448x448)")
    add("--method", default="random", metavar="NAME", help="a compressor (default: random)")
    add("--retention", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1], metavar="RATIO", help="its budgets")
    add("--new-tokens", type=whole_number(1), default=16, metavar="N", help="tokens of an answer (default: 16)")
    add("--rounds", type=whole_number(1), default=5, metavar="N", help="behind one that warms up (default: 5)")
    add("--device", type=_device, default=fastest, metavar="NAME", help=f"(default here: {fastest})")
    add("--dtype", choices=BYTES, help="(default: float32 on a CPU, else bfloat16)")
    add("--layers", type=whole_number(1), metavar="N", help="of LLM and tower, to try things out (default: all)")
    add("--json", metavar="FILE", help="write every number there as well")
    return parser
