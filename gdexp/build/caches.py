"""What functions under `functools.lru_cache` remember: read from CPython's own object, and given back to it.

No library promises this. Where a cache can't be read, `read` says so, and a change of it is refused.
"""

import functools
import gc
import types
from typing import Any

Calls = list[tuple[Any, Any]]  # arguments, as a tuple and pairs of names and values, and what was returned


def is_cache(value: object) -> bool:
    """Say whether a value is a function that remembers what it returned."""
    return isinstance(value, functools._lru_cache_wrapper)


def read(function: Any) -> Calls | None:
    """Return the calls that a function remembers, the one longest ago first; None if they can't be read."""
    if function.cache_parameters()["typed"] or type(function.__wrapped__) is not types.FunctionType:
        return None
    referents = gc.get_referents(function)
    table = next((one for one in reversed(referents) if _is_table(one, function)), None)
    if table is None:
        return None
    mark = next((one for one in reversed(referents) if type(one) is object), None)  # remembered values come before it
    if function.cache_parameters()["maxsize"] is None:
        return [(_arguments(key, mark), result) for key, result in table.items()]
    found = []
    keys = set(map(id, table))
    places = iter(range(len(referents) - 1))
    for place in places:  # each key comes before its result, which may be a key, too
        key, result = referents[place], referents[place + 1]
        if id(key) in keys:
            keys.remove(id(key))
            found.append((_arguments(key, mark), result))
            next(places, None)
    return found if not keys else None


def write(function: Any, calls: Calls) -> None:
    """Let a function remember these calls and no others: for a moment it returns what it is to remember."""
    function.cache_clear()
    if not calls:
        return
    inner = function.__wrapped__
    code = inner.__code__
    try:
        for (args, options), result in calls:
            constants = tuple(result if one == _RESULT else one for one in _TEMPLATE.co_consts)
            inner.__code__ = _TEMPLATE.replace(co_consts=constants, co_freevars=code.co_freevars)
            function(*args, **dict(options))
    finally:
        inner.__code__ = code


def _is_table(one: Any, function: Any) -> bool:
    """Say whether an object is the dict of a function's calls; what it returned may be dicts, too, but comes before."""
    return type(one) is dict and one is not vars(function) and len(one) == function.cache_info().currsize


def _arguments(key: Any, mark: object) -> Any:
    """Return the arguments that a key was made of: the mark parts those without a name from those with one."""
    if type(key) is not tuple:
        return (key,), ()
    place = next((i for i, one in enumerate(key) if one is mark), None)
    if place is None:
        return key, ()
    return key[:place], tuple(zip(key[place + 1 :: 2], key[place + 2 :: 2], strict=True))


_RESULT = 0.123456789
_TEMPLATE = (lambda *args, **options: 0.123456789).__code__
