"""A user's own CSV or Parquet file."""

from collections.abc import Sequence
from typing import Literal

from gdexp.data import TensorData
from gdexp.data.columns import group_numbers, settle
from gdexp.data.dialect import Dialect
from gdexp.data.gaps import Filling, complete
from gdexp.data.roles import Roles, choose
from gdexp.data.table_file import read

Name = str | int  # the columns of a file without names are numbered


def table(
    path: str,
    target: Name | Sequence[Name],
    features: Sequence[Name] | None = None,
    text: Literal["error", "drop", "one_hot"] = "error",
    missing: Literal["refuse", "error", "drop", "mean", "median", "most_frequent"] = "refuse",
    exclude: Sequence[Name] = (),
    categories: Sequence[Name] = (),
    weights: Name | None = None,
    group: Name | None = None,
    test_path: str | None = None,
    separator: str = "comma",
    decimal: str = "point",
    thousands: str | None = None,
    encoding: str = "utf-8",
    na_values: Sequence[str | int | float] | str | int | float | None = None,
    header: Literal["auto"] | bool | int | None = "auto",
    comment: str | None = None,
) -> TensorData:
    """Read a table with one row a case and one named column a feature.

    Args:
        path: a `.csv` (also compressed) or `.parquet` file.
        target: column to predict. Text and booleans make classes, in sorted order; whole numbers
            serve a regression or a classification, as the loss needs; other numbers are continuous.
            Several columns, of numbers, are predicted together.
        features: columns to learn from; None: all others.
        text: what becomes of features that are text: an error, left out, or one column a value.
        missing: what becomes of rows that lack a value: refused (`error` is the same), left out, or
            filled in by the mean, the median or the most frequent value of the training rows; a text
            then by its most frequent value, while rows that lack a target are left out.
        exclude: columns that are left out.
        categories: columns of whole numbers that are texts all the same, as zip codes are.
        weights: column of numbers from 0 on that says how much a row counts.
        group: column whose equal values keep their rows together, with `data.split=grouped`.
        test_path: a second such file with the test rows.
        separator: of the cells of a CSV file; this and the following ones are those of `Dialect`.
        decimal: the decimal point.
        thousands: what stands between each three digits.
        encoding: the encoding of its text.
        na_values: texts or numbers that mean a missing value, beside those that pandas knows.
        header: where the names of its columns are.
        comment: what begins a comment.

    Returns:
        inputs (rows, features), float64; target (rows, targets), float64, or (rows,), int64; where
        there are weights, these (rows,), float64.
    """
    marks = [na_values] if isinstance(na_values, (str, int, float)) else list(na_values or [])
    dialect = Dialect(separator, decimal, thousands, encoding, marks, header, comment)
    roles = Roles(
        targets=_names(target),
        features=None if features is None else _names(features),
        exclude=_names(exclude),
        categories=_names(categories),
        weights=None if weights is None else str(weights),
        group=None if group is None else str(group),
        text=text,
    )
    missing = "refuse" if missing == "error" else missing
    first = read("data.path", path, dialect, roles.categories)
    chosen, left_out = choose(roles, first)
    frame, words = complete(first, chosen, roles.needed, missing)
    columns = settle(roles, chosen, frame)
    about = [words, columns.words, *left_out]
    test = None
    if test_path is not None:
        second = read("data.test_path", test_path, dialect, columns.texts)
        columns.check(second)
        rows, words = complete(second, chosen, roles.needed, missing)
        test = columns.batch(rows, second)
        about += [f"test: {words}", *columns.unknown(rows)]
    return TensorData(
        columns.batch(frame, first),
        test=test,
        classes=None if columns.labels is None else len(columns.labels),
        groups=None if roles.group is None else group_numbers(frame[roles.group]),
        after_split=None if missing in ("refuse", "drop") else Filling(columns.blocks, missing),
        about=" ".join("; ".join(about).split()),
    )


def _names(value: Name | Sequence[Name]) -> list[str]:
    return [str(value)] if isinstance(value, (str, int)) else [str(name) for name in value]
