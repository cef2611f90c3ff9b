"""Draws README's picture from a run of the quickstart: accuracy against cost, and what each arm keeps of one video.

python benchmarks/readme_picture.py RUN docs/quickstart.png
"""

import io
import sys
from pathlib import Path

from PIL import Image

from tokenlab.metrics.summary import read_records, summarise
from tokenlab.report.gallery import FOLDER, read_gallery
from tokenlab.report.overlay import labelled
from tokenlab.report.plots import pareto_plots

ARMS = ("similarity", "topic", "text", "joint")
WIDTH = 1080


def main(run: Path, target: Path) -> None:
    """Draws the picture."""
    figure = pareto_plots(summarise(read_records(run / "records.jsonl")))
    assert figure is not None, "the quickstart has answers to compare"
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor="white")
    plot = Image.open(buffer).convert("RGB")
    sample = next(sample for sample in read_gallery(run) if set(ARMS) <= set(sample.arms))
    files = {"the video": sample.plain, **{arm: sample.arms[arm] for arm in ARMS}}
    strips = labelled(
        {arm: [_one_row(Image.open(run / FOLDER / name)) for name in names] for arm, names in files.items()}
    )
    parts = [part.resize((WIDTH, round(part.height * WIDTH / part.width))) for part in (plot, strips)]
    canvas = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + 12), "white")
    canvas.paste(parts[0], (0, 0))
    canvas.paste(parts[1], (0, parts[0].height + 12))
    canvas.quantize(128).save(target, optimize=True)


def _one_row(strip: Image.Image) -> Image.Image:
    """The second row of a strip beside the first."""
    half = strip.height // 2
    row = Image.new("RGB", (2 * strip.width, half), "white")
    row.paste(strip.crop((0, 0, strip.width, half)), (0, 0))
    row.paste(strip.crop((0, strip.height - half, strip.width, strip.height)), (strip.width, 0))
    return row


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
