"""`tokenlab show`: one question about one medium, answered by each pipeline, and a picture of what each keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenlab.cli.commands.options import Parser, read_pipelines, whole_number
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal

if TYPE_CHECKING:
    from tokenlab.data.samples import Frames

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

DESCRIPTION = """\
Answers one question about one video or image by the untouched model and each pipeline, and draws what they keep.
"""
EXAMPLE = """\
example:
  tokenlab show --pipeline topic@0.25 --pipeline 'two=[{similarity: {retention_ratio: 0.5}}, text@0.5]' \\
      video.mp4 "what colour is the circle ?"
"""


def show(argv: Sequence[str]) -> int:
    """Prints an answer a pipeline, and writes the picture; 3 if a pipeline could not answer."""
    if (options := _parser().read(argv)) is None:
        return 0
    arms = read_pipelines(options.pipeline)
    target = Path(options.output)
    if not target.absolute().parent.is_dir():
        raise UserError(f"--output: cannot write {target}: there is no such folder")

    from tokenlab.cli.commands.run import silence_libraries
    from tokenlab.compressors import Pipeline
    from tokenlab.data.samples import Clip, Sample
    from tokenlab.models.encode_cache import EncodeCache
    from tokenlab.models.mllm import LoadedModel
    from tokenlab.models.settings import MLLM
    from tokenlab.report.overlay import labelled, pictures_of, strip
    from tokenlab.report.sidecar import AnswerTokens

    silence_libraries()
    frames = _read(Path(options.file), options.frames)
    loaded = LoadedModel.load(MLLM(checkpoint=options.checkpoint, max_new_tokens=options.new_tokens))
    clip = Clip("0", (Sample("0", "0", options.question),), (frames,))
    pictures, drawn, failed = pictures_of(loaded.media, frames), {}, False
    terminal = Terminal()
    for arm, pipeline in {"full": Pipeline(), **arms}.items():
        (answer,) = loaded.answer([clip], pipeline, EncodeCache(pipeline.needs()))
        if answer.trace is None:
            failed = True
            terminal.print(f"{arm}: failed: {answer.error}", markup=False, soft_wrap=True)
            continue
        tokens = AnswerTokens.of("0", arm, answer.ids, answer.trace).media[0]
        left = f"{answer.trace.visual_tokens_out:,} of {answer.trace.visual_tokens_in:,} visual tokens"
        terminal.print(f"{arm}: {answer.text}  ({left})", markup=False, soft_wrap=True)
        drawn[f"{arm}: {answer.text} ({left})"] = [strip(pictures, tokens)]
    if drawn:
        try:
            labelled(drawn).save(target)
        except (OSError, ValueError) as error:
            raise UserError(f"--output: cannot write {target}: {error}") from error
        terminal.print(f"Drawn: {target}", markup=False, soft_wrap=True)
    return 3 if failed else 0


def _read(path: Path, num_frames: int) -> Frames:
    from tokenlab.data.media.files import MediaError
    from tokenlab.data.media.image import read_image
    from tokenlab.data.media.video import decode

    try:
        return read_image(path) if path.suffix.lower() in IMAGES else decode(path, num_frames)
    except MediaError as error:
        raise UserError(f"show: {error}") from error


def _parser() -> Parser:
    parser = Parser.of_page("show", DESCRIPTION, EXAMPLE)
    add = parser.add_argument
    add("file", metavar="VIDEO", help="a video or an image")
    add("question", metavar="QUESTION")
    add(
        "--pipeline",
        action="append",
        default=[],
        metavar="ARM=[...]",
        help="an arm and its compressors, as in a config, or one compressor as topic@0.25; may be repeated",
    )
    add("--checkpoint", default="shapes", metavar="NAME", help="embedded model, folder or hub id (default: shapes)")
    add("--frames", type=whole_number(1), default=16, metavar="N", help="frames of a video (default: 16)")
    add("--new-tokens", type=whole_number(1), default=32, metavar="N", help="tokens of an answer at most (default: 32)")
    add("--output", default="show.png", metavar="FILE", help="where the picture is written (default: show.png)")
    return parser
