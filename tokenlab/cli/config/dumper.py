"""Writes any config, whatever a plug-in's defaults are made of."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import yaml

from tokenlab.schema.arguments import as_written


def dump(config: Mapping[str, Any]) -> str:
    r"""Writes a config as YAML; what YAML has no word for is written as its text, an enum as its value.

    >>> from datetime import timedelta
    >>> dump({"after": timedelta(seconds=5)})
    "after: '0:00:05'\n"
    """
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Knows what SafeDumper knows, and a way out for all else."""


def _as_plain(dumper: yaml.SafeDumper, value: Any) -> yaml.Node:
    if isinstance(value, Enum):
        return dumper.represent_data(value.value)
    plain: type
    for plain in (int, float, str, dict, list, tuple):  # of which a plug-in's may be a subclass, such as NumPy's floats
        if isinstance(value, plain):
            return dumper.represent_data(plain(value))
    return dumper.represent_str(str(value))


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_str(as_written(text)))
_Dumper.add_multi_representer(object, _as_plain)
