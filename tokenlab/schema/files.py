"""Reads config files: YAML with every key once, and the parts that a file names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tokenlab.errors import UserError
from tokenlab.schema.arguments import check_names, suggest

SECTIONS = ("seed_everything", "trainer", "model", "data", "run")
"""The keys of a config."""

_PACKAGE = Path(__file__).parents[1]
SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where configs that come along are found by name: in a wheel, then in a checkout."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and reads 1e-3 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Builds a mapping, unless a key of it is written twice."""
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; a mistake in it is reported as being in `where`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{where}{line}: {getattr(error, 'problem', None) or error}") from None
    except ValueError as error:  # a timestamp such as 2026-99-99
        raise UserError(f"{where}: {error}") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(text, str(path))


def find_config(name: str) -> Path:
    """The file that `--config NAME` means: a path as typed, or the name of a config that comes along."""
    path = Path(name)
    if path.is_file() or path.name != name:
        return path
    file_name = name if path.suffix in (".yaml", ".yml") else f"{name}.yaml"
    for folder in SHIPPED:
        if (folder / file_name).is_file():
            return folder / file_name
    known = shipped_configs()
    hint = suggest(path.stem, known) or f"; there are {', '.join(known)}"
    raise UserError(f"--config: there is no file {name} here, and no config of that name comes along{hint}")


def shipped_configs() -> list[str]:
    """Names of the configs that come along."""
    return sorted({path.stem for folder in SHIPPED for path in folder.glob("*.yaml")})


def load_run_config(path: Path) -> dict[str, Any]:
    """One config file, with the parts it names read in; their paths are relative to the file that names them."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: a config is a mapping with `model:` and `data:`")
    check_names(str(path), config, SECTIONS, "key")
    return resolve_parts(config, path.parent)


def resolve_parts(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Replaces file names in the places that may hold one by what the files say."""
    config = dict(config)
    if _is_file(config.get("data")):
        config["data"] = read_yaml(folder / config["data"])
    if isinstance(config.get("model"), dict):
        model = config["model"] = dict(config["model"])
        if _is_file(model.get("mllm")):
            model["mllm"] = read_yaml(folder / model["mllm"])
        if "pipelines" in model:
            model["pipelines"] = _resolve_pipelines(model["pipelines"], folder)
    return config


def _resolve_pipelines(pipelines: Any, folder: Path) -> Any:
    if _is_file(pipelines):
        path = folder / pipelines
        pipelines, folder = read_yaml(path), path.parent
    if not isinstance(pipelines, dict):
        return pipelines
    return {arm: read_yaml(folder / steps) if _is_file(steps) else steps for arm, steps in pipelines.items()}


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))
