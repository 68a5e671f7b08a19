"""The objects that a run's parts lead to, and what training changes in them.

Walked through once before training: attributes, members of lists and dicts, what methods look up in
their modules and closures. `changes` tells what is no longer as it was, in plain containers and
tensors; `restore` puts that into the same parts, built afresh. What changes and can't be told so is
refused by name.
"""

import gc
import re
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gdexp.build import contents, kinds, nodes
from gdexp.build.encoding import UNORDERED, Decoder, Encoder, Unkept
from gdexp.build.nodes import Global, Node, Own, joined, shown
from gdexp.config.refusal import Refusal

_LARGE = 100_000  # numbers in a tensor of a data set that is compared by its version
_MANY = 10_000  # members of a list that are all looked into
_FEW = 500  # members of a longer one that are; where one of them has changed, the others may have, too
_DIGEST = 65_536  # numbers of a large array that are compared
_BLOCK = 512  # numbers of a large array whose sum is compared
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_BUILDERS = ("__init__", "__new__", "__post_init__", "__del__", "__repr__")  # run when nothing is trained


class Objects:
    """All that can hold state in the parts of a run.

    Args:
        roots: parts by name; of those named `data…` large tensors are kept only where they changed.
        grads: whether gradients between two steps are state.
    """

    def __init__(self, roots: Mapping[str, Any], *, grads: bool = False) -> None:
        self.nodes: dict[str, Node] = {}
        self._paths: dict[int, str] = {}  # by id; the nodes hold what they are of
        self._alike: dict[str, int] = {}  # how many objects were given one path
        self._names: dict[tuple[int, str], Global] = {}
        self._used: set[str] = set()  # names in code of the user's that runs while there is training
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
                now = dict(nodes.items(node) or ()) if node.kind not in nodes.UNORDERED else {}
                labels = [decoder(label) for label, _ in told[1]]
                children = [decoder(v, now.get(k)) for k, (_, v) in zip(labels, told[1], strict=True)]
                for label, child in zip(labels, children, strict=True):
                    if isinstance(child, str) and isinstance(now.get(label), (int, float)):
                        raise Refusal(f"the checkpoint doesn't fit this run: {label!r} in `{shown(path)}` is no number")
                nodes.fill(node, list(zip(labels, children, strict=True)))
            elif told[0] == "some":
                nodes.fill(node, list((dict(nodes.items(node) or ()) | dict(told[1])).items()))
            else:
                _restore_whole(node, told, decoder)

    def _node(self, path: str) -> Node:
        if path not in self.nodes:
            raise Refusal(f"the checkpoint doesn't fit this run: there is no `{shown(path)}`")
        return self.nodes[path]

    def _noted(self, path: str, value: Any) -> list[tuple[str, Any]]:
        """Note an object, and return what it leads to."""
        if isinstance(value, kinds.SCALARS) and type(value) in kinds.SCALARS or id(value) in self._paths:
            return []
        if (kind := nodes.kind(value)) is None:
            return []
        path = self._free(path)
        self._paths[id(value)] = path
        node = Node(value, kind, None)
        items = nodes.items(node)
        self.nodes[path] = Node(value, kind, items if items is not None else self._mark(path, node))
        there = list(self._held(path, kind, items)) if items else []
        if nodes.is_plain(value):
            return there
        own = [(f"{path}.", Own(value))] if nodes.has_own(value, kind) else []
        return [*there, *own, *self._behind(path, value)]

    def _free(self, path: str) -> str:
        """Return a path that no other object has: several have one where a label can't be written."""
        free = path
        while free in self.nodes:
            self._alike[path] = number = self._alike.get(path, 0) + 1
            free = f"{path}'{number}"
        return free

    def _held(self, path: str, kind: str, items: Any) -> Iterator[tuple[str, Any]]:
        """Yield what an object holds: its members, and keys that are objects themselves."""
        if len(items) > (10 * _MANY if _root(path) in self._whole else _MANY):
            yield from ((f"{path}{UNORDERED}", value) for _, value in items[:: len(items) // _FEW])
            return
        if kind in nodes.UNORDERED:
            objects = [value for _, value in items if id(value) not in self._paths and nodes.kind(value) is not None]
            yield from ((f"{path}[0]" if len(objects) == 1 else f"{path}{UNORDERED}", value) for value in objects)
            return
        if path.endswith("_hooks"):  # torch numbers the hooks of a whole process
            items = [(place, value) for place, (_, value) in enumerate(items)]
        for label, value in items:
            if type(label) not in kinds.SCALARS:
                yield f"{path}[…]", label
            if type(value) not in kinds.SCALARS:
                yield joined(path, label, kind), value

    def _behind(self, path: str, value: Any) -> list[tuple[str, Any]]:
        """Return what an object leads to beside its own attributes: its class, globals of its code."""
        if isinstance(value, types.FunctionType):
            return list(self._globals(value))
        if isinstance(value, types.MethodType):
            return [(f"{path}.__self__", value.__self__), (path, value.__func__)]
        if (owner := nodes.bound(value)) is not None:
            return [(f"{path}.__self__", owner)]
        if isinstance(value, weakref.ref):
            return [(f"{path}()", value())]
        if isinstance(value, types.MappingProxyType):
            return [(path, one) for one in gc.get_referents(value)]
        if isinstance(value, Tensor):
            hooks = [(name, getattr(value, name, None)) for name in _HOOKS]
            return [(f"{path}.{name}", child) for name, child in (*vars(value).items(), *hooks) if child is not None]
        if isinstance(value, type):
            return [(f"{value.__name__}.{f.__name__}", f) for f in kinds.functions(value)]
        own = [c for c in type(value).__mro__ if kinds.users(c.__module__)]
        wrapped = getattr(value, "__wrapped__", None) if nodes.kind(value) == "cache" else None
        return [*((path, one) for one in (wrapped,) if one is not None), *((c.__qualname__, c) for c in own)]

    def _globals(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        """Yield what the code of a user's function may look up and change in modules of theirs."""
        names = kinds.names_used(function.__code__)
        if function.__name__ not in _BUILDERS:
            self._used |= names.union(function.__code__.co_freevars)
        for module in sorted(_modules(function, names)):
            home = vars(sys.modules[module])
            there = {name for name in names if not isinstance(home.get(name, types), types.ModuleType)}
            for name in sorted(there | (kinds.names_set(function.__code__) - home.keys())):
                yield f"{module}.{name} ", self._names.setdefault((id(home), name), Global(home, name))

    def _told(self, path: str, node: Node, encoder: Encoder) -> list[Any] | None:
        """Return what an object is now, None if that is what it was."""
        if node.kind == "tensor":
            told: list[Any] | None = self._told_tensor(path, node, encoder)
        elif (items := nodes.items(node)) is None:
            told = self._told_whole(path, node, encoder)
        elif nodes.same(items, node.before):
            return _drawn(path, node, items)
        elif node.kind in ("tuple", "frozenset") or (node.kind == "variable" and not items):
            raise Unkept(shown(path), node.value)
        else:
            before = dict(node.before) if node.kind not in nodes.UNORDERED else {}
            told = ["items", [self._told_item(path, node, encoder, item, before) for item in items]]
        if told is not None and UNORDERED in path:
            raise Unkept(shown(path), node.value)
        return told

    def _told_item(self, path: str, node: Node, encoder: Encoder, item: Any, before: dict[Any, Any]) -> list[Any]:
        label, value = item
        place = shown(joined(path, label, node.kind))
        return [encoder(shown(path), label), encoder(place, value, before.get(label))]

    def _told_whole(self, path: str, node: Node, encoder: Encoder) -> list[Any] | None:
        """Return what an object without children is now; refuse one that has changed and can't be told."""
        now = self._mark(path, node)
        if node.kind == "array":
            value = node.value.view(np.ndarray)
            always = value.size <= _LARGE and value.flags.writeable and not path.startswith("data")
            always = always and UNORDERED not in path
            return ["state", encoder(shown(path), value.copy())] if always or now != node.before else None
        if node.kind == "contents":
            return None if nodes.same_mark(now, node.before) else ["state", encoder(shown(path), now)]
        hidden = node.kind == "opaque" and not now.whole
        if now != node.before or (hidden and _name(path) in self._used):
            raise Unkept(shown(path), node.value)
        return None

    def _told_tensor(self, path: str, node: Node, encoder: Encoder) -> list[Any] | None:
        t = node.value
        if self._mark(path, node) == node.before:
            return None
        for name in _HOOKS:
            if (hooks := getattr(t, name, None)) and self.path(hooks) is None:
                raise Unkept(f"{shown(path)}.{name}", hooks)
        grad = t.grad if self._grads and t.is_leaf else None
        own = [[name, encoder(f"{shown(path)}.{name}", v)] for name, v in vars(t).items()]
        return ["tensor", t.detach(), t.requires_grad, None if grad is None else grad.detach(), own]

    def _mark(self, path: str, node: Node) -> Any:
        """Return what tells whether an object without children has changed."""
        value: Any = node.value
        data = path.startswith("data")
        if node.kind == "tensor":
            small = value.numel() <= _LARGE or _root(path) in self._whole
            if small and UNORDERED not in path:
                return object()  # always kept
            return value._version, value.data_ptr(), value.shape
        if node.kind == "array":
            return value.shape, _digest(value.view(np.ndarray), data)
        if node.kind == "contents":
            known = contents.of(value)
            try:
                return known.read(value) if known is not None else None
            except OSError as error:  # of text that is being read line by line
                raise Unkept(shown(path), value) from error
        return value.cache_info().misses if node.kind == "cache" else kinds.seen(value)


def _drawn(path: str, node: Node, items: kinds.Items) -> list[Any] | None:
    """Return those numbers of an object of the user's that may have been drawn when it was built, without a seed."""
    if node.kind != "object" or path.startswith("data") or not kinds.users(type(node.value).__module__):
        return None
    floats = [[name, value] for name, value in items if type(value) is float]
    return ["some", floats] if floats and UNORDERED not in path else None


def _digest(array: np.ndarray, data: bool) -> Any:
    """Return what tells whether an array has changed; of a data set's, which may be large, sums of blocks."""
    if not data or array.size <= _DIGEST:
        return hash(array.tobytes())
    few = array.reshape(-1)[:: array.size // _DIGEST] if array.flags.contiguous else array[:: 1 + len(array) // 256]
    if not array.flags.writeable or not array.flags.c_contiguous:
        return hash(few.tobytes())
    words = array.reshape(-1).view(np.uint8)[: array.nbytes // (8 * _BLOCK) * (8 * _BLOCK)].view(np.uint64)
    return hash(few.tobytes()), hash(words.reshape(-1, _BLOCK).sum(axis=1).tobytes())


def _modules(function: types.FunctionType, names: set[str]) -> set[str]:
    """Return the names of those modules of the user's that code can reach by these names, through one another."""
    found, waiting = set(), [function.__module__, *names & sys.modules.keys()]
    while waiting:
        module = waiting.pop()
        if module in found or not kinds.users(module):
            continue
        found.add(module)
        home = vars(sys.modules[module])
        waiting += [v.__name__ for name in names if isinstance(v := home.get(name), types.ModuleType)]
    return found


def _root(path: str) -> str:
    """Return the name of the part that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _name(path: str) -> str:
    """Return the name by which code reaches an object: the last in its path."""
    return re.sub(r"\[[^\[\]]*\]|'\d+", "", path).strip().rpartition(".")[2]


def _restore_whole(node: Node, told: list[Any], decoder: Decoder) -> None:
    if told[0] == "tensor":
        _, saved, requires_grad, grad, own = told
        kinds.set_tensor(node.value, saved, requires_grad, grad)
        vars(node.value).update({name: decoder(v, vars(node.value).get(name)) for name, v in own})
    elif node.kind == "array":
        saved, value = decoder(told[1]), node.value.view(np.ndarray)
        if value.shape != saved.shape:
            node.value.resize(saved.shape, refcheck=False)
        node.value.view(np.ndarray)[...] = saved.view(value.dtype)
    elif (known := contents.of(node.value)) is not None:
        known.write(node.value, decoder(told[1]))
