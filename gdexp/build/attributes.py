"""What a model keeps outside its parameters and buffers, which a stack of models holds only once.

A stack trains on the parameters and buffers of all its models, but it calls one module. So whatever
else a forward pass reads must be the same in all of them, and must stay as it is.
"""

import random
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))  # the names that every module has
_STATE = ("_parameters", "_buffers", "_modules")
_DEEPEST = 8  # levels of objects in objects that are looked at
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def differing(models: Sequence[nn.Module]) -> str:
    """Return what keeps models from being called as one module; nothing if that is nothing.

    Args:
        models: of one class, each as its run begins with it.
    """
    first = models[0]
    for name, module in first.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return f"{name or 'the model'} is a scripted module"
    for name, p in first.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            return f"{name} has a hook"
        if vars(p):
            return f"{name} has an attribute {next(iter(vars(p)))!r}"
    for name, p in models[-1].named_parameters():
        if isinstance(p, nn.UninitializedParameter):
            return f"{name} gets its shape from a first batch"
    wanted = Image(first)
    for other in models[1:]:
        if name := wanted.differs_from(Image(other)):
            return f"{name} isn't the same in the models of all seeds"
    return ""


class Image:
    """The attributes of a module and of its submodules at one time, other than parameters and buffers.

    Args:
        module: or any other object, such as a loss.
    """

    def __init__(self, module: Any) -> None:
        self._values = dict(_attributes(module))

    def differs_from(self, other: "Image") -> str:
        """Return the name of an attribute that isn't the same; nothing if there is none."""
        for name in [*self._values, *other._values]:
            mine, its = self._values.get(name, _MISSING), other._values.get(name, _MISSING)
            if not _same(mine, its):
                return name
        return ""


def replaced(module: nn.Module, before: Mapping[str, Tensor]) -> str:
    """Return the name of a parameter or buffer that is another tensor than before; nothing if there is none."""
    now = tensors(module)
    return next((name for name in [*before, *now] if before.get(name) is not now.get(name)), "")


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers themselves, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


_MISSING = object()


def _attributes(module: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(module, nn.Module):
        yield "the loss", _image(module)
        return
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        yield f"{prefix}__class__", type(part).__qualname__
        for key, value in vars(part).items():
            if key in _STATE or (key in _OF_MODULES and not value and key != "training"):
                continue
            yield f"{prefix}{key}", _image(value)
        for key, p in part._parameters.items():
            yield f"{prefix}{key}.requires_grad", None if p is None else p.requires_grad


def _image(value: Any, depth: int = 0, above: tuple[int, ...] = ()) -> Any:
    """Return a value that stays as it is and that `_same` can compare with another."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return type(value).__name__, repr(value)
    if isinstance(value, Tensor):
        return "tensor", value.requires_grad, value.detach().clone()
    if isinstance(value, np.ndarray):
        return "array", str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, torch.Generator):
        return "generator", value.get_state()
    if isinstance(value, random.Random):
        return "generator", value.getstate()
    if isinstance(value, np.random.Generator):
        return "generator", repr(value.bit_generator.state)
    kind = type(value).__qualname__
    if depth == _DEEPEST or id(value) in above:
        return kind
    inside = depth + 1, (*above, id(value))
    if isinstance(value, Mapping):
        return kind, [(repr(k), _image(v, *inside)) for k, v in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(map(repr, value))
    if isinstance(value, types.FunctionType):
        cells = [c.cell_contents for c in value.__closure__ or () if not _is_empty(c)]
        return kind, value.__code__, [_image(c, *inside) for c in cells], _image(value.__defaults__, *inside)
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, types.MethodType)):
        return kind, getattr(value, "__qualname__", getattr(value, "__name__", ""))
    if isinstance(value, nn.Module):
        own = [(name, t.detach().clone()) for name, t in tensors(value).items()]
        return kind, own, list(_attributes(value))
    if isinstance(value, Sequence) or type(value).__module__ == "collections":
        return kind, [_image(v, *inside) for v in value]
    if not hasattr(value, "__dict__"):
        return kind, _ADDRESS.sub("", repr(value))
    return kind, [(k, _image(v, *inside)) for k, v in vars(value).items()]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is _MISSING
    except ValueError:
        return True
