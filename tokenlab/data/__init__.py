"""Benchmarks: one file each; defining one registers it.

Every module of this folder is imported here, so that a new benchmark format is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from tokenlab.data.module import DATASETS, ClipEntry, MediaFile, QuestionData, Split
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.data.video import MediaError, confine, decode

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

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
