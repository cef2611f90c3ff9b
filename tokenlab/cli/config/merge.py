"""Merges configs in the order they are given; an override of the command line is one more config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenlab.errors import UserError
from tokenlab.schema.arguments import suggest


def merge(configs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One config of several, the strongest last: mappings are merged, anything else is replaced.

    Arms are replaced whole, `ARM: null` removes one, and `ARM+: STEPS` appends to one.

    Raises:
        UserError: If an arm is removed or appended to that no earlier config has.
    """
    merged: dict[str, Any] = {}
    for config in configs:
        earlier, later = _arms(merged), _arms(config)
        merged = deep_merge(merged, config)
        if isinstance(later, dict):
            arms = _merge_arms(earlier if isinstance(earlier, dict) else {}, later)
            merged["model"] = {**merged["model"], "pipelines": arms}
    return merged


def deep_merge(earlier: Any, later: Any) -> Any:
    """The later value, merged into the earlier one where both are mappings, unless it names another class."""
    if not (isinstance(earlier, Mapping) and isinstance(later, Mapping)):
        return later
    if "class_path" in later and later["class_path"] != earlier.get("class_path"):
        return later
    changed = {key: deep_merge(earlier[key], value) if key in earlier else value for key, value in later.items()}
    return {**earlier, **changed}


def override(key: str, value: Any) -> dict[str, Any]:
    """The config that a dotted key of the command line stands for.

    >>> override("model.mllm.dtype", "auto")
    {'model': {'mllm': {'dtype': 'auto'}}}
    >>> override("model.pipelines.mine@0.5", None)  # what follows is the name of an arm, dots included
    {'model': {'pipelines': {'mine@0.5': None}}}
    """
    arms = "model.pipelines."
    path = [*arms.split(".")[:2], key.removeprefix(arms)] if key.startswith(arms) else key.split(".")
    config = value
    for step in reversed(path):
        config = {step: config}
    return config


def _arms(config: Mapping[str, Any]) -> Any:
    model = config.get("model")
    return model.get("pipelines") if isinstance(model, dict) else None


def _merge_arms(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A replaced arm stays where it was, a new one comes last."""
    merged = dict(earlier)
    for arm, steps in later.items():
        known, appends = str(arm).removesuffix("+"), str(arm).endswith("+")
        if (appends or steps is None) and known not in earlier:
            does = f"appends to an arm {known!r}" if appends else "null removes an arm"
            raise UserError(
                f"model.pipelines.{arm}: {does}, but no earlier config has this one{suggest(known, earlier)} "
                "([] is the untouched model)"
            )
        merged[known if appends else arm] = [*listed(merged[known]), *listed(steps)] if appends else steps
    return {arm: steps for arm, steps in merged.items() if steps is not None}


def listed(steps: Any) -> list[Any]:
    """Steps as a list: a single compressor may stand for itself."""
    return steps if isinstance(steps, list) else [] if steps is None else [steps]
