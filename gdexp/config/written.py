"""How a config stands in the record: params as one types them, and config.yaml."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_UNRECORDED = ("tracking", "sweep", "hydra")  # where and how a run is made, not what it is; may hold secrets
_PLAIN_TEXT = re.compile(r"[\w./$%*@?|+~-](?:[\w./$%*@?|+:~ -]*[\w./$%*@?|+:~-])?")
_OTHER_TYPE = re.compile(r"null|true|false|nan|[+-]?inf|[+-]?\.?\d[\d_]*\.?\d*(e[+-]?\d+)?", re.IGNORECASE)


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that belongs into the record."""
    return {k: v for k, v in config.items() if k not in _UNRECORDED}


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


def _typed_leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            found += _typed_leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", typed(value)))
    return found
