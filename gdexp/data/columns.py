"""The columns of a table as numbers, by the values of the first file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gdexp.data import Weighted
from gdexp.data.gaps import Block
from gdexp.data.roles import Roles, check_columns, check_numbers, example
from gdexp.data.table_file import Source, is_number

_SHOWN = 5  # texts in a list of them
_LARGEST = np.iinfo(np.int64).max


class Encoding(NamedTuple):
    """How the columns of a table become numbers.

    Args:
        roles: of the columns.
        numbers: features that are numbers.
        values: those that are texts, with the values that have a column each.
        labels: of the target's classes, in order; None: it is a number.
        whole: whether that is always a whole number.
    """

    roles: Roles
    numbers: list[str]
    values: dict[str, list[str]]
    labels: list[Any] | None
    whole: bool

    @property
    def texts(self) -> list[str]:
        """The columns that are texts in every file, whatever they look like there."""
        of_target = self.labels is not None and isinstance(self.labels[0], str)
        return [*self.values, *(self.roles.targets if of_target else [])]

    @property
    def blocks(self) -> list[Block]:
        """Where each feature stands among the columns of the inputs."""
        blocks = [Block(name, i, i + 1, text=False) for i, name in enumerate(self.numbers)]
        for name, values in self.values.items():
            start = blocks[-1].stop if blocks else 0
            blocks.append(Block(name, start, start + len(values), text=True))
        return blocks

    @property
    def words(self) -> str:
        """How many columns the inputs have, and which texts have most of them."""
        widths = sorted(((len(values), name) for name, values in self.values.items()), key=lambda w: -w[0])
        whole = len(self.numbers) + sum(width for width, _ in widths)
        shown = [f"{width} of them from {name}" for width, name in widths[:1]]
        shown += [f"{width} from {name}" for width, name in widths[1:_SHOWN]]
        return ", ".join([f"{whole} column{'s' * (whole != 1)}", *shown])

    def check(self, source: Source) -> None:
        """Refuse a second file whose columns aren't those of the first."""
        names = [*self.numbers, *self.values, *self.roles.needed]
        check_columns(source.key, names, source)
        check_numbers(self.roles, source, self.numbers)
        texts = [name for name in self.numbers if not is_number(source.frame[name])]
        if self.labels is None:
            texts += [name for name in self.roles.targets if not is_number(source.frame[name])]
        if texts:
            shown = example(source.frame[texts[0]])
            raise ValueError(f"`{source.key}`: column {texts[0]!r} holds text ({shown}), in the first file numbers")

    def unknown(self, frame: pd.DataFrame) -> list[str]:
        """Return in words how many rows of a second file hold texts that the first file lacks."""
        counts = {n: int((~frame[n].isin(v) & frame[n].notna()).sum()) for n, v in self.values.items()}
        return [
            f"{count} of these have a {name} that is in none of the others" for name, count in counts.items() if count
        ]

    def batch(self, frame: pd.DataFrame, source: Source) -> Any:
        """Return inputs, target and, if there are any, weights of the rows of a file.

        Args:
            frame: the rows that are used.
            source: the file.
        """
        blocks = self.blocks
        x = np.zeros((blocks[-1].stop, len(frame))).T  # column by column in memory, as pandas gives a table
        x[:, : len(self.numbers)] = _finite("the features", source, frame[self.numbers])
        for block in blocks[len(self.numbers) :]:
            _one_hot(x[:, block.start : block.stop], frame[block.name], self.values[block.name])
        inputs, target = torch.from_numpy(x), self._target(frame, source)
        if self.roles.weights is None:
            return inputs, target
        return Weighted(inputs, target, _weights(frame[self.roles.weights], source))

    def _target(self, frame: pd.DataFrame, source: Source) -> Tensor:
        targets = frame[self.roles.targets]
        column = targets.iloc[:, 0]
        if self.labels is not None:
            codes = _places(column, self.labels)
            if (codes < 0).any():
                odd = column[codes < 0].iloc[0]
                raise ValueError(f"`{source.key}`: {odd!r} in {column.name!r} is no class of the first file")
            return torch.from_numpy(codes.astype(np.int64))
        if self.whole and pd.api.types.is_integer_dtype(column) and column.max() <= _LARGEST:
            return torch.from_numpy(column.to_numpy(dtype=np.int64, copy=True))
        numbers = _finite(f"the target {', '.join(self.roles.targets)!r}", source, targets)
        if len(self.roles.targets) > 1:
            return torch.from_numpy(np.ascontiguousarray(numbers))
        if not self.whole:
            return torch.from_numpy(numbers[:, 0].copy())[:, None]
        if (numbers != numbers.round()).any():
            raise ValueError(f"`{source.key}`: {column.name!r} holds fractions, in the first file whole numbers only")
        return torch.from_numpy(numbers[:, 0].astype(np.int64))


def settle(roles: Roles, features: Sequence[str], frame: pd.DataFrame) -> Encoding:
    """Settle how columns become numbers.

    Args:
        roles: of the columns.
        features: chosen among them.
        frame: the rows of the first file that are used.
    """
    texts = [name for name in features if name in roles.categories or not is_number(frame[name])]
    for name in roles.categories:
        if name in frame:
            _check_whole(frame[name])
    target = frame[roles.targets[0]]
    labels = None
    if len(roles.targets) > 1:
        if odd := [name for name in roles.targets if not is_number(frame[name])]:
            raise ValueError(f"`data.target`: several targets must be numbers, {odd[0]!r} holds text")
    elif pd.api.types.is_bool_dtype(target) or not is_number(target):
        labels = _in_order(target) if not is_number(target) else sorted(target.dropna().unique())
        if len(labels) < 2:
            raise ValueError(f"`data.target`: {target.name!r} has one class only: {labels[0]!r}")
    values = {name: _in_order(frame[name]) for name in texts}
    whole = len(roles.targets) == 1 and pd.api.types.is_integer_dtype(target) and target.max() <= _LARGEST
    return Encoding(roles, [name for name in features if name not in texts], values, labels, whole)


def _in_order(column: pd.Series) -> list[str]:
    """Return the values of a text in order: numbers by size, as of zip codes, then others by their letters."""
    values = list(map(str, column.dropna().unique()))
    sizes = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").fillna(np.inf)
    return [value for _, value in sorted(zip(sizes, values, strict=True))]


def _check_whole(column: pd.Series) -> None:
    values = pd.to_numeric(column.dropna(), errors="coerce")
    odd = column.dropna()[(values != values.round()) & values.notna()]
    if not odd.empty:
        raise ValueError(f"`data.categories`: {column.name!r} holds {odd.iloc[0]}, which is no whole number")


def group_numbers(column: pd.Series) -> Tensor:
    """Return a number for each group, in their order."""
    return torch.from_numpy(pd.factorize(column, sort=True)[0].astype(np.int64))


def _places(column: pd.Series, values: Sequence[Any]) -> np.ndarray:
    """Return the place of each row's value among some values, -1 where it is none of them or missing."""
    codes, found = pd.factorize(column)
    places = pd.Index(values, dtype=object).get_indexer(pd.Index(found, dtype=object))
    return np.append(places, -1)[codes]


def _one_hot(x: np.ndarray, column: pd.Series, values: Sequence[str]) -> None:
    """Mark each row's value in (rows, values) zeros; a missing one is NaN, one that the first file lacks is nowhere."""
    places = _places(column, values)
    known = (places >= 0).nonzero()[0]
    x[known, places[known]] = 1.0
    x[column.isna().to_numpy()] = np.nan


def _finite(what: str, source: Source, frame: pd.DataFrame) -> np.ndarray:
    numbers = frame.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    if (infinite := np.isinf(numbers)).any():
        row, column = (int(i) for i in np.argwhere(infinite)[0])
        raise ValueError(
            f"`{source.key}`: {what} hold{'' if what.endswith('s') else 's'} infinite values, the first in row "
            f"{int(frame.index[row]) + 1} (column {str(frame.columns[column])!r})"
        )
    return numbers


def _weights(column: pd.Series, source: Source) -> Tensor:
    if not is_number(column):
        raise ValueError(f"`data.weights`: {column.name!r} in {source.path} holds text, not numbers")
    weights = _finite("the weights", source, column.to_frame())[:, 0]
    if (weights < 0).any() or not (weights > 0).any():
        raise ValueError(f"`data.weights`: {column.name!r} in {source.path} must hold numbers from 0 on, not all 0")
    return torch.from_numpy(weights)
