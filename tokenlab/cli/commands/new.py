"""`tokenlab compressors new`: a method of one's own that works already, and its test."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from tokenlab.cli.commands.options import Parser
from tokenlab.compressors import REGISTRY, STAGES
from tokenlab.errors import UserError

METHOD = Template('''\
"""What the paper is called, and where it is.

What the method does, in the order of the paper's method section; where released code does otherwise.
"""

$imports


@dataclass(frozen=True, kw_only=True)
class $cls($base, name="$name"):
    """$summary

    Args:
        retention_ratio: Kept / total visual tokens of a medium.
    """

    paper: ClassVar[str] = ""  # such as "arXiv 2501.17391"
$body''')

TEST = Template('''\
"""What $cls promises, as every compressor does; add what its authors' code makes of the same tokens."""

import pytest

from $name import $cls
from tokenlab.testing.promises import promises_of


@pytest.mark.parametrize("promise", promises_of($cls.example()), ids=str)
def test_keeps_its_promises(promise):
    promise.check($cls.example)
''')

BODIES = {
    "frames": (
        "FrameSelection",
        "Keeps the frames that the question fits best.",
        ["Evidence", "FrameScores", "FrameSelection", "FrameView", "Reduction", "budget", "top"],
        '''\
    scores: ClassVar[Evidence] = FrameScores()  # needs model.mllm.auxiliary: {clip: ...}

    def select_frames(self, view: FrameView) -> Reduction:
        """Keeps the top of all candidates, in time order."""
        keep = budget(self.retention_ratio, view.num_frames)
        return Reduction.keep(top(view.evidence[self.scores], keep), view.num_frames)
''',
    ),
    "pixels": (
        "PixelReduction",
        "Halves the sides of pictures until few enough tokens are made of them.",
        ["PixelReduction", "PixelView", "Size", "budget"],
        '''\
    data_decides: ClassVar[bool] = True  # how many tokens a size makes, the model says

    def choose_size(self, view: PixelView) -> Size:
        """Refuses what is too thin to be halved so often."""
        height, width = view.size
        most = budget(self.retention_ratio, view.tokens(view.size))
        while view.tokens((height, width)) > most:
            height, width = height // 2, width // 2
            if min(height, width) < 4:
                raise ValueError(f"no smaller picture makes {most} tokens")
        return height, width
''',
    ),
    "tower": (
        "TowerReduction",
        "Keeps the patches of each frame with the largest keys, halfway through the tower.",
        ["BlockView", "Reduction", "State", "TowerReduction", "budget", "in_medium", "top"],
        '''\
    def reduce_block(self, view: BlockView, state: State) -> tuple[Reduction, State]:
        """Cuts once; protected tokens, such as [CLS], stay in front."""
        frames, tokens = view.size.shape
        if view.layer != view.num_layers // 2:
            return Reduction.identity(frames * tokens), state
        norms = view.keys.float().flatten(2).norm(dim=-1)
        norms[:, : view.protected] = float("inf")
        keep = view.protected + budget(self.retention_ratio, tokens - view.protected)
        return Reduction.keep(in_medium(top(norms, keep), tokens), frames * tokens), state
''',
    ),
    "grid": (
        "FrameWise",
        "Keeps the tokens of each frame with the largest norm.",
        ["FramesView", "FrameWise", "Reduction", "top"],
        '''\
    def reduce_frames(self, view: FramesView) -> Reduction:
        """Keeps the top of every frame."""
        return view.keep(top(view.values.float().norm(dim=-1), view.budget))
''',
    ),
    "layers": (
        "LayerReduction",
        "Keeps what the prompt's last token attends to most, at the entry of the second layer.",
        ["Evidence", "LayerAttention", "LayerReduction", "LayerView", "Moment", "Reduction", "State", "budget", "top"],
        '''\
    attention: ClassVar[Evidence] = LayerAttention()

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once."""
        return [(1, "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps the top of the whole medium."""
        scores = view.from_last(self.attention)
        return Reduction.keep(top(scores, budget(self.retention_ratio, view.initial)), len(scores)), state
''',
    ),
    "cache": (
        "CacheReduction",
        "Looks, in every step of the answer, at the cached tokens that the step attends to most.",
        ["CacheReduction", "CacheView", "Evidence", "Reduction", "State", "StepAttention", "budget", "top"],
        '''\
    attention: ClassVar[Evidence] = StepAttention()

    def cache_layers(self, num_layers: int) -> Sequence[int]:
        """At the entry of the second layer, for all that follow."""
        return [1]

    def reduce_cache(self, view: CacheView, state: State) -> tuple[Reduction, State]:
        """Keeps the top of the medium's tokens for this step."""
        scores = view.evidence[self.attention][view.visual]
        return Reduction.keep(top(scores, budget(self.retention_ratio, len(scores))), len(scores)), state
''',
    ),
}
"""By stage: what the method is a kind of, what it does, what it imports, and its body."""


def new(argv: Sequence[str]) -> int:
    """Writes NAME.py and test_NAME.py, never over what is there."""
    parser = Parser(prog="tokenlab compressors new", description="Writes a compressor that works, and its test.")
    parser.add_argument("name", help="what configs will call it, such as my_method")
    parser.add_argument("--stage", required=True, choices=[stage.stage for stage in STAGES])
    parser.add_argument("--folder", type=Path, default=Path(), help="where (default: here)")
    options = parser.parse_args(argv)
    name, folder = options.name, options.folder
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"compressors new: {name!r} names no module: use small letters, digits and _, such as my_method"
        )
    if name in REGISTRY:
        raise UserError(f"compressors new: there already is a compressor {name!r}; give yours another name")
    if not folder.is_dir():
        raise UserError(f"--folder: there is no folder {folder}")
    files = {folder / f"{name}.py": _method(name, options.stage), folder / f"test_{name}.py": _test(name)}
    for file in files:
        if file.exists():
            raise UserError(f"compressors new: {file} is there already; give another name or --folder")
    for file, text in files.items():
        file.write_text(text)
    place = f"{folder / name}.py:{_class(name)}"
    print(f"wrote {' and '.join(map(str, files))}; next:")
    print(f"  tokenlab check {place}")
    print(f"  tokenlab validate --config quickstart --model.pipelines.mine='[{place}@0.5]'")
    return 0


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _method(name: str, stage: str) -> str:
    base, summary, imported, body = BODIES[stage]
    lines = ["from dataclasses import dataclass", "from typing import ClassVar", ""]
    if "Sequence[" in body:
        lines.insert(0, "from collections.abc import Sequence")
    lines += ["from tokenlab.compressors import (", *(f"    {each}," for each in imported), ")"]
    return METHOD.substitute(
        imports="\n".join(lines), cls=_class(name), base=base, name=name, summary=summary, body=f"\n{body}"
    )


def _test(name: str) -> str:
    return TEST.substitute(cls=_class(name), name=name)
