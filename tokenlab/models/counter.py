"""Torch's own count of FLOPs, of anything that runs and of what methods do; and which operators compute attention.

What torch has no public name for is asked of it here alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count, shape_wrapper

from tokenlab.models.clock import running, stage


def _attention(query: tuple, key: tuple, value: tuple, *_: object, out_shape: object = None, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""What torch up to 2.13 forgets."""

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{op: shape_wrapper(formula) for op, formula in CPU_ATTENTION.items()},
}


def flop_counter() -> FlopCounterMode:
    """Makes torch's counter (2 x multiply-adds)."""
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


class MethodWork:
    """What methods compute while active is theirs: FLOPs are counted or, where a stopwatch runs, time is taken."""

    def __init__(self) -> None:
        self._flops = MethodFlops()

    @property
    def flops(self) -> int:
        """FLOPs so far."""
        return self._flops.total

    def __enter__(self) -> MethodWork:
        self._active = self._flops if running() is None else stage("decide")
        self._active.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._active.__exit__(*error)


class MethodFlops(TorchDispatchMode):
    """Counts, while active, what torch's counter would, by the same formulas, in less time."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Takes calls apart until there is a formula for them, or nothing left to take apart."""
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        found = func(*args, **kwargs)
        if (formula := FORMULAS.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **kwargs, out_val=found)
        return found


class AttentionKernels(TorchDispatchMode):
    """Notes, while active, the names of torch's operators that compute attention in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Lets torch choose among its operators, and reads the name of the chosen one."""
        if func.overloadpacket is torch.ops.aten.scaled_dot_product_attention:
            with self:
                return func.decompose(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.startswith("_scaled_dot_product_"):
            self.names.add(name.removeprefix("_scaled_dot_product_"))
        return func(*args, **(kwargs or {}))


@cache
def _is_composite(func: Any) -> bool:
    """Whether a call is made of others, some of which may have a formula."""
    return func.overloadpacket not in FORMULAS and func.has_kernel_for_dispatch_key(COMPOSITE)
