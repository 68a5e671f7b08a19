"""Values as plain containers and tensors, and back: nothing in them can run, and no class is looked up by name.

A number, text, flag or None stands for itself; everything else is a list that begins with its kind.
An object that the parts had from the start stands as its path; one that is new is numbered, so that
two attributes that held one object do so again.
"""

import os
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdexp.build import contents, kinds
from gdexp.config import secrets
from gdexp.config.refusal import Refusal

_LISTS: dict[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_DICTS = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_NO_PLACE = object()  # of a value that is a key, or a part of one
UNORDERED = "{…}"  # in the path of what can't be told from its neighbours in another process, or is one of many


class Unkept(Refusal):
    """What training changes and a checkpoint can't hold."""

    def __init__(self, path: str, value: object, cure: str = "") -> None:
        cure = cure or "let it be of numbers, texts, tensors, and lists or dicts of these"
        super().__init__(
            f"`{path}` is changed by training and can't be kept in a checkpoint ({type(value).__qualname__}): {cure}"
        )


class Encoder:
    """Tells values in plain containers.

    Args:
        known: returns the path of an object that was there from the start.
        owner: returns the path of such a tensor whose memory another tensor shares.
    """

    def __init__(self, known: Callable[[object], str | None], owner: Callable[[Tensor], str | None]) -> None:
        self._known, self._owner = known, owner
        self._numbers: dict[int, int] = {}  # of new objects, by id
        self._held: list[object] = []  # so that no id is used twice

    def __call__(self, path: str, value: Any, before: Any = _NO_PLACE) -> Any:
        """Return a value in plain containers.

        Args:
            path: where it stands.
            value: of any kind.
            before: what stood there from the start; an object of the same class can be made again.

        Raises:
            Unkept: it is a secret that wasn't there from the start, or can't be told.
        """
        if type(value) in kinds.SCALARS:
            return value if before is _NO_PLACE or not isinstance(value, (str, bytes)) else _text(path, value, before)
        if (there := self._known(value)) is not None:
            if UNORDERED in there and value is not before:
                raise Unkept(path, value)
            return ["was", there]
        if value is before and not isinstance(value, (list, dict, set, deque, Tensor)):
            return ["same"]
        if id(value) in self._numbers:
            return ["new", self._numbers[id(value)]]
        number = self._numbers[id(value)] = len(self._numbers)
        self._held.append(value)
        return [*self._told(path, value, before, number)]

    def _told(self, path: str, value: Any, before: Any, number: int) -> list[Any]:
        kind = type(value).__name__
        if (leaf := self._leaf(path, value)) is not None:
            return [leaf[0], number, *leaf[1:]]
        if type(value) in (list, tuple, set, frozenset, deque):
            members = [self(f"{path}[{i}]", v, _at(before, i)) for i, v in enumerate(value)]
            return [kind, number, members, getattr(value, "maxlen", None)]
        if type(value) is _DICTS.get(kind) or (type(value) is defaultdict and _is_alike(value, before)):
            pairs = [[self(path, k), self(f"{path}[{k!r}]", v, _at(before, k))] for k, v in value.items()]
            return [kind, number, pairs]
        if isinstance(value, Enum) and (told := self._member(value, before)) is not None:
            return ["enum", number, *told]
        if type(value) is not type(before):
            raise Unkept(path, value)
        if isinstance(value, np.ndarray):
            old = dict(kinds.attributes(before))
            own = [[n, self(f"{path}.{n}", v, old.get(n))] for n, v in kinds.attributes(value)]
            return ["subclass", number, self(path, value.view(np.ndarray)), own]
        if isinstance(value, tuple) and hasattr(type(value), "_make"):
            return ["namedtuple", number, [self(f"{path}[{i}]", v, before[i]) for i, v in enumerate(value)]]
        if _can_be_made(value):
            old = dict(kinds.attributes(before))
            own = [[n, self(f"{path}.{n}", v, old.get(n))] for n, v in kinds.attributes(value)]
            return ["object", number, type(value).__qualname__, own]
        raise Unkept(path, value)

    def _member(self, value: Enum, before: Any) -> list[Any] | None:
        """Return a member of an enumeration; None if it isn't known which one that is."""
        home = None if (path := self._known(type(value))) is None else ["was", path]
        if home is None and type(value) is not type(before):
            return None
        plain = type(value.value) in kinds.SCALARS  # flags that are set together have no name
        return [home, "value", value.value] if plain else [home, "name", value.name]

    def _leaf(self, path: str, value: Any) -> list[Any] | None:
        """Return a value that holds no others, None for one that does."""
        if isinstance(value, Tensor):
            if (owner := self._owner(value)) is None:
                return ["tensor", value.detach(), value.requires_grad, isinstance(value, nn.Parameter)]
            place = list(value.size()), list(value.stride()), value.storage_offset()
            return ["view", owner, *place, value.requires_grad]
        if (type(value) is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
            whole = torch.from_numpy(np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy())
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return [kind, np.lib.format.dtype_to_descr(value.dtype), list(value.shape), whole]
        if isinstance(value, torch.Size):
            return ["size", list(value)]
        if isinstance(value, (torch.dtype, torch.device)):
            return [type(value).__name__, str(value).removeprefix("torch.")]
        if isinstance(value, (range, slice)):
            return [type(value).__name__, *(self(path, v) for v in (value.start, value.stop, value.step))]
        if (told := contents.told(value)) is not None:
            return ["made", told[0], self(path, told[1])]
        return None


def _text(path: str, value: str | bytes, before: Any) -> Any:
    """Return a text; one that may be a secret only as the one that was there from the start, if it is that."""
    named = secrets.is_secret(path)
    if value == before:
        return ["same"] if named or secrets.hide_in(value) != value else value
    if named or secrets.hide(shown := os.fsdecode(value)) != shown:
        raise Unkept(path, value, "it is a secret, which a checkpoint doesn't hold; let it be there from the start")
    return value


class Decoder:
    """Makes values of what an `Encoder` told.

    Args:
        known: returns the object at a path.
    """

    def __init__(self, known: Callable[[str], Any]) -> None:
        self._known = known
        self._new: dict[int, Any] = {}

    def __call__(self, told: Any, before: Any = None) -> Any:
        """Return a value.

        Args:
            told: in plain containers.
            before: what stands in its place now.
        """
        if not isinstance(told, list):
            return told
        kind, *rest = told
        if kind == "was":
            return self._known(rest[0])
        if kind == "same":
            return before
        if kind == "new":
            return self._new[rest[0]]
        number, *content = rest
        made = self._made(kind, number, content, before)
        self._new[number] = made
        return made

    def _made(self, kind: str, number: int, content: list[Any], before: Any) -> Any:
        if kind in _LEAVES:
            return _LEAVES[kind](self, before, *content)
        if kind == "list":
            members: list[Any] = []
            self._new[number] = members  # before its members, which may hold it
            members.extend(self._members(content[0], before))
            return members
        if kind in _LISTS:
            return _LISTS[kind](self._members(content[0], before))
        if kind == "deque":
            return deque(self._members(content[0], before), content[1])
        if kind in _DICTS or kind == "defaultdict":
            pairs: Any = _DICTS[kind]() if kind in _DICTS else defaultdict(before.default_factory)
            self._new[number] = pairs
            for k, v in content[0]:
                key = self(k)
                dict.__setitem__(pairs, key, self(v, _at(before, key)))
            return pairs
        if kind == "enum":
            home: Any = type(before) if content[0] is None else self(content[0])
            return home(content[2]) if content[1] == "value" else home[content[2]]
        if kind == "subclass":
            like = self._new[number] = self(content[0]).view(type(before))
            old = dict(kinds.attributes(before))
            kinds.set_attributes(like, [(n, self(v, old.get(n))) for n, v in content[1]])
            return like
        if kind == "namedtuple":
            return type(before)._make(self._members(content[0], before))
        if kind == "object" and type(before).__qualname__ == content[0]:
            made = self._new[number] = object.__new__(type(before))
            old = dict(kinds.attributes(before))
            kinds.set_attributes(made, [(n, self(v, old.get(n))) for n, v in content[1]])
            return made
        raise Refusal(f"the checkpoint doesn't fit this run: a {kind} has no place in it")

    def tensor(self, before: Any, saved: Tensor, requires_grad: bool, is_parameter: bool) -> Tensor:
        fresh = saved.to(before.device, copy=True) if isinstance(before, Tensor) else saved.clone()
        return nn.Parameter(fresh, requires_grad) if is_parameter else fresh.requires_grad_(requires_grad)

    def view(self, _: Any, owner: str, size: list[int], stride: list[int], offset: int, requires_grad: bool) -> Tensor:
        return self._known(owner).detach().as_strided(size, stride, offset).requires_grad_(requires_grad)

    def array(self, _: Any, dtype: Any, shape: list[int], whole: Tensor) -> Any:
        return whole.numpy().copy().view(np.lib.format.descr_to_dtype(dtype)).reshape(shape)

    def _members(self, told: list[Any], before: Any) -> list[Any]:
        return [self(v, _at(before, i)) for i, v in enumerate(told)]


_LEAVES: dict[str, Callable[..., Any]] = {
    "tensor": Decoder.tensor,
    "view": Decoder.view,
    "array": Decoder.array,
    "scalar": lambda *told: Decoder.array(*told)[()],
    "made": lambda self, _, name, content: contents.made(name, self(content)),
    "size": lambda self, _, sizes: torch.Size(sizes),
    "dtype": lambda self, _, name: getattr(torch, name),
    "device": lambda self, _, name: torch.device(name),
    "range": lambda self, _, *ends: range(*ends),
    "slice": lambda self, _, *ends: slice(*map(self, ends)),
}


def _at(container: Any, key: Any) -> Any:
    """Return what a container holds in a place, None where it is another."""
    if isinstance(container, dict):
        return dict.get(container, key)
    if isinstance(container, (list, tuple, deque)) and isinstance(key, int) and key < len(container):
        return container[key]
    return None


def _is_alike(value: Any, before: Any) -> bool:
    return isinstance(before, defaultdict) and value.default_factory is before.default_factory


def _can_be_made(value: Any) -> bool:
    """Say whether an object is nothing but its attributes."""
    kind = type(value)
    plain = kind.__new__ is object.__new__ and kind.__reduce_ex__ is object.__reduce_ex__
    return kinds.is_object(value) and plain and not isinstance(value, (nn.Module, type))
