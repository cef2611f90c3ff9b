"""How pipelines are spelled: as text, and as the arms of a config, where sweeps fan out and names become classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from tokenlab.compressors.base import REGISTRY, TokenCompressor
from tokenlab.compressors.controls import controls_of
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.errors import UserError
from tokenlab.schema.arguments import check_arguments, import_class, import_path, parameters, suggest
from tokenlab.schema.files import find_config, load_run_config, parse_yaml

_SWEPT, POLICY = "retention_ratio", "positions"
HALF = 0.5
"""What a name alone keeps, spelled as text, where the method's authors name no budget."""


def parse_pipeline(text: str) -> Pipeline:
    """Builds a pipeline from text: `fastv@0.5`, `similarity@0.25+text@0.5`, or a list as in a config.

    A name alone keeps half, or what the method's authors keep where the method knows that. A compressor that is not
    registered is named by its place, `file.py:Class` or `package.module:Class`.

    Raises:
        UserError: In one line, for anything that cannot be.
    """
    if text.lstrip().startswith(("[", "{")):
        steps = parse_yaml(text, "pipeline")
    else:
        steps = [_with_budget(step.strip()) for step in text.split("+")]
    try:
        arms = build_pipelines(expand_pipelines({"pipeline": steps}))
    except UserError as error:
        raise UserError(str(error).replace("model.pipelines.", "", 1)) from None
    if len(arms) > 1:
        raise UserError(f"pipeline: {text!r} is a sweep, of {', '.join(arms)}; give one retention_ratio a compressor")
    return next(iter(arms.values()))


def _with_budget(step: str) -> str:
    if "@" in step or not (step in REGISTRY or ":" in step):
        return step
    try:
        find_compressor("pipeline", step)()  # pyright: ignore[reportCallIssue] - its authors name a budget, or there is none
    except (TypeError, ValueError):
        return f"{step}@{HALF}"
    return step


def load_arm(path: str | Path, arm: str) -> Pipeline:
    """Builds one arm of a config file, or of the resolved config that a run leaves.

    Raises:
        UserError: In one line, for anything that cannot be; for an arm that is not there, with those that are.
    """
    config = load_run_config(find_config(str(path)))
    model = config.get("model")
    arms = expand_pipelines(model.get("pipelines") if isinstance(model, dict) else None)
    if arm not in arms:
        raise UserError(f"{path}: there is no arm {arm!r}{suggest(arm, arms)}; there are {', '.join(arms)}")
    return build_pipelines({arm: arms[arm]})[arm]


def build_pipelines(expanded: Mapping[str, list[dict[str, Any]]]) -> dict[str, Pipeline]:
    """Builds arms that are written in full."""
    return {
        arm: Pipeline(
            tuple(import_class(arm, step["class_path"], TokenCompressor)(**step["init_args"]) for step in steps)
        )
        for arm, steps in expanded.items()
    }


def with_controls(
    expanded: Mapping[str, list[dict[str, Any]]], follows_size: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Arms in full, and behind them their controls; a control that is an arm already is not added again.

    Args:
        expanded: The arms.
        follows_size: Whether the model makes fewer tokens of smaller pictures.

    Raises:
        UserError: If an arm's budget is not known beforehand, or bears the name of a control.
    """
    found = dict(expanded)
    for controls in controls_of(build_pipelines(expanded), follows_size).values():
        for name, pipeline in controls.items():
            found.setdefault(
                name,
                [{"class_path": import_path(type(each)), "init_args": asdict(each)} for each in pipeline.compressors],
            )
    return found


def expand_pipelines(pipelines: Any) -> dict[str, list[dict[str, Any]]]:
    """The arms in full: each an ordered list of `{class_path, init_args}`.

    Raises:
        UserError: In one line with the key of what cannot be, before any weights are read.
    """
    if not isinstance(pipelines, dict) or not pipelines:
        raise UserError("model.pipelines: name at least one arm, such as `full: []`, the untouched model")
    expanded: dict[str, list[dict[str, Any]]] = {}
    for arm, steps in pipelines.items():
        for name, fixed in _fan_out(arm, _steps(arm, steps)).items():
            if name in expanded or (name != arm and name in pipelines):
                raise UserError(f"model.pipelines.{arm}: its sweep makes an arm {name!r}, but there already is one")
            expanded[name] = _check(f"model.pipelines.{name}", fixed)
    return expanded


def _steps(arm: object, steps: Any) -> list[tuple[str, type[TokenCompressor], dict[str, Any]]]:
    """Each step's key, class and arguments, from any of the spellings of a step."""
    if not isinstance(arm, str) or not arm:
        raise UserError(f"model.pipelines: an arm's name is text, got {arm!r}; put it in quotes")
    if isinstance(steps, (str, dict)):  # a single compressor
        steps = [steps]
    if not isinstance(steps, list):
        raise UserError(
            f"model.pipelines.{arm}: an arm is a list of compressors, such as [{_example()}], got {steps!r}"
        )
    return [_step(f"model.pipelines.{arm}[{index}]", step) for index, step in enumerate(steps)]


def _step(key: str, step: Any) -> tuple[str, type[TokenCompressor], dict[str, Any]]:
    if isinstance(step, dict) and "class_path" in step:
        name, arguments = "init_args", step.get("init_args")
        cls, unknown = _import(key, step["class_path"]), set(step) - {"class_path", "init_args"}
    else:
        name, arguments = next(iter(step.items())) if isinstance(step, dict) and len(step) == 1 else _at(key, step)
        cls, unknown = find_compressor(key, name), ()
    if unknown or not (arguments is None or isinstance(arguments, dict)):
        raise UserError(f"{key}: a compressor is written as {_example()}, got {step!r}")
    return f"{key}.{name}", cls, dict(arguments or {})


def _at(key: str, step: Any) -> tuple[Any, dict[str, Any] | None]:
    """Name and arguments of a step that is written `name` or `name@retention_ratio`."""
    if not isinstance(step, str) or "@" not in step:
        return step, None
    name, _, ratio = step.rpartition("@")
    try:
        return name, {_SWEPT: float(ratio)}
    except ValueError:
        raise UserError(f"{key}: {step!r} is written NAME@RATIO, with a number such as 0.5") from None


def find_compressor(key: str, name: Any) -> type[TokenCompressor]:
    """The class of a registered name, of `package.module:Class` or of `file.py:Class`.

    Raises:
        UserError: In one line with the key, if there is none.
    """
    if not isinstance(name, str):
        raise UserError(f"{key}: a compressor is written as {_example()}, got {name!r}")
    if ":" in name:  # a file's, or a package's
        return _import(key, name)
    if name not in REGISTRY:
        raise UserError(
            f"{key}: no compressor is called {name!r}{suggest(name, REGISTRY)} (tokenlab compressors lists them)"
        )
    return REGISTRY[name]


def _import(key: str, path: Any) -> type[TokenCompressor]:
    cls = import_class(key, path, TokenCompressor)
    if cls not in REGISTRY.values():
        stage = cls.__mro__[1].__name__
        raise UserError(f"{key}: {path} has no name for tables; define it as class {cls.__name__}({stage}, name=...)")
    return cls


def _example() -> str:
    return f"{{{min(REGISTRY)}: {{{_SWEPT}: 0.5}}}}"


def _fan_out(arm: str, steps: list) -> dict[str, list]:
    """One arm for every combination of the ratios, and of the position policies, that are given as lists."""
    arms = {arm: steps}
    for name, joiner in ((_SWEPT, "@"), (POLICY, " ")):
        arms = {new: fixed for old, each in arms.items() for new, fixed in _sweep(old, each, name, joiner).items()}
    return arms


def _sweep(arm: str, steps: list, name: str, joiner: str) -> dict[str, list]:
    """One arm for every combination of the values that one argument is given as lists."""
    sweeps = [(key, arguments[name]) for key, _, arguments in steps if isinstance(arguments.get(name), list)]
    for key, values in sweeps:
        if not values or len({repr(value) for value in values}) < len(values):
            raise UserError(f"{key}.{name}: a sweep lists different values, at least one, got {values}")
    arms = {}
    for choice in product(*(values for _, values in sweeps)):
        chosen = iter(choice)
        fixed = [
            (key, cls, {**arguments, name: next(chosen)} if isinstance(arguments.get(name), list) else arguments)
            for key, cls, arguments in steps
        ]
        suffix = "+".join("native" if value is None else str(value) for value in choice)
        arms[f"{arm}{joiner}{suffix}" if choice else arm] = fixed
    return arms


def _check(key: str, steps: list) -> list[dict[str, Any]]:
    """Builds the compressors and their pipeline, and lets go of both."""
    steps = [(step_key, cls, check_arguments(step_key, cls, arguments)) for step_key, cls, arguments in steps]
    compressors = tuple(_build(step_key, cls, arguments) for step_key, cls, arguments in steps)
    try:
        Pipeline(compressors)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None
    return [{"class_path": import_path(cls), "init_args": arguments} for _, cls, arguments in steps]


def _build(key: str, cls: type[TokenCompressor], arguments: Mapping[str, Any]) -> TokenCompressor:
    try:
        return cls(**arguments)
    except ValueError as error:
        subject, _, rest = str(error).partition(" ")
        raise UserError(f"{key}.{subject}: {rest}" if subject in parameters(cls) else f"{key}: {error}") from None
