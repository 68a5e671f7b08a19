"""The kinds of objects that hold state, how each is read and how it is filled again.

Knows no run: `gdexp.build.objects` walks through a run's parts with these.
"""

import dis
import functools
import gc
import inspect
import io
import pickle
import queue
import sys
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdexp.config import folders

SCALARS = (type(None), bool, int, float, complex, str, bytes)
Items = list[tuple[Any, Any]]  # label and child

_LARGE = 100_000  # numbers in a table that is compared
_OF_PYTHON = 1 << 9  # the flag of types that are made while a program runs

# what they hold is never part of a calculation: writers, locks, tables that fill caches when they are read
_INERT = {
    *("asyncio", "concurrent", "logging", "matplotlib", "mlflow", "multiprocessing", "pandas", "PIL", "pyarrow"),
    *("_multiprocessing", "sqlite3", "tensorboard", "tensorboardX", "threading", "tqdm", "wandb", "_thread"),
}
# but what these hold is
_NOT_INERT = {
    *("_thread._local", "threading.Event", "threading.Condition", "threading.Semaphore"),
    *("threading.BoundedSemaphore", "multiprocessing.sharedctypes", "multiprocessing.shared_memory"),
}
_FIXED_MODULES = {"abc", "_abc", "datetime", "fractions", "inspect", "pathlib", "re", "typing", "uuid"}
_FIXED = (
    *(type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, types.GenericAlias, types.UnionType),
    *(type(...), type(NotImplemented), types.GetSetDescriptorType, types.MemberDescriptorType),
    *(types.WrapperDescriptorType, types.MethodDescriptorType, types.MethodWrapperType, property),
    *(Enum, np.generic, np.dtype, np.ufunc, range, slice, weakref.ProxyType, weakref.CallableProxyType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)


def users(module: str | None) -> bool:
    """Say whether a module is the user's own; one that isn't imported is nobody's yet."""
    found = sys.modules.get(module or "")
    if found is None or module == "builtins":
        return False
    file = getattr(found, "__file__", None)
    return not folders.is_installed(file) if file else module == "__main__"


def is_fixed(value: Any) -> bool:
    """Say whether a value can't change, or is none that a calculation depends on."""
    if isinstance(value, _FIXED):
        return True
    kind = type(value)
    top = kind.__module__.partition(".")[0]
    if top in _FIXED_MODULES or f"{kind.__module__}.{kind.__name__}" == "decimal.Decimal":
        return True
    if {kind.__module__, f"{kind.__module__}.{kind.__name__}"} & _NOT_INERT:
        return False
    return top in _INERT or kind.__module__.startswith("torch.utils.tensorboard")


def is_object(value: Any) -> bool:
    """Say whether a value is an instance whose attributes may be state."""
    return not is_fixed(value) and (
        hasattr(value, "__dict__") or any("__slots__" in vars(c) for c in type(value).__mro__)
    )


def is_foreign(value: Any) -> bool:
    """Say whether an object holds something beside its attributes, of a class that isn't written in Python."""
    if isinstance(value, (io.IOBase, types.GeneratorType, queue.SimpleQueue)):
        return True
    base = next(c for c in type(value).__mro__ if not c.__flags__ & _OF_PYTHON)
    return base not in (object, types.SimpleNamespace, *SCALARS)


def attributes(value: Any) -> Items:
    """Return the attributes that an instance has of its own."""
    found = dict(getattr(value, "__dict__", {}))
    for name in slots(value):
        if hasattr(value, name):
            found.setdefault(name, getattr(value, name))
    return list(found.items())


def slots(value: Any) -> list[str]:
    """Return the names of an instance's slots."""
    kind: Any = type(value)
    return _slots(kind)


@functools.cache
def _slots(kind: Any) -> list[str]:
    """Return the names of slots as they are stored: a private one's has the name of its class in it."""
    found = []
    for one in kind.__mro__:
        if "__slots__" in vars(one):
            found += [name for name, v in vars(one).items() if isinstance(v, types.MemberDescriptorType)]
    return found


def set_attributes(value: Any, items: Items) -> None:
    """Give an instance these attributes and no others, past any `__setattr__` of its own."""
    wanted, own = dict(items), getattr(value, "__dict__", {})
    for name in own.keys() - wanted.keys():
        del own[name]
    for name in slots(value):
        if name not in wanted and hasattr(value, name):
            object.__delattr__(value, name)
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
        if not name.startswith("__") and (isinstance(value, type) or not hasattr(value, "__get__"))
    ]


def set_class_attributes(kind: type, items: Items) -> None:
    """Give a class these attributes."""
    for name in dict(class_attributes(kind)).keys() - dict(items).keys():
        delattr(kind, name)
    for name, value in items:
        setattr(kind, name, value)


def functions(kind: type) -> Iterator[Any]:
    """Yield the functions in a class."""
    for value in vars(kind).values():
        inner = [getattr(value, name, None) for name in ("fget", "fset", "func", "__func__")]
        for found in (value, *inner):
            if isinstance(found, (types.FunctionType, functools._lru_cache_wrapper)):
                yield found


def names_used(code: types.CodeType) -> set[str]:
    """Return the names that a function's code, and code within it, looks up in its module or as attributes."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_used(constant)
    return found


@functools.cache
def names_set(code: types.CodeType) -> frozenset[str]:
    """Return the names that code, and code within it, gives values to in its module."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_GLOBAL"}
    return frozenset(own).union(*(names_set(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def is_table(value: Any) -> bool:
    """Say whether a value is a table or column of pandas that is small enough to be compared."""
    if type(value).__module__.partition(".")[0] != "pandas":
        return False
    return hasattr(value, "to_numpy") and getattr(value, "size", _LARGE) < _LARGE


def _columns(table: Any) -> list[np.ndarray]:
    if table.ndim == 1:
        return [table.to_numpy()]
    return [table.index.to_numpy(), table.columns.to_numpy(), *(c.to_numpy() for _, c in table.items())]


class Seen(NamedTuple):
    """What can be seen of an object that can't be told.

    Args:
        mark: differs once the object has changed in what can be seen.
        whole: whether nothing of it is hidden.
    """

    mark: Any
    whole: bool


def seen(value: Any) -> Seen:
    """Return what can be seen of an object, so that it is noticed if training changes it."""
    if isinstance(value, io.IOBase):
        return _seen_file(value)
    if isinstance(value, types.GeneratorType):
        return _seen_generator(value)
    if isinstance(value, queue.SimpleQueue):
        return Seen(value.qsize(), value.empty())
    try:
        with warnings.catch_warnings(action="ignore"):
            told = _columns(value) if is_table(value) else value
            return Seen(hash(pickle.dumps(told, 4)), True)  # only ever written
    except Exception:  # of whatever an object does when it is asked for what it holds
        left = getattr(value, "__length_hint__", None)
        return Seen(left() if left else None, False)


def position(value: Any) -> Any:
    """Return where a file or an iterator is, as far as that can be seen; None for anything else."""
    if not isinstance(value, (io.IOBase, Iterator)) or any(value is s for s in (sys.stdin, sys.stdout, sys.stderr)):
        return None
    if is_object(value) and not is_foreign(value):
        return None
    at = seen(value)
    return at.mark if at.whole or at.mark is not None else object()  # of others it can't be seen


def _seen_file(value: Any) -> Seen:
    try:
        return Seen(value.closed or value.tell(), True)
    except (OSError, ValueError):  # a pipe, or text that is being read line by line
        return Seen(None, True)


def _seen_generator(value: Generator[Any, Any, Any]) -> Seen:
    """Return where a generator is, and where the iterators are that it takes from."""
    frame: Any = getattr(value, "gi_frame", None)
    if frame is None or frame.f_lasti < 0 or inspect.getgeneratorstate(value) == inspect.GEN_CREATED:
        return Seen(frame is None, True)
    inner = [one for one in gc.get_referents(value) if isinstance(one, Iterator) and one is not value]
    return Seen((frame.f_lasti, repr(frame.f_locals), [seen(one).mark for one in inner]), False)


def memory(tensor: Tensor) -> int:
    """Return the address of a tensor's memory, 0 where it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def fill(value: Any, children: Iterable[Any]) -> None:
    """Give a list, set, deque or dict these members, past any method of a class of the user's own."""
    kind: Any = next(k for k in (list, set, deque, OrderedDict, dict) if isinstance(value, k))
    kind.clear(value)
    if issubclass(kind, dict):
        for key, child in children:
            kind.__setitem__(value, key, child)
    else:
        (kind.update if kind is set else kind.extend)(value, children)


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
