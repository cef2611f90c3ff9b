"""Registries that other packages add to: no name twice, and no package that breaks what it does not belong to."""

from __future__ import annotations

import inspect
import logging
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tokenlab.errors import UserError
from tokenlab.schema.arguments import class_path

_LOG = logging.getLogger(__name__)


def register(registry: dict[str, Any], kind: str, name: str, cls: type) -> None:
    """Adds a class under its name; defining it again, as notebooks do, replaces it.

    Raises:
        UserError: If a class of another place has the name.
    """
    known = registry.get(name)
    if known is not None and class_path(known) != class_path(cls):
        raise UserError(
            f"two {kind}s are called {name!r}: {package(known)}'s ({class_path(known)}) and {package(cls)}'s "
            f"({class_path(cls)}); give the latter another name"
        )
    registry[name] = cls


def load_plugins(group: str, registry: dict[str, Any]) -> None:
    """Imports what other packages offer; one that fails is skipped whole, with one line that says why."""
    for plugin in entry_points(group=group):
        before = dict(registry)
        try:
            plugin.load()
            _refuse_abstract({name: cls for name, cls in registry.items() if name not in before})
        except (Exception, SystemExit) as error:  # whatever somebody else's module does
            registry.clear()
            registry.update(before)
            _LOG.warning("tokenlab: plug-in %s is skipped: %s", _described(plugin), _shortened(error))


def package(cls: type) -> str:
    """The top-level package that a class belongs to, or the file."""
    return class_path(cls).rpartition(":")[0] or cls.__module__.partition(".")[0]


def _refuse_abstract(classes: dict[str, type]) -> None:
    for name, cls in classes.items():
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(getattr(cls, "__abstractmethods__")))  # noqa: B009 - no type knows it
            raise TypeError(f"{name!r} ({class_path(cls)}) lacks {missing}")


def _described(plugin: EntryPoint) -> str:
    return f"{plugin.name} ({plugin.value}) of {plugin.dist.name if plugin.dist else 'an unknown package'}"


def _shortened(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
