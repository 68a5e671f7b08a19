"""A user's own CSV or Parquet file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from gdexp.config.refusal import nearest
from gdexp.data import TensorData


def table(
    path: str,
    target: str,
    features: Sequence[str] | None = None,
    text: Literal["error", "drop", "one_hot"] = "error",
    missing: Literal["error", "drop"] = "error",
) -> TensorData:
    """Read a table with one row a case and one named column a feature.

    Args:
        path: a `.csv` (also compressed) or `.parquet` file.
        target: column to predict. Text and booleans make classes, in sorted order; whole numbers
            serve a regression or a classification, as the loss needs; other numbers are continuous.
        features: columns to learn from; None: all others.
        text: what becomes of features that are text: an error, left out, or one column a value.
        missing: what becomes of rows that lack a value: an error, or left out.

    Returns:
        inputs (rows, features), float64; target (rows, 1), float64, or (rows,), int64.
    """
    frame = _read(path)
    frame = frame[[*_features(frame, target, features), target]]
    texts = [c for c in frame.columns[:-1] if not _is_number(frame[c])]
    if texts and text == "error":
        shown = next(iter(frame[texts[0]].dropna()), "")
        raise ValueError(
            f"`data.path`: column {texts[0]!r} holds text ({str(shown)[:40]!r}): data.text=one_hot or data.text=drop, "
            "or name other columns by data.features"
        )
    if text == "drop":
        frame = frame.drop(columns=texts)
    frame = _without_gaps(frame, missing)
    if text == "one_hot":
        frame = pd.get_dummies(frame, columns=texts)
    y = frame.pop(target)
    if frame.shape[1] == 0:
        raise ValueError(f"`data.features`: no column is left beside the target {target!r}")
    x = frame.to_numpy(dtype=np.float64, copy=True)
    if not np.isfinite(x).all():
        raise ValueError("`data.path`: the features hold infinite values")
    return _with_target(torch.from_numpy(x), y)


def _read(path: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise ValueError(f"`data.path`: no file {path!r} here ({Path.cwd()})")
    try:
        read = pd.read_parquet if ".parquet" in Path(path).suffixes else pd.read_csv
        frame = read(path)
    except pd.errors.EmptyDataError:
        raise ValueError(f"`data.path`: {path} is empty") from None
    except Exception as error:  # whatever pandas or pyarrow makes of a file that is no table
        raise ValueError(f"`data.path`: {path} can't be read as a table: {error}") from error
    if frame.empty:
        raise ValueError(f"`data.path`: {path} has no rows")
    frame.columns = [str(c).strip() for c in frame.columns]
    if len(set(frame.columns)) < len(frame.columns):
        raise ValueError(f"`data.path`: {path} has two columns of one name")
    return frame


def _features(frame: pd.DataFrame, target: str, features: Sequence[str] | None) -> list[str]:
    columns = list(frame.columns)
    for key, name in [("data.target", target), *(("data.features", f) for f in features or [])]:
        if name not in columns:
            raise ValueError(f"`{key}`: no column {name!r}{nearest(name, columns)}")
    if features is not None and (target in features or not features or len(set(features)) < len(features)):
        raise ValueError(f"`data.features` must name columns other than the target, each once, got {list(features)}")
    return [c for c in columns if c != target] if features is None else list(features)


def _without_gaps(frame: pd.DataFrame, missing: str) -> pd.DataFrame:
    gaps = frame.isna().any(axis=1)
    if not gaps.any():
        return frame
    if missing == "error":
        column = next(c for c in frame.columns if frame[c].isna().any())
        line = int(gaps.to_numpy().argmax()) + 1
        raise ValueError(
            f"`data.path`: {int(gaps.sum())} of {len(frame)} rows lack a value, the first is row {line} "
            f"(column {column!r}): data.missing=drop leaves them out"
        )
    if gaps.all():
        raise ValueError("`data.path`: every row lacks a value")
    return frame[~gaps]


def _with_target(x: torch.Tensor, y: pd.Series) -> TensorData:
    if pd.api.types.is_bool_dtype(y) or not _is_number(y):
        codes, labels = pd.factorize(y, sort=True)
        if len(labels) < 2:
            raise ValueError(f"`data.target`: {y.name!r} has one class only: {labels[0]!r}")
        return TensorData((x, torch.from_numpy(codes.astype(np.int64))), classes=len(labels))
    if pd.api.types.is_integer_dtype(y):
        return TensorData((x, torch.from_numpy(y.to_numpy(dtype=np.int64, copy=True))))
    values = y.to_numpy(dtype=np.float64, copy=True)
    if not np.isfinite(values).all():
        raise ValueError(f"`data.target`: {y.name!r} holds infinite values")
    return TensorData((x, torch.from_numpy(values)[:, None]))


def _is_number(column: pd.Series) -> bool:
    """Say whether a column holds numbers (booleans are 0 and 1)."""
    return pd.api.types.is_numeric_dtype(column)
