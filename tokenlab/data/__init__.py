"""Benchmarks: one file each; defining one registers it.

Every module of `benchmarks/` is imported here, so that a new benchmark format is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from tokenlab.data import benchmarks
from tokenlab.data.media.files import MediaError, confine
from tokenlab.data.media.video import decode
from tokenlab.data.module import DATASETS, ClipEntry, MediaFile, QuestionData, Split
from tokenlab.data.samples import Clip, Frames, Sample

for _module in iter_modules(benchmarks.__path__):
    import_module(f"{benchmarks.__name__}.{_module.name}")

__all__ = [
    "DATASETS",
    "Clip",
    "ClipEntry",
    "Frames",
    "MediaError",
    "MediaFile",
    "QuestionData",
    "Sample",
    "Split",
    "confine",
    "decode",
]
