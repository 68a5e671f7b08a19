"""What each kind of object leads to: labels and values, as they are now, and how they are put back.

Knows no run: `gdexp.build.objects` walks through a run's parts with these.
"""

import functools
import re
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextvars import ContextVar
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gdexp.build import caches, contents, kinds

_HIDDEN = re.compile(r"\._(?:parameters|buffers|modules)\['([^']*)'\]")  # left out where a name is shown
_NUMBERED = re.compile(r"'\d+(?=$|[. \[{])")  # likewise: tells objects apart that have one path
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
_MEMBERS: tuple[tuple[str, Any], ...] = (  # the first that fits is the kind, also of a subclass
    ("list", list),
    ("dict", dict),
    ("set", set),
    ("deque", deque),
    ("tuple", tuple),
    ("frozenset", frozenset),
    ("weak dict", _WEAK),
    ("weak set", weakref.WeakSet),
    ("weakref", weakref.ref),
    ("view", types.MappingProxyType),
    ("variable", ContextVar),
    ("partial", functools.partial),
)
_PLAIN: dict[Any, str] = {list: "list", dict: "dict", OrderedDict: "dict", tuple: "tuple", set: "set", deque: "deque"}
UNORDERED = ("set", "frozenset", "weak set")
_WITH_OWN = {"list", "dict", "set", "deque", "tuple", "frozenset", "objects", "array", "partial", "contents", "opaque"}


class Node(NamedTuple):
    """An object that the parts of a run lead to.

    Args:
        value: the object.
        kind: of state that it holds.
        before: its children, or what tells a change.
    """

    value: Any
    kind: str
    before: Any


class Global:
    """A name in a module, which code may give another value."""

    def __init__(self, module: dict[str, Any], name: str) -> None:
        self.module, self.name = module, name


class Own:
    """The attributes of an object that has members or contents, too."""

    def __init__(self, value: Any) -> None:
        self.value = value


def kind(value: Any) -> str | None:
    """Return what kind of state an object can hold, None if it holds none."""
    if (plain := _PLAIN.get(type(value))) is not None:
        return plain
    if isinstance(value, Tensor):
        return None if is_lazy(value) else "tensor"
    if isinstance(value, np.ndarray):
        return "objects" if value.dtype == object else "array"
    for name, of_kind in _MEMBERS:
        if isinstance(value, of_kind):
            return name
    if isinstance(value, Global):
        return "global"
    if isinstance(value, Own):
        return "own"
    if contents.of(value) is not None:
        return "contents"
    if isinstance(value, types.FunctionType):
        return "function" if kinds.users(value.__module__) else None
    if caches.is_cache(value):
        return "cache" if kinds.users(value.__module__) else None
    if bound(value) is not None:
        return "method"
    if isinstance(value, type):
        return "class" if kinds.users(value.__module__) else None
    if kinds.is_fixed(value):
        return "opaque" if kinds.is_table(value) else None
    return "object" if kinds.is_object(value) and not kinds.is_foreign(value) else "opaque"


def is_plain(value: Any) -> bool:
    """Say whether a value is a container of Python's own, which holds nothing but its members."""
    return type(value) in _PLAIN


def bound(value: Any) -> Any:
    """Return the object whose method a value is; None for anything else."""
    if isinstance(value, types.MethodType):
        return value.__self__
    if isinstance(value, (types.BuiltinMethodType, types.MethodWrapperType)):
        return None if isinstance(value.__self__, types.ModuleType) else value.__self__
    return None


def has_own(value: Any, kind: str) -> bool:
    """Say whether an object has attributes of its own beside what it holds as one of its kind."""
    if kind not in _WITH_OWN:
        return False
    return type(value).__module__ not in ("builtins", "collections") and bool(kinds.is_object(value))


def items(node: Node) -> kinds.Items | None:
    """Return label and value of all that an object holds, None if it is looked at as a whole."""
    value: Any = node.value
    if node.kind in ("list", "tuple", "deque", *UNORDERED):
        return list(enumerate(value))
    if node.kind == "objects":
        return list(enumerate(value.view(np.ndarray).reshape(-1)))
    if node.kind == "dict":
        return list((OrderedDict if isinstance(value, OrderedDict) else dict).items(value))
    if node.kind == "weak dict":
        return list(value.items())
    if node.kind in ("object", "own"):
        return kinds.attributes(value.value if node.kind == "own" else value)
    if node.kind == "class":
        return kinds.class_attributes(value)
    if node.kind == "global":
        return [(value.name, value.module[value.name])] if value.name in value.module else []
    if node.kind == "partial":
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if node.kind == "variable":
        return [("value", value.get())] if _has_value(value) else []
    if node.kind == "cache":
        return caches.read(value)
    if node.kind == "function":
        return list(_of_function(value))
    return [] if node.kind in ("method", "weakref", "view") else None


def _of_function(value: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        if _is_set(cell):
            yield name, cell.cell_contents
    yield "__defaults__", value.__defaults__
    yield "__kwdefaults__", value.__kwdefaults__
    yield from vars(value).items()


def fill(node: Node, items: kinds.Items) -> None:
    """Give an object what it is to hold."""
    value: Any = node.value
    if node.kind in ("list", "set", "deque"):
        kinds.fill(value, [child for _, child in items])
    elif node.kind == "dict":
        kinds.fill(value, items)
    elif node.kind == "objects":
        for place, child in items:
            value.view(np.ndarray).flat[place] = child
    elif node.kind in ("weak dict", "weak set"):
        value.clear()
        value.update(dict(items) if node.kind == "weak dict" else [child for _, child in items])
    elif node.kind in ("object", "own"):
        kinds.set_attributes(value.value if node.kind == "own" else value, items)
    elif node.kind == "class":
        kinds.set_class_attributes(value, items)
    elif node.kind == "global":
        value.module.update(items)
        if not items:
            value.module.pop(value.name, None)
    elif node.kind == "variable":
        _fill_variable(value, items)
    elif node.kind == "cache":
        caches.write(value, items)
    elif node.kind == "function":
        _fill_function(value, items)


def _fill_variable(variable: ContextVar[Any], items: kinds.Items) -> None:
    if items:
        variable.set(items[0][1])
    elif _has_value(variable):  # only the token of what set it can take its value away
        raise ValueError(f"the value of {variable.name} can't be taken away")


def _fill_function(value: types.FunctionType, items: kinds.Items) -> None:
    cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
    for name, child in items:
        if name in cells:
            cells[name].cell_contents = child
        elif name not in ("__defaults__", "__kwdefaults__"):
            setattr(value, name, child)


def same(now: kinds.Items, before: kinds.Items) -> bool:
    """Say whether two lists of labels and values hold the same objects, or equal numbers and texts."""
    if len(now) != len(before):
        return False
    if all(map(is_, (v for _, v in now), (v for _, v in before))):
        return all(equal(a, b) for (a, _), (b, _) in zip(now, before, strict=True))
    return all(equal(k, j) and equal(a, b) for (k, a), (j, b) in zip(now, before, strict=True))


def equal(a: Any, b: Any) -> bool:
    """Say whether two values are the same object, or equal numbers or texts."""
    if a is b or type(a) is not type(b):
        return a is b
    if type(a) is tuple:
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, (float, complex, np.generic)):
        return repr(a) == repr(b)  # tells 0.0 from -0.0, and knows NaN
    return type(a) in kinds.SCALARS and bool(a == b)


def same_mark(now: Any, before: Any) -> bool:
    """Say whether what an object holds is equal to what it held."""
    if isinstance(now, Tensor):
        return torch.equal(now, before)
    if isinstance(now, np.ndarray):
        return np.array_equal(now, before)
    if isinstance(now, dict):
        return now.keys() == before.keys() and all(same_mark(v, before[k]) for k, v in now.items())
    if type(now) is tuple and type(before) is tuple:
        return len(now) == len(before) and all(map(same_mark, now, before))
    return bool(now == before)


def shown(path: str) -> str:
    """Return a path as one types it: without torch's own dicts of parameters and modules."""
    return _NUMBERED.sub("", _HIDDEN.sub(r".\1", path)).strip(" .")


def joined(path: str, label: Any, kind: str) -> str:
    """Return the path of what an object holds."""
    if kind in ("object", "class", "function", "partial", "variable"):
        return f"{path}.{label}"
    if kind == "own":
        return f"{path}{label}"
    if kind == "global":
        return path.strip()
    if kind in UNORDERED:
        return f"{path}{{…}}"
    return f"{path}[{label!r}]" if isinstance(label, (str, int)) else f"{path}[…]"


def _has_value(variable: ContextVar[Any]) -> bool:
    try:
        variable.get()
    except LookupError:
        return False
    return True


def _is_set(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
