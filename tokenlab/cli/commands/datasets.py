"""Brings what `data:` says in several configs to one `{class_path, init_args}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenlab.cli.config.merge import deep_merge
from tokenlab.errors import UserError
from tokenlab.schema.arguments import check_arguments, class_path, import_class, suggest

_EXAMPLE = "name one dataset with its arguments, such as `data: {shapes: {num_videos: 10}}`"


def expand_data(values: Iterable[Any], datasets: Mapping[str, type], base: type) -> dict[str, Any]:
    """The dataset that the values of `data:` describe together, checked against its signature.

    A value names a dataset (`shapes`, `{shapes: {...}}` or `{class_path: ...}`) and replaces an earlier one of another
    name, or it is only arguments for the dataset named before.

    Raises:
        UserError: If there is no such dataset, or it does not take these arguments.
    """
    merged: dict[str, Any] = {}
    for value in values:
        merged = deep_merge(merged, _canonical(value, merged, datasets, base))
    if not merged:
        raise UserError(f"data is missing: {_EXAMPLE}")
    cls = import_class("data", merged["class_path"], base)
    names = [name for name, known in datasets.items() if known is cls]
    arguments = check_arguments(f"data.{names[0]}" if names else "data.init_args", cls, merged["init_args"])
    return {"class_path": merged["class_path"], "init_args": arguments}


def _canonical(value: Any, earlier: dict[str, Any], datasets: Mapping[str, type], base: type) -> dict[str, Any]:
    if isinstance(value, str):
        return {"class_path": _find(value, datasets), "init_args": {}}
    if not isinstance(value, dict) or not value:
        raise UserError(f"data: {_EXAMPLE}")
    if "class_path" in value:
        cls = import_class("data", value["class_path"], base)
        return {"class_path": class_path(cls), "init_args": _arguments(value.get("init_args"))}
    if earlier and not set(value) & set(datasets):
        return {"init_args": _arguments(value["init_args"] if list(value) == ["init_args"] else value)}
    if len(value) > 1:
        raise UserError(f"data: {_EXAMPLE}; got {', '.join(map(str, value))}")
    name, arguments = next(iter(value.items()))
    return {"class_path": _find(name, datasets), "init_args": _arguments(arguments)}


def _find(name: Any, datasets: Mapping[str, type]) -> str:
    if name not in datasets:
        hint = suggest(name, datasets) or f"; known: {', '.join(datasets)}"
        raise UserError(f"data: there is no dataset {name!r}{hint}")
    return class_path(datasets[name])


def _arguments(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(f"data: {_EXAMPLE}; got {value!r} for the arguments")
    return dict(value or {})
