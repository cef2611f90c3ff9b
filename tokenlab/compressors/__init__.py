"""Learning-free token reduction methods, one file each; defining one registers it.

Every module of this folder is imported here, and then whatever other packages offer under the entry point group
`tokenlab.compressors`, so that a new method is one new file.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from tokenlab.compressors.base import REGISTRY, TokenCompressor
from tokenlab.compressors.pipeline import Pipeline

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
for _plugin in entry_points(group="tokenlab.compressors"):
    _plugin.load()

__all__ = ["REGISTRY", "Pipeline", "TokenCompressor"]
