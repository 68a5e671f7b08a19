"""What each column of a table is for."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from gdexp.config.refusal import nearest
from gdexp.data.advice import line_of_names
from gdexp.data.dialect import override
from gdexp.data.numerals import misread
from gdexp.data.split import too_many_classes
from gdexp.data.table_file import Source, is_number, unneeded


class Roles(NamedTuple):
    """What the keys of `data` say that columns are for.

    Args:
        targets: to predict.
        features: to learn from; None: all others.
        exclude: left out.
        categories: whole numbers that are texts all the same.
        weights: how much a row counts.
        group: what keeps rows together.
        text: what becomes of features that are text: error, drop or one_hot.
    """

    targets: list[str]
    features: list[str] | None
    exclude: list[str]
    categories: list[str]
    weights: str | None
    group: str | None
    text: str

    @property
    def needed(self) -> list[str]:
        """The columns beside the features."""
        return [*self.targets, *(name for name in (self.weights, self.group) if name is not None)]


def choose(roles: Roles, source: Source) -> tuple[list[str], list[str]]:
    """Return the features among the columns of a file, and in words which columns are left out.

    Raises:
        ValueError: a key names no column, or one that can't be what it says.
    """
    _check_names(roles, source)
    frame, notes = source.frame, []
    if roles.features is not None:
        features = roles.features
    else:
        idle = {name: what for name, what in unneeded(frame).items() if name not in roles.needed}
        away = {*roles.needed, *roles.exclude, *idle}
        features = [name for name in frame.columns if name not in away]
        notes = [f"left out: {name}, which has no name and {what}" for name, what in idle.items()]
    notes += [source.note] if source.note else []
    weights = [roles.weights] if roles.weights is not None else []
    check_numbers(roles, source, [*features, *roles.targets, *weights])
    _check_classes(roles, frame)
    texts = [name for name in features if name not in roles.categories and not is_number(frame[name])]
    if texts and roles.text == "error":
        raise ValueError(
            f"`{source.key}`: column {texts[0]!r} holds text ({example(frame[texts[0]])}): data.text=one_hot or "
            f"data.text=drop, or leave it out by {override('exclude', [*roles.exclude, texts[0]])}"
        )
    if texts and roles.text == "drop":
        features = [name for name in features if name not in texts]
        notes.append(f"left out as text: {', '.join(texts)}")
    if not features:
        told = "".join(f" ({note})" for note in notes)
        raise ValueError(f"`data.features`: no column is left beside the target {', '.join(roles.targets)!r}{told}")
    return features, notes


def check_numbers(roles: Roles, source: Source, names: Iterable[str]) -> None:
    """Refuse columns of numbers that aren't read as such."""
    for name in names:
        column = source.frame[name]
        if (
            name not in roles.categories
            and not is_number(column)
            and (line := misread(name, column, source.dialect, roles.categories))
        ):
            away = "" if name in roles.needed else f", or leave it out by {override('exclude', [*roles.exclude, name])}"
            raise ValueError(f"`{source.key}`: {line}{away}")


def _check_classes(roles: Roles, frame: pd.DataFrame) -> None:
    """Refuse a target of texts nearly all of which are different, which make no classes."""
    name = roles.targets[0]
    if len(roles.targets) > 1 or name in roles.categories or is_number(frame[name]):
        return
    values = frame[name].dropna()
    different = values.nunique()
    if too_many_classes(different, len(values)):
        raise ValueError(
            f"`data.target`: {name!r} holds {different} different texts in {len(values)} rows ({example(values)}), too "
            f"many for classes: name another column, or add {override('categories', [*roles.categories, name])} if "
            "they are classes all the same"
        )


def example(column: pd.Series) -> str:
    """Return a value of a text, one that is no number if there is one."""
    values = column.dropna().astype(str)
    words = values[pd.to_numeric(values, errors="coerce").isna()]
    return repr(str(next(iter([*words[:1], *values[:1]]), ""))[:40])


def _check_names(roles: Roles, source: Source) -> None:
    named = {
        "data.target": roles.targets,
        "data.features": roles.features or [],
        "data.exclude": roles.exclude,
        "data.categories": roles.categories,
        "data.weights": [roles.weights] if roles.weights is not None else [],
        "data.group": [roles.group] if roles.group is not None else [],
    }
    for key, names in named.items():
        check_columns(key, names, source)
        if len(set(names)) < len(names):
            raise ValueError(f"`{key}` must name each column once, got {names}")
    if not roles.targets:
        raise ValueError("`data.target` must name a column")
    features = roles.features
    if features is not None and (not features or {*roles.targets, roles.weights, *roles.exclude} & {*features}):
        raise ValueError(
            f"`data.features` must name columns other than those of target, weights and exclude, got {features}"
        )
    parts = [*roles.needed, *roles.exclude]
    if twice := [name for name in parts if parts.count(name) > 1]:
        raise ValueError(f"`data.target`, data.weights, data.group and data.exclude can't share a column: {twice[0]!r}")


def check_columns(key: str, names: Iterable[str], source: Source) -> None:
    """Refuse names that no column of a file has, or that two have."""
    for name in names:
        if name not in source.frame.columns:
            lines = line_of_names(source.path, source.dialect, name)
            where = f" in its first line, but below it: add data.header={lines}" if lines else ""
            where = where or nearest(name, source.frame.columns)
            raise ValueError(f"`{key}`: {source.path} has no column {name!r}{where}")
        if name in source.doubled and key != "data.exclude":
            raise ValueError(
                f"`{key}`: {source.path} has two columns named {name!r}; the second is called {name + '.1'!r} here"
            )
