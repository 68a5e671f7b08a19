"""What all runs of a process share: the state of the user's own files, seen and put back.

A file of the user's is imported once, and its globals, classes and functions outlive a run. Each run
is to begin with what the file said, as in a process of its own.
"""

import copy
import functools
import io
import pickle
import sys
import types
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdexp.build import contents, kinds, nodes
from gdexp.build.lending import Loan, random_states
from gdexp.config import modules, targets

_LARGE = 100_000  # numbers in an array that is kept; of a larger one it is only seen that it changed
_MANY = 10_000  # members of a container that is kept: beyond, it holds data rather than a state
_SAMPLED = 4096  # numbers that are compared of a large array that nothing writes into
_BLOCK = 1 << 20  # numbers of a large array that are looked at in one go
_CONTAINERS = (list, dict, set, deque, tuple)
_NAMED = ("module", "class", "function", "object")  # kinds whose labels are shown
_WHOLE = ("tensor", "array", "cache", "contents", "opaque", "data", "method", "partial", "wrapper")
_WRAPPERS = (staticmethod, classmethod, property, functools.cached_property)
_CACHE = type(functools.lru_cache(str))


class _Node(NamedTuple):
    """An object that can hold state.

    Args:
        name: to show.
        value: the object.
        kind: of `_kind`.
        before: what it held when it was noted: labels and children, or what `_mark` gives.
        spare: another object that gives what this one would have given; None: there is none.
        stays: whether no other object can be put in its place, as in a tuple.
    """

    name: str
    value: Any
    kind: str
    before: Any
    spare: Any = None
    stays: bool = False


class Shared:
    """The state of some modules of the user's own and of all that they lead to.

    Args:
        names: of the modules; those that aren't the user's are left out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.roots = sorted(name for name in set(names) if kinds.users(name))
        self._note()

    def _note(self) -> None:
        """Note how everything is now."""
        self._known = set(sys.modules)
        self._nodes: dict[int, _Node] = {}
        self._loans: dict[int, Loan] = {}  # by the id of the iterator
        waiting = deque((name, sys.modules[name]) for name in self.roots)
        while waiting:
            waiting.extend(self._noted(*waiting.popleft()))
        tuples = [node for node in self._nodes.values() if node.kind == "tuple"]
        for place in {id(child) for node in tuples for _, child in node.before} & self._nodes.keys():
            self._nodes[place] = self._nodes[place]._replace(spare=None, stays=True)

    def changed(self) -> str:
        """Return the name of something that isn't as it was; nothing if all is."""
        return next((name for node in self._nodes.values() if (name := _difference(node))), "")

    def lend(self) -> None:
        """Put others in the place of iterators that Python can't copy: what is taken of them, `put_back` gives back."""
        for place, node in self._nodes.items():
            lendable = node.kind == "opaque" and node.spare is None and not isinstance(node.value, io.IOBase)
            if lendable and not node.stays:
                self._loans[place] = Loan(node.value, self._watch)
        self._exchange({place: loan.stand_in for place, loan in self._loans.items()})

    def _watch(self) -> Callable[[], bool]:
        """Return what says whether something but stand-ins has changed since."""
        now, drawn = Shared(self.roots), random_states()
        stand_ins = {id(loan.stand_in) for loan in self._loans.values()}
        taken = sum(loan.taken for loan in self._loans.values())

        def has_changed() -> bool:
            others = (node for place, node in now._nodes.items() if place not in stand_ins)
            more = sum(loan.taken for loan in self._loans.values()) - taken
            return more > 1 or random_states() != drawn or any(map(_difference, others))

        return has_changed

    def _exchange(self, others: Mapping[int, Any]) -> None:
        """Put other objects, by the ids of those that were there, in the place of these."""
        for node in self._nodes.values() if others else ():
            if node.kind not in _WHOLE and any(id(child) in others for _, child in node.before):
                _put_back(node, others)

    def put_back(self, *namespaces: dict[str, Any]) -> str:
        """Give everything what it had; return the name of something that has no way back, if there is one.

        Args:
            namespaces: further ones, which get what takes the place of an iterator that has moved.
        """
        for name in set(sys.modules) - self._known:
            if kinds.users(name):  # what it holds isn't known; the next run imports it anew
                del sys.modules[name]
        changed = [(node, name) for node in self._nodes.values() if (name := _difference(node))]
        spares = {place: loan.returned() for place, loan in self._loans.items() if loan.taken}
        lost = [self._nodes[place].name for place, other in spares.items() if other is None]
        spares = {place: other for place, other in spares.items() if other is not None}
        for node, name in changed:
            place = id(node.value)
            if node.spare is not None:
                spares[place] = node.spare
            elif place not in self._loans and not _put_back(node):
                lost.append(name)
        self._exchange(spares)
        for namespace in namespaces if spares else ():
            namespace.update({name: spares[id(value)] for name, value in namespace.items() if id(value) in spares})
        if spares:
            self._note()
        return lost[0] if lost else ""

    def begin_anew(self) -> str:
        """Put everything back, or let the files be imported anew; return the name of something that stays changed."""
        are_ours = all(map(modules.imported, self.roots))
        lost = self.put_back()
        if lost:
            modules.forget()
        return "" if are_ours else lost

    def _noted(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Note an object; yield what it leads to, each with its name."""
        if type(value) in kinds.SCALARS or id(value) in self._nodes or (kind := _kind(value)) is None:
            return
        items = _items(kind, value)
        if items is not None and len(items) > _MANY:
            kind, items = "data", None
        node = _Node(name, value, kind, items if items is not None else _mark(kind, value))
        self._nodes[id(value)] = node._replace(spare=_twin(value)) if kind == "opaque" else node
        for label, child in items or ():
            yield _joined(name, kind, label), child
        for other in _behind(kind, value):
            yield getattr(other, "__qualname__", getattr(other, "__name__", name)), other


def of_config(config: Mapping[str, Any], *, hooks: bool = False) -> Shared:
    """Return what the runs with such a config share.

    Args:
        config: of one of them.
        hooks: whether those of `trainer.on_epoch`, which only look on, count, too.
    """
    names = list(_named({k: v for k, v in config.items() if k != "trainer"}))
    names += config["trainer"]["on_epoch"] if hooks else []
    return Shared(home for name in names for home in _home(name))


def _named(node: Any) -> Iterator[str]:
    """Yield the dotted names of a config's targets and metrics."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_" and isinstance(value, str):
                yield value
            elif key == "metrics" and isinstance(value, (list, tuple)):
                yield from (name for name in value if isinstance(name, str) and "." in name)
            else:
                yield from _named(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _named(value)


def _home(name: str) -> Iterator[str]:
    """Yield the module of an object, and that by which it is named."""
    if name.partition(".")[0] in ("torch", "gdexp"):
        return
    with suppress(Exception):  # said where it is built
        found = targets.resolve("_target_", name)
        yield getattr(found, "__module__", None) or ""
        parts = name.split(".")
        yield from (path for i in range(len(parts)) if (path := ".".join(parts[:i])) in sys.modules)


def _kind(value: Any) -> str | None:
    """Return what kind of state an object can hold, None if it holds none, or none that is the user's."""
    if isinstance(value, types.ModuleType):
        return "module" if type(value) is types.ModuleType and kinds.users(value.__name__) else None
    if isinstance(value, type):
        return "class" if kinds.users(value.__module__) else None
    if isinstance(value, types.FunctionType):
        return "function" if kinds.users(value.__module__) else None
    for kind, name in _NAMES.items():
        if isinstance(value, kind):
            return name
    if contents.of(value) is not None:
        return "contents"
    if kinds.position(value) is not None:
        return "opaque"
    return "object" if kinds.is_object(value) else None


_NAMES: dict[Any, str] = {
    Tensor: "tensor",
    np.ndarray: "array",
    _CACHE: "cache",
    types.CellType: "cell",
    ContextVar: "variable",
    types.MethodType: "method",
    functools.partial: "partial",
    **dict.fromkeys(_WRAPPERS, "wrapper"),
    **{kind: kind.__name__ for kind in _CONTAINERS},
}


def _items(kind: str, value: Any) -> kinds.Items | None:
    """Return label and value of all that an object holds, None if it is looked at as a whole."""
    if kind in ("module", "class"):
        own = [(k, v) for k, v in vars(value).items() if not k.startswith("__") or isinstance(v, types.FunctionType)]
        is_optimizer = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        return list(_unhooked(value, own)) if is_optimizer else own
    if kind == "function":
        closed = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        defaults = [(name, getattr(value, name)) for name in ("__defaults__", "__kwdefaults__")]
        return [*vars(value).items(), *closed, *defaults]
    if kind == "cell":
        try:
            return [("", value.cell_contents)]
        except ValueError:  # nothing is in it yet
            return []
    if kind == "variable":
        return nodes.items(nodes.Node(value, kind, None))
    if kind in ("list", "tuple", "deque", "set"):
        return list(enumerate(value))
    if kind == "dict":
        return list(dict.items(value))
    return kinds.attributes(value) if kind == "object" else None


def _unhooked(optimizer: type, items: kinds.Items) -> Iterator[tuple[Any, Any]]:
    """Yield what an optimizer's class says, without the wrapper that torch puts around the step of its first."""
    for name, value in items:
        if name == "step" and getattr(value, "hooked", False):
            value = value.__wrapped__
            if any(vars(base).get(name) is value for base in optimizer.__mro__[1:]):
                continue  # the class itself has none
        yield name, value


def _behind(kind: str, value: Any) -> list[Any]:
    """Return what an object leads to beside what it holds: its class, its module, what it wraps."""
    if kind in ("class", "function"):
        return [sys.modules[value.__module__], *(value.__mro__[1:] if kind == "class" else ())]
    if kind == "cache":
        return [value.__wrapped__]
    if kind == "method":
        return [value.__func__, value.__self__]
    if kind == "partial":
        return [value.func, value.args, value.keywords]
    if kind == "wrapper":
        return [getattr(value, name, None) for name in ("fget", "fset", "func", "__func__")]
    return [type(value)] if kind == "object" else []


def _mark(kind: str, value: Any) -> Any:
    """Return what tells whether an object that is looked at as a whole has changed, and what to put back."""
    if kind == "tensor":
        kept = value.detach().clone() if value.numel() <= _LARGE else None
        grad = value.grad if value.is_leaf else None
        return kept, value._version, value.data_ptr(), value.requires_grad, grad, _checksum_of_large(value)
    if kind == "array":
        return value.copy() if value.size <= _LARGE else (value.shape, _checksum(value))
    if kind == "cache":
        return value.cache_info().misses
    if kind == "data":
        return len(value)
    if kind == "opaque":
        return _position(value)
    known = contents.of(value)
    return known.read(value) if known is not None else None


def _checksum(array: np.ndarray) -> int:
    """Return a number of all bytes of an array; of one that can't be written, which may be a file, of a sample."""
    flat = array.reshape(-1)
    if not array.flags.writeable:
        flat = flat[:: max(1, flat.size // _SAMPLED)]
    found = 0
    for begin in range(0, flat.size, _BLOCK):
        found = zlib.crc32(flat[begin : begin + _BLOCK].tobytes(), found)
    return found


def _checksum_of_large(tensor: Tensor) -> int | None:
    """Return a number of all bytes of a tensor that isn't kept: `.data` and NumPy write past its version."""
    if tensor.numel() <= _LARGE or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return None
    return _checksum(tensor.detach().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8).numpy())


def _position(value: Any) -> Any:
    """Return where an iterator is; one that doesn't say counts as moved."""
    if type(value).__module__ != "itertools":
        return kinds.position(value)
    with suppress(Exception), warnings.catch_warnings(action="ignore"):
        return pickle.dumps(value)
    return kinds.position(value)


def _difference(node: _Node) -> str:
    """Return the name of what isn't as it was in an object; nothing if all is."""
    if node.kind in _WHOLE:
        return "" if _same_mark(node.before, _mark(node.kind, node.value)) else node.name
    before, now = node.before, _items(node.kind, node.value) or []
    for (label, child), (_, other) in zip(before, now, strict=False):
        if child is not other and not (type(child) is type(other) in kinds.SCALARS and repr(child) == repr(other)):
            return _joined(node.name, node.kind, label)
    if len(before) == len(now) and [label for label, _ in before] == [label for label, _ in now]:
        return ""
    known = dict(before) if node.kind in _NAMED else {}
    odd = [label for label, _ in now if label not in known] if node.kind in _NAMED else []
    return _joined(node.name, node.kind, odd[0]) if odd else node.name


def _same_mark(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        alike = before.shape == now.shape and before.dtype == now.dtype
        return alike and bool(((before == now) | ((before != before) & (now != now))).all())
    if isinstance(before, np.ndarray):
        return before.shape == now.shape and before.tobytes() == now.tobytes()
    if isinstance(before, (tuple, list)):
        return len(before) == len(now) and all(map(_same_mark, before, now))
    if isinstance(before, dict):
        return before.keys() == now.keys() and all(_same_mark(v, now[k]) for k, v in before.items())
    return before is now or bool(before == now)


def _put_back(node: _Node, spares: Mapping[int, Any] = types.MappingProxyType({})) -> bool:
    """Give an object what it held, and spares in the place of others; say whether there is a way."""
    value, kind = node.value, node.kind
    if kind == "tensor" and node.before[0] is not None:
        kinds.set_tensor(value, node.before[0], *node.before[3:5])
    elif kind == "array" and isinstance(node.before, np.ndarray) and value.shape == node.before.shape:
        value[...] = node.before
    elif kind == "contents":
        return _written(value, node.before)
    elif kind == "cache":
        value.cache_clear()
    elif kind in _WHOLE or (kind == "variable" and not node.before):
        return False
    else:
        _fill(kind, value, [(label, spares.get(id(child), child)) for label, child in node.before])
    return True


def _written(value: Any, before: Any) -> bool:
    """Give an object the contents that it had; say whether there is a way: seeds that were spawned have none."""
    known = contents.of(value)
    try:
        if known is not None:
            known.write(value, before)
    except ValueError:
        return False
    return known is not None


def _fill(kind: str, value: Any, items: kinds.Items) -> None:
    if kind in ("list", "set", "deque"):
        kinds.fill(value, [child for _, child in items])
    elif kind == "dict":
        kinds.fill(value, items)
    elif kind == "object":
        kinds.set_attributes(value, items)
    elif kind == "variable":
        value.set(items[0][1])
    elif kind == "cell":
        if items:
            value.cell_contents = items[0][1]
        else:
            del value.cell_contents
    elif kind in ("module", "class", "function"):
        own = [(name, child) for name, child in items if not isinstance(child, types.CellType)]
        for name in dict(_items(kind, value) or ()).keys() - dict(items).keys():
            delattr(value, name)
        for name, child in own:
            setattr(value, name, child)


def _twin(value: Any) -> Any:
    """Return an iterator that gives what another one would, None where Python has no way."""
    with suppress(Exception), warnings.catch_warnings(action="ignore"):
        if hasattr(value, "__copy__"):  # of itertools.tee
            return copy.copy(value)
        if type(value).__module__ == "itertools":
            return copy.deepcopy(value)
    return None


def _joined(name: str, kind: str, label: Any) -> str:
    if kind in _NAMED and label not in ("__defaults__", "__kwdefaults__"):
        return f"{name}.{label}"
    return f"{name}'s default arguments" if kind == "function" else name
