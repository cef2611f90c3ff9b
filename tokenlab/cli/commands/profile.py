"""`tokenlab profile`: what pipelines would cost on a model of real size, from its config alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokenlab.cli.commands.options import Parser, known_checkpoint, read_pipelines, resolution, whole_number, writable
from tokenlab.models.costs.configs import SHIPPED
from tokenlab.report.console import Terminal

if TYPE_CHECKING:
    from rich.table import Table

    from tokenlab.models.costs.profile import ArmProfile, Profile

WIDTH = 100  # columns that the table needs; a terminal with more of them gets more
DTYPES = ("bfloat16", "float16", "float32")
NAME_WIDTH = 8  # of an arm, that leaves room for two blanks between columns
VARIES = "varies"
UNITS = ((1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))

DESCRIPTION = f"""\
Prices pipelines on a model of real size, from its config alone: visual tokens, FLOPs, KV cache and weights.
Nothing is downloaded for the configs that come along: {", ".join(SHIPPED)}.
"""
EXAMPLES = """\
examples:
  tokenlab profile --checkpoint llava-1.5-7b --pipeline 'topic=[{topic: {retention_ratio: 0.25}}]'
  tokenlab profile --checkpoint qwen2.5-vl-7b --frames 32 --resolution 640x360 \\
      --pipeline 'pool=[{pool: {retention_ratio: [0.5, 0.25]}}]' --pipeline 'few=[frame_stride: {retention_ratio: 0.5}]'
"""


def show(argv: list[str]) -> int:
    """Prints the table of all pipelines' prices."""
    if (arguments := _parser().read(argv)) is None:
        return 0
    pipelines = read_pipelines(arguments.pipeline)
    target = writable(arguments.json)

    from tokenlab.models.costs.flops import ModelCosts
    from tokenlab.models.costs.profile import Query, profile, read_config

    query = Query(arguments.frames, arguments.resolution, arguments.text_tokens, arguments.new_tokens)
    costs = ModelCosts(read_config(known_checkpoint(arguments.checkpoint)))
    result = profile(costs, pipelines, query, arguments.dtype)
    console = Terminal()
    if not console.is_terminal:
        console = Terminal(width=WIDTH)
    for line in _headline(arguments.checkpoint, result):
        console.print(line, style="bold", markup=False)
    console.print(_table(result))
    for line in _captions(result):
        console.print(line, markup=False)
    if target is not None:
        target.write_text(
            json.dumps({"checkpoint": arguments.checkpoint, **as_json(result)}, indent=2) + "\n", encoding="utf-8"
        )
    return 0


def _parser() -> Parser:
    parser = Parser.of_page("profile", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="NAME", help="one of the above, a folder, a config.json, or a hub id")
    add(
        "--pipeline",
        action="append",
        default=[],
        metavar="ARM=[...]",
        help="an arm and its compressors, as in a config; may be repeated; `full` always comes first",
    )
    add(
        "--frames", type=whole_number(1), default=1, metavar="N", help="frames of the video; 1 is an image (default: 1)"
    )
    add(
        "--resolution",
        type=resolution,
        metavar="WxH",
        help="width and height of a frame, such as 640x360 (default: the tower's own, or 448x448)",
    )
    add(
        "--text-tokens",
        type=whole_number(1),
        default=64,
        metavar="N",
        help="template, frame markers and question together (default: 64)",
    )
    add("--new-tokens", type=whole_number(1), default=1, metavar="N", help="tokens of the answer (default: 1)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help=f"precision of weights and cache (default: {DTYPES[0]})")
    add("--json", metavar="FILE", help="write everything there as well")
    return parser


def _headline(checkpoint: str, result: Profile) -> list[str]:
    query, medium = result.query, result.medium
    height, width = medium.resolution
    parts = " + ".join(f"{part} {_gigabytes(size)}" for part, size in result.weight_bytes.items())
    what = "1 image" if query.frames == 1 else f"{query.frames} frames"
    answer = f"{query.new_tokens} new token{'' if query.new_tokens == 1 else 's'}"
    return [
        f"{result.family} ({checkpoint}) in {result.dtype}",
        f"Weights: {parts} = {_gigabytes(sum(result.weight_bytes.values()))} GiB",
        f"Query: {what} read at {width}x{height}, {medium.num_tokens:,} visual + {query.text_tokens:,} text tokens, "
        f"{answer}",
    ]


def _table(result: Profile) -> Table:
    """One row an arm; only the arms' names may wrap."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    full = result.arms[0]
    scale, unit = next(((scale, unit) for scale, unit in UNITS if (full.total_flops or 0) >= scale), UNITS[-1])

    def flops(name: str) -> Callable[[ArmProfile], str]:
        return lambda arm: _number(getattr(arm, name), lambda value: _digits(value / scale))

    columns: dict[str, Callable[[ArmProfile], str]] = {
        "visual\ntokens": _visual,
        "prefill\ntokens": _prefill_tokens,
        f"{unit}\ntower": flops("tower_flops"),
        "pro-\njector": flops("projector_flops"),
        "pre-\nfill": flops("prefill_flops"),
        "decode": flops("decode_flops"),
        "total": flops("total_flops"),
        "x\nfull": lambda arm: _number(_ratio(arm.total_flops, full.total_flops), "{:.3f}".format),
        "KV\nMiB": lambda arm: _number(arm.cache_bytes, lambda size: _digits(size / 2**20)),
        "litera-\nture's": lambda arm: _number(arm.literature_flops, lambda value: _digits(value / scale)),
        "x\nfull ": lambda arm: _number(_ratio(arm.literature_flops, full.literature_flops), "{:.3f}".format),
    }
    gap = 1 if max(len(arm.arm) for arm in result.arms) > NAME_WIDTH else 2
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("pipeline", overflow="fold")
    for heading in columns:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for arm in result.arms:
        table.add_row(Text(arm.arm), *(Text(cell(arm)) for cell in columns.values()))
    return table


def _visual(arm: ArmProfile) -> str:
    """What the LLM gets, and below it what the last cut inside the LLM leaves of that."""
    after_llm = "" if arm.visual_tokens_left == arm.visual_tokens else f"\n> {_count(arm.visual_tokens_left)}"
    return _count(arm.visual_tokens) + after_llm


def _prefill_tokens(arm: ArmProfile) -> str:
    """The prompt's length, and below it the mean over the layers where it differs."""
    mean = arm.prefill_tokens_mean
    below = "" if mean == arm.prefill_tokens else f"\n({_number(mean, '{:,.0f}'.format)})"
    return _count(arm.prefill_tokens) + below


def _captions(result: Profile) -> list[str]:
    query, arms = result.query, result.arms
    lines = [
        "FLOPs: 2 a multiply-add, counted by torch on the model without weights; a method's own work is left out.",
        "prefill ends with the first new token, decode makes the others; KV cache: when the answer is complete.",
        "literature's: T(4nd²+2n²d+2ndm) as papers print it, n = all tokens a layer reads. It is no count of FLOPs: it "
        "takes a multiply-add for one, two of a gated MLP's three matrices, and no account of grouped-query attention; "
        "it leaves out tower, projector, head and decode.",
    ]
    if any(arm.visual_tokens_left != arm.visual_tokens for arm in arms):
        lines.append("> : behind the last cut inside the LLM; in brackets: mean over its layers.")
    if any(None in asdict(arm).values() for arm in arms):
        lines.append(f"{VARIES}: depends on the video; the method has no budget that its size alone would tell.")
    if assisted := [arm.arm for arm in arms if arm.auxiliary_not_counted]:
        lines.append(f"An auxiliary encoder (model.mllm.auxiliary) that {', '.join(assisted)} needs is not counted.")
    if query.resolution not in (None, result.medium.resolution):
        height, width = query.resolution
        lines.append(f"{width}x{height} is not a size that the tower reads: frames are resized.")
    too_long = [arm.arm for arm in arms if (arm.prefill_tokens or 0) + query.new_tokens > result.context]
    if too_long:
        lines.append(f"Longer than the model's context of {result.context:,} tokens: {', '.join(too_long)}.")
    return lines


def as_json(result: Profile) -> dict[str, Any]:
    """Everything in the table in plain numbers; `null` is what depends on the video."""
    height, width = result.medium.resolution
    frames, rows, columns = result.medium.grid
    return {
        "family": result.family,
        "frames": result.query.frames,
        "resolution": {"width": width, "height": height},
        "grid": {"frames": frames, "rows": rows, "columns": columns},
        "text_tokens": result.query.text_tokens,
        "new_tokens": result.query.new_tokens,
        "dtype": result.dtype,
        "context": result.context,
        "weight_bytes": result.weight_bytes,
        "arms": [asdict(arm) for arm in result.arms],
    }


def _ratio(value: int | None, whole: int | None) -> float | None:
    return None if value is None or not whole else value / whole


def _number(value: int | float | None, spell: Callable[[Any], str]) -> str:
    return VARIES if value is None else spell(value)


def _count(tokens: int | None) -> str:
    return _number(tokens, "{:,}".format)


def _digits(value: float) -> str:
    """Four significant digits, all digits before the point, at most four after it."""
    digits = 3 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(4, max(0, digits))}f}"


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:,.2f}"
