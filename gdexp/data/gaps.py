"""Rows that lack a value: refused, left out, or filled in by what the training rows hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from gdexp.config.refusal import Refusal
from gdexp.data import TensorData, Weighted
from gdexp.data.dialect import override
from gdexp.data.table_file import Source

_SHOWN = 5  # columns in a list of them


class Block(NamedTuple):
    """Where a feature stands among the columns of the inputs.

    Args:
        name: in the file.
        start: its first column.
        stop: behind its last one; a text has a column for each of its values.
        text: whether it is one.
    """

    name: str
    start: int
    stop: int
    text: bool


def complete(source: Source, features: Sequence[str], needed: Sequence[str], missing: str) -> tuple[pd.DataFrame, str]:
    """Return those rows of a file that are used, and in words how many there are and what the others lack.

    Args:
        source: the file.
        features: columns that may be filled in.
        needed: columns that each row must have.
        missing: the key `data.missing`.

    Raises:
        ValueError: a row lacks a value that it must have, or all do.
    """
    frame = source.frame[[*features, *needed]]
    gaps = frame.isna()
    lacking = gaps.any(axis=1)
    if missing == "refuse" and lacking.any():
        column = next(c for c in frame.columns if gaps[c].any())
        fills_in = ", data.missing=mean fills them in" if column in features else ""
        raise ValueError(
            f"`{source.key}`: {int(lacking.sum())} of {len(frame)} rows lack a value, the first is row "
            f"{int(lacking.to_numpy().argmax()) + 1} (column {column!r}): data.missing=drop leaves them out{fills_in}"
        )
    fills = missing not in ("refuse", "drop")
    decisive = gaps[list(needed)] if fills else gaps
    away = decisive.any(axis=1)
    counts = decisive.sum().sort_values(ascending=False, kind="stable")
    lack = _listed([(int(n), str(c)) for c, n in counts.items() if n], "{} lack {}", "{} {}")
    if away.all():
        raise ValueError(
            f"`{source.key}`: every row of {source.path} lacks a value: {lack}; data.exclude=[…] leaves a column out"
        )
    count = f"{len(frame)} row{'s' * (len(frame) != 1)}"
    words = f"{int((~away).sum())} of {count}: {lack}" if away.any() else count
    left = gaps.loc[~away, list(features)].sum()
    if fills and left.any():
        filled = [(int(n), str(c)) for c, n in left.sort_values(ascending=False, kind="stable").items() if n]
        words += f"; {_listed(filled, '{} of {}', '{} of {}')} filled in ({missing.replace('_', ' ')})"
    return frame[~away], words


def _listed(counts: Sequence[tuple[int, str]], first: str, further: str) -> str:
    shown = [(further if i else first).format(*count) for i, count in enumerate(counts)]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more columns" if len(shown) > _SHOWN else "")


class Filling:
    """Fills NaN in inputs by a statistic of the training rows; of a text always by its most frequent value.

    Args:
        blocks: of the features, in order.
        how: mean, median or most_frequent, the least of equally frequent ones, as scikit-learn's SimpleImputer.
    """

    def __init__(self, blocks: Sequence[Block], how: str) -> None:
        self._blocks, self._how = blocks, how

    def __call__(self, data: TensorData) -> TensorData:
        """Return data in which no input is missing."""
        train = data.train[0].numpy()
        fills = torch.from_numpy(np.concatenate([self._fill(b, train[:, b.start : b.stop]) for b in self._blocks]))

        def filled(batch: Any) -> Any:
            if batch is None:
                return None
            x = torch.where(batch[0].isnan(), fills, batch[0])
            return batch._replace(inputs=x) if isinstance(batch, Weighted) else (x, *batch[1:])

        return data._replace(train=filled(data.train), val=filled(data.val), test=filled(data.test))

    def _fill(self, block: Block, columns: np.ndarray) -> np.ndarray:
        there = columns[~np.isnan(columns).any(axis=1)]
        if len(there) == 0:
            raise Refusal(
                f"`data.missing={self._how}`: no training row has a value of {block.name!r}; "
                f"{override('exclude', [block.name])} leaves the column out"
            )
        if block.text:
            return np.eye(columns.shape[1])[there.sum(axis=0).argmax()]
        if self._how == "most_frequent":
            values, counts = np.unique(there, return_counts=True)
            return values[[counts.argmax()]]
        return np.atleast_1d(np.mean(there) if self._how == "mean" else np.median(there))
