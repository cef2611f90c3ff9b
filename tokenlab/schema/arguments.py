"""What a class accepts, read from its signature, so that a wrong argument is named before anything heavy is built."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from tokenlab.errors import UserError


def suggest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name that is spelt most like this one, if any is."""
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


_FILES: dict[str, str] = {}
"""Files that were run as modules, by the name of the module."""


def class_path(cls: type) -> str:
    """Where a class is imported from, as a config says it: `package.module.Class`, or `/path/to/file.py:Class`."""
    return as_written(import_path(cls))


def import_path(cls: type) -> str:
    """Where this process imports a class from: `package.module.Class`, whatever file it came from."""
    return f"{cls.__module__}.{cls.__qualname__}"


def as_written(path: str) -> str:
    """An import path as a config of another process may say it; any other text as it is."""
    module, _, name = path.partition(".")
    return f"{_FILES[module]}:{name}" if module in _FILES else path


def import_class(key: str, path: Any, base: type) -> type:
    """The class at `package.module.Class`, `package.module:Class` or `file.py:Class`, if it is of the kind asked for.

    Raises:
        UserError: With the key, if there is no such class, or its module raises.
    """
    module, _, name = str(path).rpartition(":" if ":" in str(path) else ".")
    try:
        cls = getattr(_import_file(Path(module)) if module.endswith(".py") else importlib.import_module(module), name)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: class_path {path!r} cannot be imported: {error}") from None
    except Exception as error:  # whatever somebody else's module raises
        raise UserError(f"{key}: class_path {path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"{key}: class_path {path!r} is not a {base.__name__}")
    if inspect.isabstract(cls) or cls is base:
        raise UserError(f"{key}: class_path {path!r} is abstract: it is a kind of {base.__name__}, not one of them")
    return cls


def _import_file(file: Path) -> types.ModuleType:
    """Runs a file once, as a module whose name no other file's has."""
    path = str(file.resolve())
    stem = file.stem if file.stem.isidentifier() else "file"
    name = f"{stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise ImportError(f"there is no file {file}")
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _FILES[name] = path
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _FILES[name]
        raise
    return module


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name, also those that its `**kwargs` hand on to a parent."""
    found: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        own = list(inspect.signature(owner.__init__).parameters.values())[1:]
        named = {p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        found = {**named, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in own):
            break
    return found


def hints(cls: type) -> dict[str, Any]:
    """The types of a class's arguments; what cannot be resolved is left out."""
    # a dataclass's __init__ holds its parents' annotations as text that its own module may not be able to resolve
    owners = [cls] if dataclasses.is_dataclass(cls) else [c.__init__ for c in reversed(cls.__mro__)]
    resolved: dict[str, Any] = {}
    for owner in owners:
        try:
            resolved |= typing.get_type_hints(owner)
        except (NameError, TypeError, AttributeError):
            continue
    return resolved


def check_names(key: str, names: Iterable[object], known: Iterable[str], what: str = "parameter") -> None:
    """Refuses a name that is not known, with the known ones that look like it."""
    known = list(known)
    for name in names:
        if name not in known:
            hint = suggest(name, known) or (f"; known: {', '.join(known)}" if known else "")
            raise UserError(f"{key}: there is no {what} {name!r}{hint}")


def check_arguments(key: str, cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, whole numbers as floats where the class asks for those, if the class takes them.

    Raises:
        UserError: With the key of the wrong argument, as the config spells it.
    """
    accepted, types_of = parameters(cls), hints(cls)
    check_names(key, arguments, accepted)
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{key}: {name} is missing; give {name}: {describe(types_of.get(name, Any))}")
    for name, value in arguments.items():
        if not accepts(types_of.get(name, Any), value):
            quotes = " (put it in quotes)" if accepts(types_of[name], str(value)) else ""
            raise UserError(f"{key}.{name}: must be {describe(types_of[name])}, got {value!r}{quotes}")
    return {
        name: float(value) if _wants_float(types_of.get(name), value) else value for name, value in arguments.items()
    }


def _wants_float(hint: Any, value: Any) -> bool:
    options = typing.get_args(hint) or (hint,)
    return type(value) is int and float in options and int not in options


def accepts(hint: Any, value: Any) -> bool:
    """Whether a value read from YAML fits a type; types that YAML cannot spell out are left to jsonargparse."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(option, value) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is dict:
        inner = typing.get_args(hint)[1]
        return isinstance(value, dict) and all(accepts(inner, item) for item in value.values())
    return True


def describe(hint: Any) -> str:
    """A type in the words of a config: `number or null`, `'keep' or 'renumber'`."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(hint))
    if origin is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if hint is Any:
        return "anything"
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null"}
    if hint in words:
        return words[hint]
    return "a mapping" if origin is dict else getattr(hint, "__name__", str(hint))
