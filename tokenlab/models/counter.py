"""Torch's own count of FLOPs: of anything that runs, and of what methods do while they are timed.

What torch has no public name for is asked of it here alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count, shape_wrapper


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


class MethodFlops(TorchDispatchMode):
    """Counts, while active, what torch's counter would, by the same formulas; in less time, for a method is timed."""

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


@cache
def _is_composite(func: Any) -> bool:
    """Whether a call is made of others, some of which may have a formula."""
    return func.overloadpacket not in FORMULAS and func.has_kernel_for_dispatch_key(COMPOSITE)
