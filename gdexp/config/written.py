"""How a config stands in the record: params as one types them, and config.yaml."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

_UNRECORDED = ("tracking", "sweep", "hydra")  # where and how a run is made, not what it is; may hold secrets
_SECRET_NAME = re.compile(r"(^|_)(password|passwd|secret|token|api_?key|credential)s?$", re.IGNORECASE)
_KEY = re.compile(r"[\w.: /-]+")  # what MLflow takes in the name of a param
_PLAIN_TEXT = re.compile(r"[\w./$%*@?|+~-](?:[\w./$%*@?|+:~ -]*[\w./$%*@?|+:~-])?")
_OTHER_TYPE = re.compile(r"null|true|false|nan|[+-]?inf|[+-]?\.?\d[\d_]*\.?\d*(e[+-]?\d+)?", re.IGNORECASE)


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that belongs into the record."""
    return {k: v for k, v in config.items() if k not in _UNRECORDED}


def without_secrets(plain: Mapping[str, Any], config: DictConfig) -> dict[str, Any]:
    """Return the recorded part of a config with its secrets left out.

    A value that came through `${oc.env:…}` stands as that interpolation, another that repeats it and
    the text of a key named like a password as `***`.

    Args:
        plain: resolved, in plain containers.
        config: the same before it was resolved.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    secrets = {str(value) for value, source in _pairs(plain, raw) if _from_environment(source)} - {""}
    return {k: _masked(k, v, raw.get(k), secrets) for k, v in recorded(plain).items()}  # type: ignore[union-attr]


def is_secret(key: str) -> bool:
    """Say whether a key is named like a password or token."""
    return _SECRET_NAME.search(key) is not None


def as_yaml(config: Mapping[str, Any]) -> str:
    """Return the text of config.yaml."""
    return OmegaConf.to_yaml(OmegaConf.create(recorded(config)))


def as_params(config: Mapping[str, Any], options: Mapping[str, str | None]) -> dict[str, str]:
    """Return the params of a run.

    Args:
        config: resolved.
        options: the option chosen in each group.
    """
    chosen = {g: str(o) for g, o in options.items() if g not in _UNRECORDED and o is not None}
    return chosen | dict(_typed_leaves(recorded(config)))


def typed(value: object) -> str:
    """Return a value as one types it to Hydra.

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
        return f"{{{', '.join(f'{k}: {typed(v)}' for k, v in value.items())}}}"
    if isinstance(value, str):
        if _PLAIN_TEXT.fullmatch(value) and not _OTHER_TYPE.fullmatch(value):
            return value
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value)


def _from_environment(source: object) -> bool:
    return isinstance(source, str) and "${oc.env:" in source


def _pairs(value: Any, source: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each leaf beside what it was before it was resolved."""
    if isinstance(value, Mapping):
        for k, v in value.items():
            yield from _pairs(v, source.get(k) if isinstance(source, Mapping) else source)
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from _pairs(v, source[i] if isinstance(source, list) else source)
    else:
        yield value, source


def _masked(key: str, value: Any, source: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            k: _masked(k, v, source.get(k) if isinstance(source, Mapping) else source, secrets)
            for k, v in value.items()
        }
    if _from_environment(source):
        return source
    if isinstance(value, list):
        return [
            _masked(key, v, source[i] if isinstance(source, list) else source, secrets) for i, v in enumerate(value)
        ]
    hidden = isinstance(value, str) and (is_secret(key) or any(s in value for s in secrets))
    return "***" if hidden else value


def _typed_leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in node.items():
        if isinstance(value, Mapping) and value and all(_KEY.fullmatch(str(k)) for k in value):
            found += _typed_leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", typed(value)))
    return found
