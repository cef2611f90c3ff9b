"""Devices that are not there: CPU tensors that say they are elsewhere, and refuse to be mixed, as a GPU's would.

Every operation on them runs on the CPU, so that answers can be compared to the bit. What is shown is that the code puts
everything where it belongs, on one device or on several; nothing is shown of a GPU's arithmetic, speed or memory.
"""

from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FIRST, SECOND = torch.device("lazy:0"), torch.device("lazy:1")
"""Of the kinds of device that torch knows by name, this one lets tensor subclasses stand on it without a backend."""

MOVES = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
"""Here the index may be on the CPU, as on a GPU."""


class Elsewhere(Tensor):
    """A CPU tensor, `held`, that says it is on another device."""

    @staticmethod
    def __new__(cls, real: Tensor, device: torch.device | None = None, requires_grad: bool = False) -> "Elsewhere":
        if isinstance(real, Elsewhere):
            real, device = real.held, device or real.device
        layout = {"strides": real.stride(), "storage_offset": real.storage_offset(), "dtype": real.dtype}
        with torch.inference_mode(False):  # views of weights are no inference tensors
            return Tensor._make_wrapper_subclass(cls, real.size(), **layout, device=device)

    def __init__(self, real: Tensor, device: torch.device | None = None, requires_grad: bool = False) -> None:
        self.held = real.held if isinstance(real, Elsewhere) else real

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        with Apart():
            return function(*args, **(kwargs or {}))

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError(f"a tensor on {self.device} has no numpy array; use .cpu() first")

    __array__ = numpy

    def item(self):
        return self.held.item()

    def tolist(self):
        return self.held.tolist()

    def __bool__(self):
        return bool(self.held)

    def __int__(self):
        return int(self.held)

    def __float__(self):
        return float(self.held)

    def __index__(self):
        return self.held.__index__()


class Apart(TorchDispatchMode):
    """Runs every operation on the CPU, and refuses those that mix devices."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._schema.name
        with self:
            composed = function.decompose(*args, **kwargs)
        if composed is not NotImplemented:
            return composed
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        home = self.home(name, tensors, args)
        if kwargs.get("device") is not None:
            home, kwargs = torch.device(kwargs["device"]), {**kwargs, "device": torch.device("cpu")}
        real = tree_map_only(Elsewhere, lambda x: x.held, (args, kwargs))
        pairs = zip(tree_leaves(real), tree_leaves((args, kwargs)), strict=True)
        known = {id(inside): outside for inside, outside in pairs if isinstance(outside, Elsewhere)}

        def outside(result: Tensor) -> Tensor:
            return known.get(id(result)) if id(result) in known else self.put(result, home)

        return tree_map_only(Tensor, outside, function(*real[0], **real[1]))

    @staticmethod
    def put(result: Tensor, home: torch.device) -> Tensor:
        return result if home.type == "cpu" else Elsewhere(result, home)

    @staticmethod
    def home(name: str, tensors: list[Tensor], args: tuple) -> torch.device:
        """Where the result is; numbers in tensors without axes may be anywhere."""
        if name in MOVES:
            return args[0].device
        counted = [x.device for x in tensors if x.dim() or name in INDEXING]
        allowed = {torch.device("cpu")} if name in INDEXING and args[0].device.type != "cpu" else set()
        if len(set(counted) - allowed) > 1 or (len(set(counted)) > 1 and not allowed):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {set(counted)}")
        away = [x.device for x in tensors if x.device.type != "cpu"]
        return (counted or away or [torch.device("cpu")])[0]


class Made(TorchFunctionMode):
    """Tensors made of Python numbers, which no dispatch sees."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is Tensor.new_tensor:
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(args[0].device)
        return function(*args, **kwargs)


@contextmanager
def devices():
    """While active, there are further devices."""
    with ExitStack() as stack:
        stack.enter_context(Made())
        stack.enter_context(Apart())
        yield


def spread(model: torch.nn.Module, blocks: list[torch.nn.Module]) -> torch.nn.Module:
    """A model over two devices, as accelerate does it: blocks on one and the other in turn, all else here or there."""
    names = {id(module): name for name, module in model.named_modules()}
    places = {names[id(block)]: (FIRST, SECOND)[index % 2] for index, block in enumerate(blocks)}
    inside, met = tuple(f"{name}." for name in places), {}
    for name, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        if name.startswith(inside):
            continue
        parts = name.split(".")
        prefixes = (".".join(parts[:k]) for k in range(1, len(parts) + 1))
        part = next(each for each in prefixes if not any(block.startswith(f"{each}.") for block in inside))
        place = SECOND if part.endswith(("norm", "lm_head", "projector", "connector")) else FIRST
        places[part] = met.setdefault(id(value), place)  # weights that two parts share are in one place
        if part == name:  # a weight of a module that has blocks below it
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            (module._parameters if leaf in module._parameters else module._buffers)[leaf] = value.detach().to(FIRST)
    return dispatch_model(model, places, main_device=FIRST)
