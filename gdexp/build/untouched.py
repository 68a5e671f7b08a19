"""What a trial of model and loss may change, put back, so that nothing of it is seen in training."""

import contextlib
import functools
import inspect
import io
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gdexp.build.shared import Shared
from gdexp.data.generators import put_back
from gdexp.lines import warn

_CONTAINERS = (list, dict, set, deque, OrderedDict, Counter, defaultdict)
_LARGEST = 10_000  # items of a container that is kept: beyond, it holds data rather than a state


@contextmanager
def untouched(*parts: Any) -> Iterator[None]:
    """Let something be tried in copies of some parts, silently, and put back what it reaches beside them.

    A copy shares what its functions reach: hooks that are closures over the model they were made for,
    counters and caches of the user's module, attributes of a function. Generators are put back, too.

    Args:
        parts: modules and functions that are tried.
    """
    pieces = [piece for part in parts for piece in _pieces(part)]
    homes = {home for piece in pieces if not _is_known(home := _home(piece))}
    shared = Shared(homes)
    shared.lend()
    kept: list[Callable[[], object]] = []
    if homes or any(map(_is_hooked, pieces)):
        kept += [_kept(vars(piece)) for piece in pieces if hasattr(piece, "__dict__")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them cost a few rows more than they bring
    try:
        with put_back(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_num_threads(threads)
        for restore in kept:
            restore()
        if lost := shared.put_back(*(vars(piece) for piece in pieces if hasattr(piece, "__dict__"))):
            warn(f"{lost} was changed when the model was tried before training, and there is no way back")


def _pieces(part: Any) -> list[Any]:
    """Return what a part is made of, whose attributes may hold state that a copy shares."""
    while isinstance(part, functools.partial):
        part = part.func
    return list(part.modules()) if isinstance(part, nn.Module) else [part]


def _home(piece: Any) -> str:
    """Return the name of the module that defines a function, or the class of an object."""
    return getattr(piece if inspect.isroutine(piece) else type(piece), "__module__", None) or "builtins"


def _is_known(home: str) -> bool:
    return home.partition(".")[0] in ("torch", "gdexp", "builtins")


def _is_hooked(module: Any) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return isinstance(module, nn.Module) and any(getattr(module, name) for name in names)


def _kept(namespace: dict[str, Any]) -> Callable[[], object]:
    """Return what puts the names of a namespace back, and the items of its containers."""
    values = dict(namespace)
    items = [(v, v.copy()) for v in values.values() if type(v) in _CONTAINERS and len(v) <= _LARGEST]

    def restore() -> None:
        for container, before in items:
            if not _same(container, before):
                container.clear()
                container.extend(before) if hasattr(container, "extend") else container.update(before)
        for name in namespace.keys() - values.keys():
            del namespace[name]
        namespace.update({k: v for k, v in values.items() if namespace.get(k) is not v or k not in namespace})

    return restore


def _same(now: Any, before: Any) -> bool:
    """Say whether a container holds the very same objects."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(a is b and now[a] is before[b] for a, b in zip(now, before, strict=True))
    return all(a is b for a, b in zip(now, before, strict=True))
