"""Values that a config took from the environment: known again by a digest, and read from nowhere.

A digest is keyed by a random key that is kept beside it, and slow to compute, so that a short value
can't be guessed from many records at once.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import pbkdf2_hmac
from typing import Any

from gdexp.config.refusal import Refusal
from gdexp.config.secrets import is_from_environment, is_secret

TAG = "gdexp.environment"
_ROUNDS = 20_000
_WHOLE = re.compile(r"\$\{oc\.env:[^${}]+\}")
_NAME = re.compile(r"\$\{oc\.env:\s*(\w+)")


def values(plain: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    """Return what came from the environment, by its key; a number is recorded as it is.

    Args:
        plain: resolved, in plain containers.
        source: the same before it was resolved.
    """
    return {
        key: value for name, node in plain.items() for key, value in _values(str(name), node, source.get(name), source)
    }


def tag(found: Mapping[str, str], key: str) -> str:
    """Return the digests of values as a tag of their run."""
    return json.dumps({"key": key, "values": {name: _digest(key, name, value) for name, value in found.items()}})


def read(text: str | None) -> tuple[str, dict[str, str]]:
    """Return key and digests of a tag.

    Raises:
        ValueError: it is none of ours.
    """
    if text is None:
        return "", {}
    found = json.loads(text)
    key, digests = (found.get(name) for name in ("key", "values")) if isinstance(found, dict) else (None, None)
    if (
        not isinstance(key, str)
        or not isinstance(digests, dict)
        or not all(isinstance(d, str) for d in digests.values())
    ):
        raise ValueError(f"`{TAG}` holds no digests")
    return key, digests


def names(text: str | None) -> list[str]:
    """Return the keys that a tag has digests of."""
    with suppress(ValueError, RecursionError):
        return list(read(text)[1])
    return []


def check(text: str | None, plain: Mapping[str, Any], source: Mapping[str, Any], *, whole: bool = True) -> None:
    """Refuse values from the environment that aren't what they were.

    Args:
        text: the tag of the run.
        plain: resolved with today's environment.
        source: as recorded, or as given on the command line.
        whole: whether all keys of the run are to be there; else those that aren't needn't be what they were.
    """
    try:
        key, digests = read(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"its tag {TAG} is damaged: {error}") from error
    for name, digest in digests.items():
        value, written = at(plain, name), at(source, name)
        if written is None and not whole:
            continue
        if not isinstance(value, (str, int, float)) or _digest(key, name, str(value)) != digest:
            variables = ", ".join(dict.fromkeys(_NAME.findall(str(written))))
            whose = (
                f"comes from the environment variable {variables}, which"
                if variables
                else "came from the environment and"
            )
            raise Refusal(f"`{name}` {whose} isn't what it was: set it as it was, or give {name}=… as it was")


def advised(refusal: Refusal, source: Mapping[str, Any]) -> Refusal:
    """Return a refusal with what helps where a variable's text stands for a number, a boolean or a list.

    Args:
        refusal: of a value.
        source: the config before it was resolved.
    """
    named = re.match(r"`([^`]+)` must be ", str(refusal))
    written = at(source, named[1]) if named else None
    if named is None or not isinstance(written, str) or not _WHOLE.fullmatch(written):
        return refusal
    return Refusal(
        f"{refusal}: a value of the environment is text, {named[1]}='${{oc.decode:{written}}}' reads what it means"
    )


def at(node: Any, key: str) -> Any:
    """Return the value at a dotted key, None where there is none."""
    for name in re.findall(r"[^.\[\]]+", key):
        if isinstance(node, Mapping):
            node = node.get(name)
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _values(key: str, value: Any, source: Any, root: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        own = source if isinstance(source, Mapping) else {k: source for k in value}
        for name, inner in value.items():
            yield from _values(f"{key}.{name}", inner, own.get(name), root)
    elif isinstance(value, list):
        each = source if isinstance(source, list) and len(source) == len(value) else [source] * len(value)
        for i, (inner, own) in enumerate(zip(value, each, strict=True)):
            yield from _values(f"{key}[{i}]", inner, own, root)
    elif value is not None and is_from_environment(source, root) and (isinstance(value, str) or _is_secret(key)):
        yield key, str(value)


def _is_secret(key: str) -> bool:
    return any(map(is_secret, re.findall(r"[^.\[\]]+", key)))


@functools.lru_cache(maxsize=1024)
def _digest(key: str, name: str, value: str) -> str:
    return pbkdf2_hmac("sha256", value.encode(), f"{key} {name}".encode(), _ROUNDS).hex()[:32]
