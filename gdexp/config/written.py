"""How a config stands in the record: params as one types them, and config.yaml."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gdexp.config.secret_names import HIDDEN, hides, is_secret
from gdexp.config.text import as_yaml, scalar_as_yaml

_UNRECORDED = ("tracking", "sweep", "hydra")  # where and how a run is made, not what it is; may hold secrets
_KEY = re.compile(r"[\w.: /-]+")  # what MLflow takes in the name of a param
_PLAIN_TEXT = re.compile(r"[\w./$%*@?|+-](?:[\w./$%*@?|+: -]*[\w./$%*@?|+:-])?", re.ASCII)
_OTHER_TYPE = re.compile(r"null|true|false|nan|[+-]?inf|[+-]?\.?\d[\d_]*\.?\d*(e[+-]?\d+)?", re.IGNORECASE)


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that belongs into the record."""
    return {k: v for k, v in config.items() if k not in _UNRECORDED}


def with_changes(masked: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config changed as another one is, which differs in numbers only."""
    found: Any = masked
    for path, value in _changes(recorded(old), recorded(new)):
        *above, last = map(str, path)
        is_hidden = any(map(is_secret, above)) or hides(last, value)
        found = _replaced(found, path, HIDDEN if is_hidden else value)
    return found


def pages(
    configs: Sequence[Mapping[str, Any]], options: Sequence[Mapping[str, str | None]]
) -> list[tuple[dict[str, str], str]]:
    """Return params and the text of config.yaml for runs whose configs have the same keys.

    Both are written once, and what differs is put into their places.

    Args:
        configs: of each run, resolved, with secrets left out.
        options: chosen in each group.
    """
    first = configs[0]
    changes = [dict(_changes(first, config)) for config in configs]
    places = {path: f"gdexp-place-{i}-" for i, path in enumerate(dict.fromkeys(p for own in changes for p in own))}
    marked: Any = recorded(first)
    for path, mark in places.items():
        marked = _replaced(marked, path, mark)
    template = as_yaml(marked)
    pieces = re.split(r"gdexp-place-\d+-", template) if places else [template]
    order = sorted(places, key=lambda path: template.index(places[path]))
    known = [_at(first, path) for path in order]
    params = dict(_typed_leaves(recorded(first)))
    found = []
    for config, own, chosen in zip(configs, changes, options, strict=True):
        heads = {g: str(o) for g, o in chosen.items() if g not in _UNRECORDED and o is not None}
        values = dict(_typed_leaves({path[0]: config[path[0]] for path in own}))
        texts = [scalar_as_yaml(own.get(path, before)) for path, before in zip(order, known, strict=True)]
        text = pieces[0] + "".join(t + piece for t, piece in zip(texts, pieces[1:], strict=True))
        found.append((heads | params | values, text))
    return found


def typed(value: object) -> str:
    """Return a value as one types it to Hydra, whose grammar has no quotes for the keys of a mapping.

    >>> typed(0.01), typed(True), typed(None), typed([16, 64]), typed("relu"), typed("null")
    ('0.01', 'true', 'null', '[16, 64]', 'relu', "'null'")
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(typed, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_typed_key(k)}: {typed(v)}' for k, v in value.items())}}}"
    if isinstance(value, str):
        if _PLAIN_TEXT.fullmatch(value) and not _OTHER_TYPE.fullmatch(value):
            return value
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)  # a backslash is one, but before a quote
        return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
    return repr(value)


def _typed_key(key: object) -> str:
    return re.sub(r"([\\()\[\]{}:=,\s])", r"\\\1", key) if isinstance(key, str) else typed(key)


def _changes(old: Any, new: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield path and value of each leaf that differs; the same containers share their leaves."""
    if old is new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            yield from _changes(old.get(key), new[key], (*path, key))
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _changes(a, b, (*path, i))
    elif type(old) is not type(new) or old != new:
        yield path, new


def _replaced(node: Any, path: Sequence[Any], value: Any) -> Any:
    """Return a nest of containers with one leaf replaced."""
    if not path:
        return value
    inner = _replaced(node[path[0]], path[1:], value)
    if isinstance(node, Mapping):
        return {**node, path[0]: inner}
    return [*node[: path[0]], inner, *node[path[0] + 1 :]]


def _at(node: Any, path: Sequence[Any]) -> Any:
    for key in path:
        node = node[key]
    return node


def _typed_leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in node.items():
        if isinstance(value, Mapping) and value and all(_KEY.fullmatch(str(k)) for k in value):
            found += _typed_leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", typed(value)))
    return found
