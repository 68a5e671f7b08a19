"""What must not be written or printed: the one rule for records, command lines, names and messages.

A value is secret by the words of its key (`secret_names`), by its form, such as what stands before the @ of an
address or after `password=`, or by being that of an environment variable which is named so.
"""

import base64
import binascii
import os
import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from gdexp.config.secret_names import HIDDEN as HIDDEN
from gdexp.config.secret_names import hides
from gdexp.config.secret_names import is_secret as is_secret

_SHORTEST = 4  # characters of a value that is looked for in a text; shorter ones stand in too many words
_INSIDE = 8  # characters of a value that is looked for inside another value of a config
_DIRECTORIES = ("PWD", "OLDPWD")  # variables of every shell

_USER = re.compile(r"(\b[A-Za-z][\w+.-]*://)(?:[^\s/@'\"<>]*@)+")  # of an address; the last @ ends it
_SLASHED = re.compile(r"(\b[A-Za-z][\w+.-]*://)[^\s/:@'\"<>]+:(?!\d+[/\s'\"]|\d+$)[^\s@'\"<>]*@")  # a / in its password
_SIGNED = re.compile(r"([?&](?:[\w.%-]*signature|sig|key)=)[^\s&'\"#<>]+", re.IGNORECASE)  # who has it may read
_BEARER = re.compile(r"\b(Bearer|Basic)\s+([\w.~+/-]{8,}=*)", re.IGNORECASE)
_PAIR = re.compile(r"([\w.-]+)(\\*['\"]?\s*[=:]\s*\\*)('[^']*'|\"[^\"]*\"|[^\s,;&#}\])'\"]+)")
_OPTION = re.compile(r"(?:(?<![\w-])--|(?<=[ '\"=])-)([A-Za-z][\w-]*)([ \t]+)('[^']*'|\"[^\"]*\"|[^\s'\"{$-][^\s'\"]*)")
_PRIVATE = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|true|false|null|[+-]?inf|nan", re.IGNORECASE)
_DEFAULT = re.compile(r"\$\{oc\.env:\s*(\w+)\s*,\s*(?!null\s*\})")


class _Origins(NamedTuple):
    """Where values may come from.

    Args:
        config: before it was resolved.
        environment: the values of variables that are named like secrets.
    """

    config: Mapping[str, Any]
    environment: Collection[str]


_learnt: set[str] = set()  # values of this process that are secret


def without_secrets(plain: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its secrets left out.

    What came through `${oc.env:…}` stands as that interpolation, a number as the number; `***` stands for
    what is made of such a value, and for what is secret by its key or its address.

    Args:
        plain: resolved, in plain containers.
        source: the same before it was resolved.
    """
    of = _Origins(source, set(_of_environment()))
    return {k: _masked(str(k), v, source.get(k), of, hidden=False) for k, v in plain.items()}


def learn(plain: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Note the secrets of a config, which `hide` then finds in any text.

    Args:
        plain: resolved, in plain containers.
        source: the same before it was resolved.
    """
    of = _Origins(source, set(_of_environment()))
    _learnt.update(filter(_is_long, of.environment))
    masked = {k: _masked(str(k), v, source.get(k), of, hidden=False) for k, v in plain.items()}
    _learnt.update(value for value in _left_out(plain, masked, named=False) if _is_long(value))


def hide(text: str, *, pairs: bool = True) -> str:
    """Return a text, such as a traceback or a command line, without secrets.

    Args:
        text: to be recorded or printed.
        pairs: whether to look for `password=…` and `password: …`, too.

    >>> hide("postgresql://me:pw@host/db failed")
    'postgresql://***@host/db failed'
    """
    return _without(_learnt, _by_form(text, pairs=pairs))


def hide_in(value: Any) -> Any:
    """Return a value of the user's code without secrets, in lists, tuples and dicts, too.

    A text is hidden where it is, as a whole, that of any environment variable.
    """
    if isinstance(value, dict):
        return {k: HIDDEN if is_secret(str(k)) else hide_in(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        inner = [hide_in(v) for v in value]
        return tuple(inner) if isinstance(value, tuple) else inner
    if not isinstance(value, (str, bytes, PurePath)):
        return value
    text = os.fsdecode(value)
    if _is_long(text) and any(text == v for k, v in os.environ.items() if k not in _DIRECTORIES):
        return HIDDEN
    for secret in filter(_is_long, _of_environment()):
        text = text.replace(secret, HIDDEN)
    shown = hide(text)
    return value if shown == os.fsdecode(value) else shown


def word(typed: str) -> str:
    """Return an override as it may be shown."""
    key, equals, value = typed.partition("=")
    return f"{key}={HIDDEN}" if equals and hides(key.lstrip("+-~"), _typed(value)) else hide(typed)


def is_from_environment(source: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    """Say whether a value was made of one from the environment, maybe by way of other keys."""
    if not isinstance(source, str) or "${" not in source:
        return False
    if "oc.env" in source:
        return True
    paths = re.findall(r"\$\{\.*([\w.\[\]-]+)\}", source)
    return depth < 8 and any(is_from_environment(_at(root, path), root, depth + 1) for path in paths)


def _by_form(text: str, *, pairs: bool = True) -> str:
    """Return a text without what its form shows to be a secret: one rule for a value, a command line, a message."""
    if "://" in text:
        text = _SLASHED.sub(rf"\1{HIDDEN}@", _USER.sub(rf"\1{HIDDEN}@", text))
    if "-----BEGIN" in text:
        text = _PRIVATE.sub(rf"\1{HIDDEN}", text)
    text = _OPTION.sub(_option, _BEARER.sub(_bearer, text))
    if "=" in text:
        text = _SIGNED.sub(rf"\1{HIDDEN}", text)
    return _PAIR.sub(_pair, text) if pairs and ("=" in text or ":" in text) else text


def _without(values: Collection[str], text: str) -> str:
    for value in sorted(values, key=len, reverse=True):
        if value in text:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
    return text


def _bearer(found: re.Match[str]) -> str:
    """Hide what follows such a word, but not in prose, as `basic training` is."""
    if found[1].lower() == "bearer":
        is_one = len(found[2]) >= 20 or not found[2].isalpha()
    else:  # user:password, encoded
        try:
            is_one = b":" in base64.b64decode(found[2].rstrip("=") + "==")
        except binascii.Error:
            is_one = False
    return f"{found[1]} {HIDDEN}" if is_one else found[0]


def _option(found: re.Match[str]) -> str:
    if not hides(found[1], _typed(found[3])):
        return found[0]
    return found[0].removesuffix(found[3]) + HIDDEN


def _typed(text: str) -> object:
    """Return the number that a typed value means, else its text."""
    return float(text) if _NUMBER.fullmatch(text) and text[-1].isdigit() else text


def _pair(found: re.Match[str]) -> str:
    plain = found[3].strip("'\"")
    if not hides(found[1], _typed(plain)):  # but it may hold pairs of its own
        return f"{found[1]}{found[2]}{_PAIR.sub(_pair, found[3])}"
    if plain in ("null", "None", "true", "false", "…", HIDDEN) or plain.startswith("${"):
        return found[0]
    return f"{found[1]}{found[2]}{HIDDEN}"


def _masked(key: str, value: Any, source: Any, of: _Origins, hidden: bool) -> Any:
    hidden = hidden or hides(key, value)
    if isinstance(value, Mapping):
        own = source if isinstance(source, Mapping) else {k: source for k in value}
        return {k: _masked(str(k), v, own.get(k), of, hidden) for k, v in value.items()}
    if isinstance(value, list):
        each = source if isinstance(source, list) and len(source) == len(value) else [source] * len(value)
        return [_masked(key, v, own, of, hidden) for v, own in zip(value, each, strict=True)]
    if value is None or isinstance(value, bool) or key == "_target_":
        return value
    if is_from_environment(source, of.config):
        if isinstance(value, (int, float)) and not hidden:
            return value
        return _by_form(source) if _is_plain_interpolation(source, hidden) else HIDDEN
    if hidden or (isinstance(value, str) and _is_long(value) and value in of.environment):
        return HIDDEN
    if not isinstance(value, str):
        return value
    return _without({v for v in of.environment if len(v) >= _INSIDE}, _by_form(value))


def _is_plain_interpolation(source: Any, hidden: bool) -> bool:
    """Say whether a value may be recorded as where it comes from: not with a secret as its default."""
    if not isinstance(source, str) or "${" in source.replace("${oc.env:", ""):
        return False
    return not any(hidden or is_secret(name) for name in _DEFAULT.findall(source))


def _at(root: Mapping[str, Any], path: str) -> Any:
    node: Any = root
    for name in re.split(r"[.\[\]]+", path.strip("]")):
        if isinstance(node, Mapping):
            node = node.get(name)
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
    return node


def _of_environment() -> list[str]:
    """Return the values of the variables that are named like secrets."""
    return [value for name, value in os.environ.items() if name not in _DIRECTORIES and is_secret(name)]


def _is_long(value: str) -> bool:
    return len(value) >= _SHORTEST


def _left_out(plain: Any, masked: Any, *, named: bool) -> list[str]:
    """Return what isn't in the masked config.

    Args:
        plain: the config.
        masked: the same without secrets.
        named: whether it stands under the name of a secret; else a number or a boolean isn't one.
    """
    if isinstance(plain, Mapping):
        return [v for k in plain for v in _left_out(plain[k], masked[k], named=named or is_secret(str(k)))]
    if isinstance(plain, list):
        return [v for a, b in zip(plain, masked, strict=True) for v in _left_out(a, b, named=named)]
    if not isinstance(masked, str) or masked == plain:
        return []
    if masked == HIDDEN or "${oc.env:" in masked:
        return [str(plain)] if named or not _NUMBER.fullmatch(str(plain)) else []
    pieces = re.fullmatch("(.*?)".join(map(re.escape, masked.split(HIDDEN))), str(plain), re.DOTALL)
    return [piece.strip("'\"") for piece in pieces.groups()] if pieces else []
