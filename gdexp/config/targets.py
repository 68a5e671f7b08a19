"""The object that a `_target_` names, found, checked against its signature and built.

What may be built from a *record* (somebody else's config.yaml) is narrower: see `trust`.
"""

import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import ModuleType, NoneType, UnionType
from typing import Any

from gdexp.config.modules import local_modules
from gdexp.config.refusal import Refusal, nearest

# filled in for a constructor that has them, where the config leaves them out or null
SUPPLIED = {
    "model": ("in_features", "in_shape", "out_features"),
    "scheduler": ("T_max", "total_iters", "total_steps", "mode"),
    "learner": ("in_features", "in_shape", "out_features", "model", "loss", "optimizer", "device", "dtype"),
}


def resolve(key: str, name: object, through: Callable[[str, Any], bool] | None = None) -> Any:
    """Import the object of a dotted name.

    Args:
        key: where the name stands, as `model._target_`.
        name: as `torch.nn.Linear` or `my_net.MyNet`.
        through: says of each object before the last, and its name, whether the way may lead through it.

    Returns:
        a callable; None where the way may not lead there.

    Raises:
        Refusal: no such module or attribute. An error inside the module is not caught.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise Refusal(f"`{key}` must be a dotted name as my_module.MyClass, got {name!r}")
    if "." not in name:
        raise Refusal(f"`{key}` must name a module too, as my_module.{name}")
    parts = name.split(".")
    found: Any = _module(key, parts[0], name)
    for i, part in enumerate(parts[1:], start=2):
        if through is not None and not through(".".join(parts[: i - 1]), found):
            return None
        if not hasattr(found, part) and isinstance(found, ModuleType):
            submodule = _import(".".join(parts[:i]))
            if submodule is None:
                raise Refusal(f"`{key}`: {found.__name__} has no {part!r}{nearest(part, _public(found))}")
            found = submodule
        elif not hasattr(found, part):
            raise Refusal(f"`{key}`: {'.'.join(parts[: i - 1])} has no {part!r}")
        else:
            found = getattr(found, part)
    if not callable(found):
        raise Refusal(f"`{key}` must name a class or a function, {name} is a {type(found).__name__}")
    return found


def build(key: str, node: Mapping[str, Any], *first: object, **extra: object) -> Any:
    """Call the target of a config node with the node's other keys.

    Args:
        key: where the node stands, as `model`.
        node: plain containers; an inner mapping with a `_target_` is built first.
        first: arguments by position.
        extra: further arguments, which override the node's.

    Raises:
        Refusal: torch or gdexp turned an argument down. Errors in the user's own code pass.
    """
    target = resolve(f"{key}._target_", node["_target_"])
    known = parameters(target)
    given = {k: _inner(f"{key}.{k}", v) for k, v in node.items() if k != "_target_"}
    given = {k: _tensor(v) if k in known and _is_tensor(known[k].annotation) else v for k, v in given.items()}
    try:
        return target(*first, **given, **extra)
    except (ValueError, TypeError, RuntimeError) as error:
        home = (getattr(target, "__module__", "") or "").partition(".")[0]
        if home not in ("torch", "gdexp"):
            raise
        named = home == "gdexp" and "`" in str(error)
        raise Refusal(str(error) if named else f"`{key}`: {error}") from error


def check_arguments(key: str, node: Mapping[str, Any], supplied: int = 0, *, whole: bool = True) -> None:
    """Refuse a node whose keys don't fit the signature of its target.

    Args:
        key: where the node stands, as `optimizer`.
        node: plain containers.
        supplied: how many leading parameters the program itself fills in.
        whole: whether an argument without a default must be there.
    """
    target = resolve(f"{key}._target_", node["_target_"])
    known, open_ended = _parameters(target)
    known = dict(list(known.items())[supplied:])
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in known:
            if open_ended:
                continue
            raise Refusal(f"`{key}.{name}` is not an argument of {node['_target_']}{nearest(name, known)}")
        filled_in = value is None and name in SUPPLIED.get(key, ())
        if not filled_in and not accepts(known[name].annotation, value):
            raise Refusal(f"`{key}.{name}` must be {_describe(known[name].annotation)}, got {value!r}")
    for name, parameter in known.items():
        missing = parameter.default is inspect.Parameter.empty and name not in node
        if missing and whole and name not in SUPPLIED.get(key, ()):
            raise Refusal(f"`{key}.{name}` is missing: {node['_target_']} needs it (+{key}.{name}=…)")


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable that can be given by name."""
    return _parameters(target)[0]


def accepts(hint: Any, value: object) -> bool:
    """Say whether a YAML value can be of an annotated type; a hint that isn't plain accepts all.

    >>> accepts(float, 1), accepts(float | None, None), accepts(int, 1.5), accepts(float, "abc")
    (True, True, False, False)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        plain = [h for h in inner if not _is_tensor(h)] if float in inner else inner  # a rate isn't a list
        return any(accepts(h, value) for h in plain)
    if origin is typing.Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(accepts, inner, value))
        return not inner or all(accepts(inner[0], v) for v in value)
    if isinstance(value, Mapping):  # a nested target: what it will be isn't known yet
        return hint not in (int, float, bool, str, None, NoneType)
    if hint in (None, NoneType):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    return not _is_tensor(hint) or _is_numbers(value)


def _inner(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(key, value)
        return {k: _inner(f"{key}.{k}", v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inner(f"{key}[{i}]", v) for i, v in enumerate(value)]
    return value


def _is_tensor(hint: Any) -> bool:
    """Say whether a hint is a Tensor, or a Tensor or null."""
    return any(getattr(h, "__name__", "") == "Tensor" for h in (hint, *typing.get_args(hint))) and not any(
        h in typing.get_args(hint) for h in (int, float)
    )


def _is_numbers(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) or _is_numbers(v) for v in value
    )


def _tensor(value: Any) -> Any:
    """Return numbers, as a loss's class weights, as the tensor that torch wants."""
    import torch

    return torch.tensor(value, dtype=torch.get_default_dtype()) if _is_numbers(value) else value


def _module(key: str, name: str, whole: str) -> ModuleType:
    if (module := _import(name)) is None:
        where = "here or among the installed packages"
        raise Refusal(f"`{key}`: no module {name!r} {where} (for {whole})")
    return module


def _import(name: str) -> ModuleType | None:
    """Import a module; None if there is none of that name (an ImportError inside it is not that)."""
    try:
        with nullcontext() if name in sys.modules else local_modules():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise


def _public(module: ModuleType) -> list[str]:
    return [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]


@functools.lru_cache(maxsize=256)
def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return a callable's named parameters with evaluated hints, and whether it takes any other."""
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # a builtin without a signature
        return {}, True
    try:
        hints = typing.get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except Exception:  # annotations are the user's business; unreadable ones accept everything
        hints = {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = {n: p.replace(annotation=hints.get(n, Any)) for n, p in signature.parameters.items() if p.kind in by_name}
    return found, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())


def _describe(hint: Any) -> str:
    """Return a type hint in plain words.

    >>> _describe(float | None), _describe(list[int])
    ('a number or null', 'a list')
    """
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null"}
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        plain = [h for h in typing.get_args(hint) if getattr(h, "__name__", "") != "Tensor"]
        return " or ".join(dict.fromkeys(_describe(h) for h in plain))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if origin is tuple and typing.get_args(hint)[-1:] != (Ellipsis,):
        return f"a list of {len(typing.get_args(hint))}"
    if origin in (list, tuple, Sequence):
        return "a list"
    return words.get(hint, getattr(hint, "__name__", str(hint)))
