"""Merges configs in the order they are given; an override of the command line is one more config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenlab.errors import UserError
from tokenlab.schema.arguments import suggest


def merge(configs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One config of several, the strongest last: mappings are merged, anything else is replaced.

    Arms are replaced whole, and `ARM: null` removes one.

    Raises:
        UserError: If an arm is removed that no earlier config has.
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
    for arm, steps in later.items():
        if steps is None and arm not in earlier:
            raise UserError(
                f"model.pipelines.{arm}: null removes an arm, but no earlier config has this one"
                f"{suggest(arm, earlier)} ([] is the untouched model)"
            )
    return {arm: steps for arm, steps in {**earlier, **later}.items() if steps is not None}
