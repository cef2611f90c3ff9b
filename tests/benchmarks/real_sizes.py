"""What token reduction really saves in time on a model of real size: random weights, and the bench's own path.

    python -m tests.benchmarks.real_sizes --checkpoint llava-onevision-7b --frames 32

What the weights of a model say decides its answers, not how long they take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PretrainedConfig

from tests.benchmarks.random_models import followed, random_model, real_processor, shorten
from tokenlab.cli.options import Parser, known_checkpoint, resolution, whole_number, writable
from tokenlab.cli.signatures import check_names
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError, UserError
from tokenlab.evaluation import flops, token_counts
from tokenlab.metrics.record import Flops, Milliseconds
from tokenlab.models.costs import ModelCosts
from tokenlab.models.families import Family, family_of
from tokenlab.models.frozen import Encodings, FrozenMLLM
from tokenlab.models.geometry import Size, vision_side
from tokenlab.models.profile import BASELINE, BYTES, read_config

WIDTH = 100
NAME_WIDTH = 12  # of an arm, that leaves room for two blanks between columns
QUESTION = "what colour is the circle at the end ?"


@dataclass(frozen=True)
class Query:
    """The question, answered once by one arm."""

    arm: str
    round: int
    tokens: dict[str, Any]
    flops: Flops
    milliseconds: Milliseconds
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class ArmTimes:
    """One arm over all rounds; a ratio of times is the median of those to `full` in the same round."""

    arm: str
    visual_tokens: int
    retention: float
    prefill_seconds: float
    prefill_ratio: float
    prefill_flops_ratio: float
    query_seconds: float
    query_ratio: float
    query_flops_ratio: float
    encode_share: float
    encode_flops_share: float
    peak_memory_bytes: int | None


def make_arms(method: str, ratios: Sequence[float], family: Family) -> dict[str, Pipeline]:
    """`full`, and the method at each ratio."""
    check_names("--method", [method], REGISTRY, "compressor")
    arms = {BASELINE: Pipeline()}
    for ratio in ratios:
        try:
            compressor = REGISTRY[method](retention_ratio=ratio)
        except ValueError as error:
            raise UserError(f"--retention: {error}") from error
        if reason := family.refusal(compressor):
            raise UserError(f"--method: {reason}")
        arms[f"{method}@{ratio:g}"] = Pipeline((compressor,))
    return arms


def make_clip(frames: int, size: Size) -> Clip:
    """One video of noise, two frames a second, and one question about it."""
    pixels = np.random.default_rng(0).integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    video = Frames(pixels, tuple(range(0, 12 * frames, 12)), np.arange(frames) / 2)
    return Clip("noise", (Sample("noise#0", "noise", QUESTION),), (video,))


def measure(mllm: FrozenMLLM, clip: Clip, arms: Mapping[str, Pipeline], rounds: int) -> Iterator[Query]:
    """Every arm once a round, behind one new encode; round 0 warms up, and each round begins with another arm."""
    costs, names = ModelCosts(mllm.config, mllm.family), list(arms)
    needs = frozenset().union(*(pipeline.needs() for pipeline in arms.values()))
    for number in range(rounds + 1):
        encodings, first = Encodings(mllm, needs), number % len(names)
        for name in (*names[first:], *names[:first]):
            request = mllm.reduce(clip, clip.samples[0], arms[name], encodings)
            (answer,) = mllm.generate([request])
            assert answer.trace is not None
            times = Milliseconds(
                encode=answer.encode_milliseconds,
                compress=answer.compress_milliseconds,
                prefill=answer.prefill_milliseconds,
                decode=answer.decode_milliseconds,
            )
            spent = flops(answer.trace, costs)
            yield Query(name, number, token_counts(answer.trace), spent, times, answer.peak_memory_bytes)


def summarise(queries: Sequence[Query]) -> list[ArmTimes]:
    """One row an arm, `full` first; the warm-up is left out."""
    by_arm: dict[str, dict[int, Query]] = {BASELINE: {}}
    for query in queries:
        if query.round:
            by_arm.setdefault(query.arm, {})[query.round] = query
    return [_arm_times(arm, mine, by_arm[BASELINE]) for arm, mine in by_arm.items()]


def _arm_times(arm: str, mine: dict[int, Query], full: dict[int, Query]) -> ArmTimes:
    def median(value: Callable[[Milliseconds], float]) -> float:
        return statistics.median(value(query.milliseconds) for query in mine.values())

    def paired(value: Callable[[Milliseconds], float]) -> float:
        return statistics.median(value(mine[k].milliseconds) / value(full[k].milliseconds) for k in full)

    one, whole = mine[1], full[1]  # tokens and FLOPs are the same in every round
    visual, peaks = one.tokens["visual_tokens_out"], [query.peak_memory_bytes or 0 for query in mine.values()]
    return ArmTimes(
        arm=arm,
        visual_tokens=visual,
        retention=visual / one.tokens["visual_tokens_in"],
        prefill_seconds=median(lambda times: times.prefill) / 1000,
        prefill_ratio=paired(lambda times: times.prefill),
        prefill_flops_ratio=one.flops.prefill / whole.flops.prefill,
        query_seconds=median(lambda times: times.total) / 1000,
        query_ratio=paired(lambda times: times.total),
        query_flops_ratio=one.flops.total / whole.flops.total,
        encode_share=median(lambda times: times.encode / times.total),
        encode_flops_share=(one.flops.tower + one.flops.projector) / one.flops.total,
        peak_memory_bytes=max(peaks) or None,
    )


COLUMNS: dict[str, Callable[[ArmTimes], str]] = {
    "visual\ntokens": lambda row: f"{row.visual_tokens:,}",
    "kept\n%": lambda row: f"{100 * row.retention:.1f}",
    "prefill\ns": lambda row: f"{row.prefill_seconds:.3f}",
    "x full\ntime": lambda row: f"{row.prefill_ratio:.3f}",
    "x full\nFLOPs": lambda row: f"{row.prefill_flops_ratio:.3f}",
    "query\ns": lambda row: f"{row.query_seconds:.3f}",
    "x full\ntime ": lambda row: f"{row.query_ratio:.3f}",
    "x full\nFLOPs ": lambda row: f"{row.query_flops_ratio:.3f}",
    "tower\n% time": lambda row: f"{100 * row.encode_share:.1f}",
    "tower\n% FLOPs": lambda row: f"{100 * row.encode_flops_share:.1f}",
}
MEMORY: dict[str, Callable[[ArmTimes], str]] = {"peak\nGiB": lambda row: f"{(row.peak_memory_bytes or 0) / 2**30:.2f}"}


def table(rows: Sequence[ArmTimes]) -> Table:
    """One row an arm; only the arms' names may wrap."""
    measured = all(row.peak_memory_bytes is not None for row in rows)
    columns = {**COLUMNS, **(MEMORY if measured else {})}
    gap = 0 if max(len(row.arm) for row in rows) > NAME_WIDTH else 1
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False)
    drawn.add_column("arm", overflow="fold")
    for heading in columns:
        drawn.add_column(Text(heading), justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(Text(row.arm), *(Text(cell(row)) for cell in columns.values()))
    return drawn


def headline(run: Mapping[str, Any], tokens: Mapping[str, Any]) -> list[str]:
    """What was measured, on what."""
    short = f" cut to layers: {run['layers']}" if run["layers"] else ""
    text = tokens["prompt_tokens"] - tokens["visual_tokens_in"]
    return [
        f"{run['checkpoint']}{short}, random weights in {run['dtype']}, on {run['device']}",
        f"{run['frames']} frames of {run['resolution']}: {tokens['visual_tokens_in']:,} visual + {text:,} text tokens, "
        f"{tokens['generated_tokens']} new tokens; {run['rounds']} rounds",
        f"torch {run['torch']}, transformers {run['transformers']}",
    ]


def captions(rows: Sequence[ArmTimes]) -> list[str]:
    """How the numbers were made."""
    lines = [
        "s: medians of the rounds. x full, time: median of the ratios to full, each within one round.",
        "query: decoded frames to answer. tower: with processor and projector; a round's arms share one run.",
    ]
    if any(row.retention == 1 and row.arm != BASELINE for row in rows):
        lines.append("An arm that keeps all is the untouched model again: how far it is from 1.000 is noise.")
    if any(row.peak_memory_bytes is None for row in rows):
        lines.append("Peak memory: not measured on this device.")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; a user's mistake is one line on stderr."""
    try:
        _run(_parser().parse_args(argv))
    except UserError as error:
        print(f"real_sizes: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _run(arguments: argparse.Namespace) -> None:
    target, config = writable(arguments.json), read_config(known_checkpoint(arguments.checkpoint))
    if arguments.layers:
        shorten(config, arguments.layers)
    processor, arms = real_processor(config), make_arms(arguments.method, arguments.retention, family_of(config))
    size = arguments.resolution or vision_side(config).layout(1).resolution
    about = _about(arguments, size)
    queries = _queries(config, processor, make_clip(arguments.frames, size), arms, arguments, about["dtype"])
    rows = summarise(queries)
    console = Console(highlight=False, width=WIDTH)
    for line in headline(about, queries[0].tokens):
        console.print(line, style="bold", markup=False)
    console.print(table(rows))
    for line in captions(rows):
        console.print(line, markup=False)
    if target is not None:
        written = {**about, "arms": [asdict(row) for row in rows], "queries": [asdict(query) for query in queries]}
        target.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _queries(
    config: PretrainedConfig,
    processor: Any,
    clip: Clip,
    arms: Mapping[str, Pipeline],
    arguments: argparse.Namespace,
    dtype: str,
) -> list[Query]:
    """Everything measured; what the model cannot read, or the device not hold, is the user's mistake here."""
    try:
        model = random_model(config, arguments.device, getattr(torch, dtype))
        mllm = FrozenMLLM.around(model, processor)
        mllm.settings = replace(mllm.settings, max_new_tokens=arguments.new_tokens)
        asked, total = measure(mllm, clip, arms, arguments.rounds), len(arms) * (arguments.rounds + 1)
        return list(followed(asked, "queries", total))
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
    parser = Parser(prog="real_sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


if __name__ == "__main__":
    sys.exit(main())
