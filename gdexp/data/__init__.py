"""The data of a run: `TensorData` and where it comes from."""

from typing import Any, NamedTuple


class TensorData(NamedTuple):
    """Training rows and, if they are held apart, validation and test rows.

    Each split is a batch that holds all its rows: a tensor or any nest (tuple, list, dict) of
    tensors whose first dimension is the row. `(inputs, target)` is what a loss needs; a model with
    its own `training_loss` takes any.

    Args:
        train: rows to learn from.
        val: rows to measure on after each epoch.
        test: rows to measure on once, at the end.
        classes: number of classes of an integer target; None: continuous, or integers that may be
            read either way.
    """

    train: Any
    val: Any = None
    test: Any = None
    classes: int | None = None
