"""What objects hold beside attributes and members: bytes, numbers in memory, states of generators.

Each kind is read as plain values and arrays, in which nothing can run, and written into an object
that was built afresh. Knows no run.
"""

import array
import ctypes
import importlib
import io
import random
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

_NUMBERS = "cbB?hHiIlLqQfdg"  # ctypes' letters of what isn't an address
_BITS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Contents(NamedTuple):
    """How a kind of object is read, written and made.

    Args:
        read: returns what it holds.
        write: puts that into another object of the kind.
        make: returns a new object that holds it.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    make: Callable[[Any], Any] | None = None


def of(value: object) -> Contents | None:
    """Return how an object is read and written; None if it isn't of a kind that is known here."""
    if isinstance(value, random.SystemRandom) or any(value is stream for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return None
    for kind, contents in _CHANGED.items():
        if isinstance(value, kind):
            return contents
    if isinstance(value, (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._SimpleCData)):
        return _MEMORY if _is_numbers(type(value)) else None
    if isinstance(value, memoryview) and value.contiguous and not value.readonly:
        return _VIEW
    if isinstance(value, io.IOBase) and not value.closed and value.seekable() and not value.writable():
        return _FILE
    return None


def told(value: object) -> tuple[str, Any] | None:
    """Return the name of an object's kind and what it holds, if such an object can be made anew."""
    name = _name(type(value))
    if name in _MADE:
        return name, _MADE[name].read(value)
    if name not in _VALUES or getattr(value, "tzinfo", None) is not None:
        return None
    return name, _VALUES[name][0](value)


def made(name: str, content: Any) -> Any:
    """Return a new object of what `told` returned."""
    if name in _MADE and (make := _MADE[name].make) is not None:
        return make(content)
    module, _, kind = name.rpartition(".")
    return _VALUES[name][1](getattr(importlib.import_module(module), kind), content)


def _bytes(value: Any) -> np.ndarray:
    return np.frombuffer(bytes(value), np.uint8)


def _set_bytes(value: Any, content: np.ndarray) -> None:
    value[:] = content.tobytes()


def _set_array(value: Any, content: tuple[str, np.ndarray]) -> None:
    value[:] = _array(content)


def _array(content: tuple[str, np.ndarray]) -> Any:
    return array.array(content[0], content[1].tobytes())


def _in_memory(value: Any) -> np.ndarray:
    return _bytes(ctypes.string_at(ctypes.addressof(value), ctypes.sizeof(value)))


def _set_memory(value: Any, content: np.ndarray) -> None:
    ctypes.memmove(ctypes.addressof(value), content.tobytes(), ctypes.sizeof(value))


def _is_numbers(kind: Any) -> bool:
    """Say whether no address is among what a type of ctypes holds."""
    if issubclass(kind, ctypes._SimpleCData):
        return kind._type_ in _NUMBERS
    if issubclass(kind, ctypes.Array):
        return _is_numbers(kind._type_)
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        fields = [field for c in kind.__mro__ for field in vars(c).get("_fields_", ())]
        return all(_is_numbers(field[1]) for field in fields)
    return False


def _read_file(value: Any) -> Any:
    return None if value.closed else value.__getstate__()[:-1]


def _set_file(value: Any, content: Any) -> None:
    if content is None:
        value.close()
    else:
        value.__setstate__((*content, None))


def _made_file(kind: type) -> Callable[[Any], Any]:
    def make(content: Any) -> Any:
        value = kind()
        _set_file(value, content)
        return value

    return make


def _seeds(value: Any) -> dict[str, Any]:
    names = ("entropy", "spawn_key", "pool_size", "n_children_spawned")
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _spawn(value: Any, content: dict[str, Any]) -> None:
    """Let as many seeds be drawn as were drawn; which ones they are is settled by the first."""
    now = _seeds(value)
    more = content.get("n_children_spawned", 0) - now.get("n_children_spawned", 0)
    if more < 0 or (more and not np.array_equal(content["entropy"], now["entropy"])):
        raise ValueError("a SeedSequence begins with another seed")
    if more:
        value.spawn(more)


def _numpy(value: Any) -> dict[str, Any]:
    bits = getattr(value, "bit_generator", value)
    return {"bits": type(bits).__name__, "state": bits.state, "seeds": _seeds(bits.seed_seq)}


def _set_numpy(value: Any, content: dict[str, Any]) -> None:
    bits = getattr(value, "bit_generator", value)
    bits.state = content["state"]
    _spawn(bits.seed_seq, content["seeds"])


def _made_bits(content: dict[str, Any]) -> Any:
    if content["bits"] not in _BITS:
        raise ValueError(f"{content['bits']} is no generator of numpy's")
    seeds = {name: value for name, value in content["seeds"].items() if value is not None}
    made: Any = getattr(np.random, content["bits"])(np.random.SeedSequence(**seeds))
    made.state = content["state"]
    return made


def _made_torch(content: tuple[str, torch.Tensor]) -> torch.Generator:
    return torch.Generator(content[0]).set_state(content[1])


def _made_random(content: Any) -> random.Random:
    made = random.Random()
    made.setstate(content)
    return made


def _made_legacy(content: Any) -> np.random.RandomState:
    made = np.random.RandomState()
    made.set_state(content)
    return made


_CHANGED: dict[type, Contents] = {
    torch.Generator: Contents(
        read=lambda value: (str(value.device), value.get_state()),
        write=lambda value, content: value.set_state(content[1]),
        make=_made_torch,
    ),
    random.Random: Contents(lambda v: v.getstate(), lambda v, content: v.setstate(content), _made_random),
    np.random.Generator: Contents(_numpy, _set_numpy, lambda content: np.random.Generator(_made_bits(content))),
    np.random.BitGenerator: Contents(_numpy, _set_numpy),
    np.random.RandomState: Contents(
        read=lambda value: value.get_state(legacy=False),
        write=lambda value, content: value.set_state(content),
        make=_made_legacy,
    ),
    np.random.SeedSequence: Contents(_seeds, _spawn, lambda content: np.random.SeedSequence(**content)),
    bytearray: Contents(_bytes, _set_bytes, lambda content: bytearray(content.tobytes())),
    array.array: Contents(lambda value: (value.typecode, _bytes(value.tobytes())), _set_array, _array),
    io.BytesIO: Contents(_read_file, _set_file, _made_file(io.BytesIO)),
    io.StringIO: Contents(_read_file, _set_file, _made_file(io.StringIO)),
} | {getattr(np.random, name): Contents(_numpy, _set_numpy, _made_bits) for name in _BITS}

_MEMORY = Contents(_in_memory, _set_memory)
_VIEW = Contents(lambda value: _bytes(value.tobytes()), lambda value, c: _set_bytes(value.cast("B"), c))
_FILE = Contents(
    read=lambda value: None if value.closed else value.tell(),
    write=lambda value, place: value.close() if place is None else value.seek(place),
)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _time(kind: Any, content: tuple[str, int]) -> Any:
    return kind.fromisoformat(content[0]).replace(fold=content[1])


_MADE = {_name(kind): contents for kind, contents in _CHANGED.items() if contents.make is not None}

# values that never change, by the name of their class: how they are told and how they are made again
_VALUES: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "datetime.date": (str, lambda kind, content: kind.fromisoformat(content)),
    "datetime.time": (lambda value: (value.isoformat(), value.fold), _time),
    "datetime.datetime": (lambda value: (value.isoformat(), value.fold), _time),
    "datetime.timedelta": (lambda v: (v.days, v.seconds, v.microseconds), lambda kind, content: kind(*content)),
    "re.Pattern": (lambda value: (value.pattern, value.flags), lambda _, content: re.compile(*content)),
}
for _kind in ("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "pathlib.PosixPath", "pathlib.PurePosixPath"):
    _VALUES[_kind] = (str, lambda kind, content: kind(content))
