"""What must not be written or printed: the one rule for records, command lines, names and messages.

A value is secret by the words of its key, by standing before the @ of an address, or by being, as a whole,
that of an environment variable which is named so.
"""

import functools
import os
import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

HIDDEN = "***"
_SHORTEST = 4  # characters of a value that is looked for in a text; shorter ones stand in too many words

_STRONG = {
    *("secret", "secrets", "password", "passwords", "passwd", "pwd", "pass", "passphrase", "passcode", "credential"),
    *("credentials", "apikey", "apikeys", "accesskey", "privatekey", "secretkey", "authkey", "auth", "authorization"),
    *("authtoken", "accesstoken", "bearer", "cookie", "cookies", "jwt"),
}
_OF_KEYS = {  # whose keys are secret, as in api_key; others, as in sort_key, are not
    *("api", "access", "private", "secret", "auth", "account", "encryption", "signing", "ssh", "master", "shared"),
    *("storage", "service", "subscription", "deploy", "license", "wandb", "openai", "aws", "azure", "gcp", "hf"),
}
_OF_TEXT = {"pad", "eos", "bos", "cls", "mask", "unk", "sep", "special", "start", "end", "per", "num", "max", "next"}
_OF_TRAINING = {"forward", "backward", "first", "second", "low", "high", "band", "single", "multi"}  # pass
_DIRECTORIES = ("PWD", "OLDPWD")  # variables of every shell
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_USER = re.compile(r"(\b[A-Za-z][\w+.-]*://)(?:[^\s/@'\"<>]*@)+")  # of an address; the last @ ends it
_SLASHED = re.compile(r"(\b[A-Za-z][\w+.-]*://)[^\s/:@'\"<>]+:(?!\d+[/\s'\"]|\d+$)[^\s@'\"<>]*@")  # a / in its password
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/-]{8,}=*", re.IGNORECASE)
_PAIR = re.compile(r"([\w.-]+)(['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&#}\])'\"]+)")


class _Origins(NamedTuple):
    """Where values may come from.

    Args:
        config: before it was resolved.
        environment: the values of variables that are named like secrets.
    """

    config: Mapping[str, Any]
    environment: Collection[str]


_learnt: set[str] = set()  # values of this process that are secret


@functools.lru_cache(maxsize=4096)  # the same keys, and the names of the environment, are asked for at each value
def is_secret(key: str) -> bool:
    """Say whether a key is named like a password or token.

    >>> [is_secret(k) for k in ("aws_secret_access_key", "authToken", "api-key", "hf_token", "pad_token", "tokens")]
    [True, True, True, True, False, False]
    """
    words = [word.lower() for word in _WORD.findall(re.sub(r"\[\d+\]$", "", key).rpartition(".")[2])]
    if not words:
        return False
    pairs = zip(words, words[1:], strict=False)
    if any(second in ("key", "keys") and first in _OF_KEYS for first, second in pairs):
        return True
    before = set(words[:-1])
    if words[-1] == "token":
        return not before & _OF_TEXT
    if words[-1] == "pass" and before & _OF_TRAINING:
        return False
    return bool(_STRONG & set(words))


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
    _learnt.update(str(value) for value in _left_out(plain, masked) if _is_long(str(value)))


def hide(text: str, *, pairs: bool = True) -> str:
    """Return a text, such as a traceback or a command line, without secrets.

    Args:
        text: to be recorded or printed.
        pairs: whether to look for `password=…` and `password: …`, too.

    >>> hide("postgresql://me:pw@host/db failed")
    'postgresql://***@host/db failed'
    """
    if "://" in text:
        text = _SLASHED.sub(rf"\1{HIDDEN}@", _USER.sub(rf"\1{HIDDEN}@", text))
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    if pairs and ("=" in text or ":" in text):
        text = _PAIR.sub(_pair, text)
    for value in sorted(_learnt, key=len, reverse=True):
        if value in text:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
    return text


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
    key, equals, _ = typed.partition("=")
    return f"{key}={HIDDEN}" if equals and is_secret(key.lstrip("+-~")) else hide(typed)


def is_from_environment(source: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    """Say whether a value was made of one from the environment, maybe by way of other keys."""
    if not isinstance(source, str) or "${" not in source:
        return False
    if "oc.env" in source:
        return True
    paths = re.findall(r"\$\{\.*([\w.\[\]-]+)\}", source)
    return depth < 8 and any(is_from_environment(_at(root, path), root, depth + 1) for path in paths)


def _pair(found: re.Match[str]) -> str:
    plain = found[3].strip("'\"")
    if not is_secret(found[1]):  # but it may hold pairs of its own
        return f"{found[1]}{found[2]}{_PAIR.sub(_pair, found[3])}"
    if plain in ("null", "None", "true", "false", "…", HIDDEN) or plain.startswith("${"):
        return found[0]
    return f"{found[1]}{found[2]}{HIDDEN}"


def _masked(key: str, value: Any, source: Any, of: _Origins, hidden: bool) -> Any:
    hidden = hidden or is_secret(key)
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
        return source if _is_plain_interpolation(source) else HIDDEN
    if hidden or (isinstance(value, str) and _is_long(value) and value in of.environment):
        return HIDDEN
    return hide_address(value) if isinstance(value, str) else value


def hide_address(value: str) -> str:
    """Return a value without what stands before the @ of an address in it."""
    if "://" not in value:
        return value
    return _PAIR.sub(_pair, _SLASHED.sub(rf"\1{HIDDEN}@", _USER.sub(rf"\1{HIDDEN}@", value)))


def _is_plain_interpolation(source: Any) -> bool:
    return isinstance(source, str) and "${" not in source.replace("${oc.env:", "")


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


def _left_out(plain: Any, masked: Any) -> list[Any]:
    """Return the values that aren't in the masked config."""
    if isinstance(plain, Mapping):
        return [v for k in plain for v in _left_out(plain[k], masked[k])]
    if isinstance(plain, list):
        return [v for a, b in zip(plain, masked, strict=True) for v in _left_out(a, b)]
    changed = isinstance(masked, str) and masked != plain and (masked == HIDDEN or "${oc.env:" in masked)
    return [plain] if changed else []
