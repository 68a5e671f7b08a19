"""The objects that a run's parts lead to, and what training changes in them.

Walked through once before training: attributes, members of lists and dicts, what methods look up in
their modules and closures. `changes` tells what is no longer as it was, in plain containers and
tensors; `restore` puts that into the same parts, built afresh. What changes and can't be told so is
refused by name.
"""

import functools
import re
import sys
import types
from collections import deque
from collections.abc import Mapping
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gdexp.build import kinds
from gdexp.build.encoding import Decoder, Encoder, Unkept
from gdexp.config.refusal import Refusal

_LARGE = 100_000  # numbers in a tensor of a data set that is compared by its version
_MANY = 10_000  # members of a list that are looked into
_DIGEST = 65_536  # numbers of a large array that are compared
_HIDDEN = re.compile(r"\._(?:parameters|buffers|modules)\['([^']*)'\]")  # left out where a name is shown


class _Node(NamedTuple):
    value: Any
    kind: str
    before: Any  # children, or what tells a change


class Objects:
    """All that can hold state in the parts of a run.

    Args:
        roots: parts by name; of those named `data…` large tensors are kept only where they changed.
        grads: whether gradients between two steps are state.
    """

    def __init__(self, roots: Mapping[str, Any], *, grads: bool = False) -> None:
        self.nodes: dict[str, _Node] = {}
        self._paths: dict[int, str] = {}  # by id; the nodes hold what they are of
        self._names: dict[tuple[int, str], _Global] = {}
        self._owners: dict[int, str] = {}  # paths of tensors by the address of their memory
        self._grads, self._whole = grads, {name for name in roots if not name.startswith("data")}
        waiting = deque(roots.items())
        while waiting:
            path, value = waiting.popleft()
            waiting.extendleft(reversed(self._noted(path, value)))

    def path(self, value: object) -> str | None:
        """Return the path of an object that was there from the start."""
        return self._paths.get(id(value))

    def _owner(self, tensor: Tensor) -> str | None:
        """Return the path of a tensor that was there from the start and whose memory another one shares."""
        if not (memory := kinds.memory(tensor)):
            return None
        if not self._owners:
            self._owners = {kinds.memory(n.value): path for path, n in self.nodes.items() if n.kind == "tensor"}
        return self._owners.get(memory)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Return the tensors that were there from the start, each with a name to show."""
        return [(shown(path), node.value) for path, node in self.nodes.items() if node.kind == "tensor"]

    def changes(self, root: str = "") -> list[Any]:
        """Return what is not as it was, of the parts whose names begin so.

        Raises:
            Unkept: something that a checkpoint can't hold; the line names it.
        """
        encoder, self._owners = Encoder(self.path, self._owner), {}
        found = []
        for path, node in self.nodes.items():
            if path.startswith(root) and (told := self._told(path, node, encoder)) is not None:
                found.append([path, told])
        return found

    def restore(self, changes: list[Any]) -> None:
        """Put changes into these parts.

        Raises:
            Refusal: the parts aren't built as those were.
        """
        decoder = Decoder(lambda path: self._node(path).value)
        for path, told in changes:
            node = self._node(path)
            if told[0] == "items":
                now = dict(_items(node) or ()) if node.kind != "set" else {}
                decoded = [(decoder(k), decoder(v, now.get(_label(k)))) for k, v in told[1]]
                _fill(node, decoded)
            else:
                _restore_leaf(node, told, decoder)

    def _node(self, path: str) -> _Node:
        if path not in self.nodes:
            raise Refusal(f"the checkpoint doesn't fit this run: there is no `{shown(path)}`")
        return self.nodes[path]

    def _noted(self, path: str, value: Any) -> list[tuple[str, Any]]:
        """Note an object, and return what it leads to."""
        if isinstance(value, kinds.SCALARS) and type(value) in kinds.SCALARS or id(value) in self._paths:
            return []
        if (kind := _kind(value)) is None:
            return []
        while path in self.nodes:
            path += "'"
        self._paths[id(value)] = path
        self.nodes[path] = node = _Node(value, kind, None)
        items = _items(node)
        self.nodes[path] = node._replace(before=items if items is not None else self._mark(path, node))
        there = [(_joined(path, label, kind), child) for label, child in items or ()]
        there = [] if len(there) > _MANY else there
        return [*there, *self._behind(path, value)]

    def _behind(self, path: str, value: Any) -> list[tuple[str, Any]]:
        """Return what an object leads to beside its own attributes: its class, globals of its code."""
        if isinstance(value, types.FunctionType):
            return list(self._globals(value))
        if isinstance(value, types.MethodType):
            return [(f"{path}.__self__", value.__self__), (path, value.__func__)]
        if isinstance(value, Tensor):
            return [(f"{path}.{name}", child) for name, child in vars(value).items()]
        if isinstance(value, type):
            return [(f"{value.__name__}.{f.__name__}", f) for f in kinds.functions(value)]
        own = [c for c in type(value).__mro__ if kinds.users(c.__module__)]
        return [(c.__qualname__, c) for c in own]

    def _globals(self, function: types.FunctionType) -> Any:
        """Yield what the code of a user's function may look up and change in modules of theirs."""
        names = kinds.names_used(function.__code__)
        modules = {function.__module__}
        found = function.__globals__
        modules |= {v.__name__ for n in names if isinstance(v := found.get(n), types.ModuleType)}
        for module in sorted(filter(kinds.users, modules)):
            for name in sorted(names & vars(sys.modules[module]).keys()):
                home = vars(sys.modules[module])
                if not isinstance(home[name], types.ModuleType):
                    yield f"{module}.{name} ", self._names.setdefault((id(home), name), _Global(home, name))

    def _told(self, path: str, node: _Node, encoder: Encoder) -> list[Any] | None:
        """Return what an object is now, None if that is what it was."""
        if node.kind == "tensor":
            return self._told_tensor(path, node, encoder)
        if (items := _items(node)) is None:
            now = self._mark(path, node)
            if node.kind == "opaque":
                if now != node.before:
                    raise Unkept(shown(path), node.value)
                return None
            return None if _same_mark(now, node.before) else ["state", encoder(shown(path), _state(node))]
        if _same(items, node.before):
            return None
        if node.kind == "tuple":
            raise Unkept(shown(path), node.value)
        before = dict(node.before) if node.kind != "set" else {}
        return [
            "items",
            [[encoder(path, k), encoder(shown(_joined(path, k, node.kind)), v, before.get(k))] for k, v in items],
        ]

    def _told_tensor(self, path: str, node: _Node, encoder: Encoder) -> list[Any] | None:
        t = node.value
        if self._mark(path, node) == node.before:
            return None
        grad = t.grad if self._grads and t.is_leaf else None
        own = [[name, encoder(f"{shown(path)}.{name}", v)] for name, v in vars(t).items()]
        return ["tensor", t.detach(), t.requires_grad, None if grad is None else grad.detach(), own]

    def _mark(self, path: str, node: _Node) -> Any:
        """Return what tells whether a leaf has changed."""
        value: Any = node.value
        if node.kind == "tensor":
            if value.numel() <= _LARGE or re.split(r"[.\[]", path, maxsplit=1)[0] in self._whole:
                return object()  # always kept
            return value._version, value.data_ptr(), value.shape
        if node.kind == "array":
            flat = value.reshape(-1)
            few = flat[:: max(1, flat.size // _DIGEST)]
            return value.shape, few.tolist() if value.dtype == object else few.tobytes()
        return kinds.generator_state(value) if node.kind == "generator" else kinds.position(value)


class _Global:
    """A name in a module, which code may give another value."""

    def __init__(self, module: dict[str, Any], name: str) -> None:
        self.module, self.name = module, name


def shown(path: str) -> str:
    """Return a path as one types it: without torch's own dicts of parameters and modules."""
    return _HIDDEN.sub(r".\1", path).strip()


def _kind(value: Any) -> str | None:
    """Return what kind of state an object can hold, None if it holds none."""
    if isinstance(value, Tensor):
        return None if is_lazy(value) else "tensor"
    if isinstance(value, np.ndarray):
        return "array"
    if isinstance(value, np.generic):
        return None
    for name, kind in (("list", list), ("dict", dict), ("set", set), ("deque", deque), ("tuple", tuple)):
        if isinstance(value, kind):
            return name
    if isinstance(value, _Global):
        return "global"
    if kinds.generator_state(value) is not None:
        return "generator"
    if isinstance(value, types.FunctionType):
        return "function" if kinds.users(value.__module__) else None
    if isinstance(value, types.MethodType):
        return "method"
    if isinstance(value, functools.partial):
        return "partial"
    if isinstance(value, type):
        return "class" if kinds.users(value.__module__) else None
    if kinds.position(value) is not None:
        return "opaque"
    return "object" if kinds.is_object(value) else None


def _items(node: _Node) -> kinds.Items | None:
    """Return label and value of all that an object holds, None if it is looked at as a whole."""
    value: Any = node.value
    if node.kind in ("list", "tuple", "deque"):
        return list(enumerate(value))
    if node.kind == "dict":
        return list(dict.items(value))
    if node.kind == "set":
        return [(i, v) for i, v in enumerate(value)]
    if node.kind == "object":
        return kinds.attributes(value)
    if node.kind == "class":
        return kinds.class_attributes(value)
    if node.kind == "global":
        return [(value.name, value.module.get(value.name))]
    if node.kind == "partial":
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if node.kind == "function":
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        closed = [(name, cell.cell_contents) for name, cell in cells if _is_set(cell)]
        return [
            *closed,
            ("__defaults__", value.__defaults__),
            ("__kwdefaults__", value.__kwdefaults__),
            *vars(value).items(),
        ]
    return [] if node.kind == "method" else None


def _fill(node: _Node, items: kinds.Items) -> None:
    """Give an object what it is to hold."""
    value: Any = node.value
    if node.kind in ("list", "set", "deque"):
        kinds.fill(value, [child for _, child in items])
    elif node.kind == "dict":
        dict.clear(value)
        for key, child in items:
            dict.__setitem__(value, key, child)
    elif node.kind == "object":
        kinds.set_attributes(value, items)
    elif node.kind == "class":
        kinds.set_class_attributes(value, items)
    elif node.kind == "global":
        value.module[value.name] = items[0][1]
    elif node.kind == "function":
        cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        for name, child in items:
            if name in cells:
                cells[name].cell_contents = child
            elif name not in ("__defaults__", "__kwdefaults__"):
                setattr(value, name, child)


def _restore_leaf(node: _Node, told: list[Any], decoder: Decoder) -> None:
    if told[0] == "tensor":
        _, saved, requires_grad, grad, own = told
        kinds.set_tensor(node.value, saved, requires_grad, grad)
        vars(node.value).update({name: decoder(v, vars(node.value).get(name)) for name, v in own})
    elif node.kind == "array":
        saved = decoder(told[1])
        if node.value.shape != saved.shape:
            raise Refusal("the checkpoint doesn't fit this run: an array has another shape")
        node.value[...] = saved
    else:
        kinds.set_generator_state(node.value, decoder(told[1]))


def _state(node: _Node) -> Any:
    return node.value.copy() if node.kind == "array" else kinds.generator_state(node.value)


def _same_mark(now: Any, before: Any) -> bool:
    if isinstance(now, Tensor):
        return torch.equal(now, before)
    if isinstance(now, np.ndarray):
        return np.array_equal(now, before)
    if isinstance(now, dict):
        return now.keys() == before.keys() and all(_same_mark(v, before[k]) for k, v in now.items())
    return bool(now == before)


def _same(now: kinds.Items, before: kinds.Items) -> bool:
    """Say whether two lists of labels and values hold the same objects, or equal numbers and texts."""
    if len(now) != len(before):
        return False
    if all(map(is_, (v for _, v in now), (v for _, v in before))):
        return all(_equal(a, b) for (a, _), (b, _) in zip(now, before, strict=True))
    return all(_equal(k, j) and _equal(a, b) for (k, a), (j, b) in zip(now, before, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, (float, complex, np.generic)):
        return repr(a) == repr(b)  # tells 0.0 from -0.0, and knows NaN
    return type(a) in kinds.SCALARS and bool(a == b)


def _joined(path: str, label: Any, kind: str) -> str:
    if kind in ("object", "class", "function", "partial"):
        return f"{path}.{label}"
    if kind == "global":
        return path.strip()
    return f"{path}[{label!r}]" if isinstance(label, (str, int)) else f"{path}[…]"


def _label(key: Any) -> Any:
    return key if isinstance(key, kinds.SCALARS) else None


def _is_set(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None or True
    except ValueError:
        return False
