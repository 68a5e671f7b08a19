"""The data of a run: `TensorData` and where it comes from."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Weighted(NamedTuple):
    """A batch whose rows don't all count alike: its mean loss is Σ w·l / Σ w.

    Args:
        inputs: what the model takes.
        target: what the loss compares its output with.
        weights: one number from 0 on for each row, of shape (rows,).
    """

    inputs: Any
    target: Any
    weights: Any


class TensorData(NamedTuple):
    """Training rows and, if they are held apart, validation and test rows.

    Each split is a batch that holds all its rows: a tensor or any nest (tuple, list, dict) of
    tensors whose first dimension is the row. `(inputs, target)` is what a loss needs, or
    `Weighted(inputs, target, weights)`; a model with its own `training_loss` takes any.

    Args:
        train: rows to learn from.
        val: rows to measure on after each epoch.
        test: rows to measure on once, at the end.
        classes: number of classes of an integer target; None: continuous, or integers that may be
            read either way.
        groups: a whole number for each training row, of shape (rows,); with `data.split=grouped`
            the rows of a group stay together.
        after_split: changes the data once rows are held apart, by what the training rows say.
        about: what became of the rows and columns of a file, in one line.
        gap: where a value isn't finite, in words; it is looked for before rows are held apart.
    """

    train: Any
    val: Any = None
    test: Any = None
    classes: int | None = None
    groups: Any = None
    after_split: "Callable[[TensorData], TensorData] | None" = None
    about: str = ""
    gap: str = ""
