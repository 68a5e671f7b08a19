"""The config of a record as YAML: written for one that may be read by anybody, read as one by anybody.

Of what is read nothing is resolved but `${oc.env:NAME}`, where a value is needed: the resolvers of a
host, such as the popular `eval`, never see it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gdexp.config.refusal import Refusal

LARGEST = 1 << 20  # bytes of a text that is read from a record
_VARIABLE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)\s*(?:,([^${}]*))?\}")
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?|[-+]?\.inf|\.nan", re.I)


def as_yaml(config: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return plain containers as text."""
    return yaml.dump(config, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def scalar_as_yaml(value: object) -> str:
    """Return a value that is no container as it stands in such a text.

    >>> scalar_as_yaml(1e-5), scalar_as_yaml(3), scalar_as_yaml("3")
    ('1.0e-05', '3', "'3'")
    """
    if type(value) in (int, float):  # which are written plainly: no need for a document around each of many
        return str(yaml.representer.SafeRepresenter().represent_data(value).value)
    return as_yaml([value])[2:-1]


def from_yaml(text: str, what: str) -> dict[str, Any]:
    """Read a config, with its interpolations as they stand.

    Args:
        text: of the file.
        what: it is, for messages.

    Raises:
        Refusal: it isn't a mapping of plain values, or too large, or has aliases, which may stand for gigabytes.
    """
    if len(text) > LARGEST:
        raise Refusal(f"{what} is damaged: it is larger than {LARGEST} bytes")
    try:
        found = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or type(error).__name__
        raise Refusal(f"{what} is damaged: it can't be read as YAML: {reason}") from error
    if not isinstance(found, dict) or not _is_plain(found):
        raise Refusal(f"{what} is damaged: it is no mapping of plain values")
    return found


def with_environment(node: Any, key: str = "") -> Any:
    """Return a node with the values of the environment variables that it names.

    Args:
        node: in plain containers.
        key: where it stands.

    Raises:
        Refusal: a variable isn't set.
    """
    if isinstance(node, dict):
        return {k: with_environment(v, f"{key}.{k}" if key else str(k)) for k, v in node.items()}
    if isinstance(node, list):
        return [with_environment(v, f"{key}[{i}]") for i, v in enumerate(node)]
    if not isinstance(node, str) or "${oc.env:" not in node:
        return node
    whole = _VARIABLE.fullmatch(node)
    return _value(whole, key) if whole else _VARIABLE.sub(lambda found: str(_value(found, key)), node)


def _value(found: re.Match[str], key: str) -> str | None:
    name, default = found[1], found[2]
    if name in os.environ or default is None:
        if name not in os.environ:
            raise Refusal(f"`{key}` comes from the environment variable {name}, which is not set: {name}=… before it")
        return os.environ[name]
    plain = default.strip()
    if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\"":
        return plain[1:-1]
    return None if plain == "null" else plain


def _is_plain(node: Any) -> bool:
    if isinstance(node, dict):
        return all(isinstance(k, (str, int, float, bool)) for k in node) and all(map(_is_plain, node.values()))
    if isinstance(node, list):
        return all(map(_is_plain, node))
    return node is None or isinstance(node, (str, int, float, bool))


class _Loader(yaml.SafeLoader):
    """Reads plain values as OmegaConf does, and neither aliases nor a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(problem="it has aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(node.value):
            raise yaml.constructor.ConstructorError(problem="a key is given twice")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads back as it was."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER = re.compile(rf"^(?:{_FLOAT.pattern})$", re.IGNORECASE)
for _side in (_Loader, _Dumper):  # numbers such as 1e-3 are numbers, and dates are text
    _side.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":float"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
