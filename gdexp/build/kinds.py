"""The kinds of objects that hold state, how each is read and how it is filled again.

Knows no run: `gdexp.build.objects` walks through a run's parts with these.
"""

import functools
import io
import itertools
import random
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gdexp

SCALARS = (type(None), bool, int, float, complex, str, bytes)
Items = list[tuple[Any, Any]]  # label and child

# what they hold is never part of a calculation: writers, locks, tables that fill caches when they are read
_INERT = {
    *("abc", "asyncio", "concurrent", "datetime", "decimal", "fractions", "inspect", "logging", "matplotlib"),
    *("mlflow", "multiprocessing", "pandas", "pathlib", "PIL", "pyarrow", "queue", "re", "sqlite3", "tensorboard"),
    *("tensorboardX", "threading", "tqdm", "typing", "uuid", "wandb", "weakref", "_thread", "_weakref"),
}


@functools.cache
def users(module: str | None) -> bool:
    """Say whether a module is the user's own."""
    found = sys.modules.get(module or "")
    if found is None or module == "builtins":
        return False
    if not (file := getattr(found, "__file__", None)):
        return module == "__main__"
    place = Path(file).resolve()
    if "site-packages" in place.parts or "dist-packages" in place.parts:
        return False
    others = [Path(gdexp.__file__).parent, *(Path(sysconfig.get_path(k)) for k in ("stdlib", "platstdlib"))]
    return not any(place.is_relative_to(other.resolve()) for other in others)


def is_object(value: Any) -> bool:
    """Say whether a value is an instance whose attributes may be state."""
    kind = type(value)
    if isinstance(value, (type, types.ModuleType, Enum, torch.dtype, torch.device, torch.Generator)):
        return False
    if kind.__module__.partition(".")[0] in _INERT or kind.__module__.startswith("torch.utils.tensorboard"):
        return False
    return hasattr(value, "__dict__") or any("__slots__" in vars(c) for c in kind.__mro__)


def attributes(value: Any) -> Items:
    """Return the attributes that an instance has of its own."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found.setdefault(name, getattr(value, name))
    return list(found.items())


def set_attributes(value: Any, items: Items) -> None:
    """Give an instance these attributes and no others, past any `__setattr__` of its own."""
    wanted, own = dict(items), getattr(value, "__dict__", {})
    for name in own.keys() - wanted.keys():
        del own[name]
    for name, child in items:
        if hasattr(value, "__dict__") and not hasattr(type(value).__dict__.get(name), "__set__"):
            own[name] = child
        else:
            object.__setattr__(value, name, child)


def class_attributes(kind: type) -> Items:
    """Return those attributes of a class that are neither methods nor Python's."""
    return [
        (name, value)
        for name, value in vars(kind).items()
        if not name.startswith("__") and not callable(value) and not hasattr(value, "__get__")
    ]


def set_class_attributes(kind: type, items: Items) -> None:
    """Give a class these attributes."""
    for name in dict(class_attributes(kind)).keys() - dict(items).keys():
        delattr(kind, name)
    for name, value in items:
        setattr(kind, name, value)


def functions(kind: type) -> Iterator[types.FunctionType]:
    """Yield the functions in a class."""
    for value in vars(kind).values():
        inner = [getattr(value, name, None) for name in ("fget", "fset", "func", "__func__")]
        for found in (value, *inner):
            if isinstance(found, types.FunctionType):
                yield found


def names_used(code: types.CodeType) -> set[str]:
    """Return the names that a function's code, and code within it, looks up in its module or as attributes."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_used(constant)
    return found


def generator_state(value: Any) -> Any:
    """Return the state of a generator of random numbers, in plain containers; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return None if isinstance(value, random.SystemRandom) else value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.BitGenerator):
        return value.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return None


def set_generator_state(value: Any, state: Any) -> None:
    """Put a generator where its state was taken."""
    if isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.random.BitGenerator):
        value.state = state
    else:
        value.set_state(state)


def position(value: Any) -> Any:
    """Return where a file or an iterator is, as far as that can be seen; None for anything else."""
    if isinstance(value, io.IOBase):
        if value in (sys.stdin, sys.stdout, sys.stderr):
            return None
        try:
            return "file", value.closed or value.tell()
        except (OSError, ValueError):
            return None
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return ("generator", frame and (frame.f_lasti, repr(frame.f_locals))) if value.gi_code else None
    if isinstance(value, Iterator) and not is_object(value):
        if isinstance(value, itertools.count):
            return "iterator", repr(value)
        left = getattr(value, "__length_hint__", None)
        return "iterator", left() if left else object()  # of others it can't be seen
    return None


def memory(tensor: Tensor) -> int:
    """Return the address of a tensor's memory, 0 where it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def fill(value: Any, children: Iterable[Any]) -> None:
    """Give a list, set or deque these members."""
    if isinstance(value, list):
        list.__setitem__(value, slice(None), list(children))
    elif isinstance(value, set):
        set.clear(value)
        set.update(value, children)
    else:
        deque.clear(value)
        deque.extend(value, children)


@torch.no_grad()
def set_tensor(value: Tensor, saved: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    """Give a tensor numbers, in place where it has their shape."""
    saved = saved.to(value.device)
    if value.shape == saved.shape and value.dtype == saved.dtype and value.layout == saved.layout == torch.strided:
        try:
            value.copy_(saved)
        except RuntimeError:  # several of its numbers lie in one place
            value.data = saved
    else:
        value.data = saved
    if value.is_leaf and value.requires_grad != requires_grad:
        value.requires_grad_(requires_grad)
    if value.is_leaf:
        value.grad = None if grad is None else grad.to(value.device)
