"""Hooks that calls share: registered once a module, counted, and taken off with the last user.

What a hook does is looked up in a `ContextVar` by the code that registers it, so that threads and nested contexts on
one model do not meet: for a call of another context a hook does nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

Undo = Callable[[], None]


class HookPoint(NamedTuple):
    """Where a hook goes: on which module, before or behind its call, and what torch calls there."""

    module: nn.Module
    kind: Literal["before", "behind"]
    call: Callable[..., Any]


class Counted:
    """Changes to modules that several calls share: made for the first of them, taken back after the last."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # garbage collection, at any allocation, may close a block while one opens
        self._users: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()
        self._undo: WeakKeyDictionary[nn.Module, dict[str, Undo]] = WeakKeyDictionary()

    @contextmanager
    def use(self, module: nn.Module, name: str, change: Callable[[], Undo]) -> Iterator[None]:
        """While active, the module is changed; `change` makes the change, and returns what takes it back."""
        with self._lock:
            users, undo = self._users.setdefault(module, {}), self._undo.setdefault(module, {})
            if name not in undo:
                undo[name] = change()
            users[name] = users.get(name, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                users[name] -= 1
                if not users[name]:
                    undo.pop(name)()


_HOOKS = Counted()


@contextmanager
def hooked(point: HookPoint, name: str) -> Iterator[None]:
    """While active, a hook is on its module; hooks of one name and kind on a module do the same."""
    module, kind, call = point

    def register() -> Undo:
        if kind == "before":
            return module.register_forward_pre_hook(call, with_kwargs=True).remove
        # before the hooks with which transformers collects hidden states
        return module.register_forward_hook(call, with_kwargs=True, prepend=True).remove

    with _HOOKS.use(module, f"{kind} {name}", register):
        yield
