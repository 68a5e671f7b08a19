"""A CSV or Parquet file as a table of numbers and texts."""

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gdexp.data.advice import advice, holds_separators, looks_like_rows, no_text
from gdexp.data.dialect import Dialect, override
from gdexp.data.numerals import as_read

_UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)?")  # what pandas calls a column without a name
_ROW_NAMES = "Unnamed: 0"
_SAMPLE = 1000  # cells, among which there is a number if a column holds numbers


class Source(NamedTuple):
    """A file as it was read.

    Args:
        key: of the config that names it.
        path: of the file.
        dialect: as it was read.
        frame: its columns; of numbers, else of text.
        doubled: names that more than one column has.
        note: what is left out of the file.
    """

    key: str
    path: str
    dialect: Dialect
    frame: pd.DataFrame
    doubled: frozenset[str] = frozenset()
    note: str = ""


def read(key: str, path: str, dialect: Dialect, as_text: Collection[str] = ()) -> Source:
    """Read a file.

    Numbers are parsed as pandas does. In a column of text only an empty cell and `na_values` are
    missing, so that NA and None are values there; among numbers they are missing, as usual.

    Args:
        key: of the config that names the file.
        path: of a `.csv` file (also compressed), or one with `.parquet` in its name.
        dialect: how a CSV file is written.
        as_text: columns of numbers that are texts all the same.

    Raises:
        ValueError: in one line, with the words that read the file where there are such.
    """
    if not Path(path).is_file():
        raise ValueError(f"`{key}`: no file {path!r} here ({Path.cwd()})")
    if ".parquet" in Path(path).suffixes:
        source = _read_parquet(key, path, dialect, as_text)
    else:
        source = _read_csv(key, path, dialect, as_text)
    if source.frame.empty:
        raise ValueError(f"`{key}`: {path} has no rows")
    if len(set(source.frame.columns)) < len(source.frame.columns):
        raise ValueError(f"`{key}`: {path} has two columns of one name")
    return source


def unneeded(frame: pd.DataFrame) -> dict[str, str]:
    """Return columns without a name that say nothing, as an index that was saved, and what they hold."""
    found = {}
    for name in frame.columns:
        column = frame[name]
        if not _UNNAMED.fullmatch(name):
            continue
        if column.isna().all():
            found[name] = "is empty"
        elif column.is_unique and not is_number(column):
            found[name] = "names the rows"
        elif column.is_unique and pd.api.types.is_integer_dtype(column):
            found[name] = "counts the rows"
    return found


def is_number(column: pd.Series) -> bool:
    """Say whether a column holds numbers (booleans are 0 and 1)."""
    return pd.api.types.is_numeric_dtype(column)


def _read_parquet(key: str, path: str, dialect: Dialect, as_text: Collection[str]) -> Source:
    usual = Dialect()
    for name in ("separator", "encoding", "header", "comment"):
        if getattr(dialect, name) != getattr(usual, name):
            raise ValueError(f"`data.{name}` is for CSV files, {path} is a Parquet file")
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # whatever pyarrow makes of a file that is no table
        raise ValueError(f"`{key}`: {path} can't be read as a table: {error}") from error
    frame.columns = [str(c).strip() for c in frame.columns]
    for i, name in enumerate(frame.columns):
        column = frame.iloc[:, i]
        if dialect.na_values:
            column = column.mask(column.isin([*dialect.na_values, *map(str, dialect.na_values)]))
        if name in as_text or not _has_numbers(column):
            text = column.astype(str).where(column.notna() & (column != ""))
            column = _typed(column, text, name in as_text, dialect)
        frame.isetitem(i, column)
    return Source(key, path, dialect, frame, note=_about_index(frame.index))


def _about_index(index: pd.Index) -> str:
    """Return in words that the index of a Parquet file is left out, but where it only counts the rows."""
    names = [str(name) for name in index.names if name is not None]
    if not names and (pd.api.types.is_integer_dtype(index) or index.empty):
        return ""
    return f"left out: the index{' ' * bool(names)}{', '.join(names)}, which reset_index() makes columns of"


def _read_csv(key: str, path: str, dialect: Dialect, as_text: Collection[str]) -> Source:
    if words := no_text(path, dialect.encoding):
        raise ValueError(f"`{key}`: {path} {words}")
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # of columns that are text, and read again below
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows have more cells than there are names
        try:
            frame = _parsed(key, path, dialect, names)
        except pd.errors.ParserWarning:
            names["names"] = _names_of_all(key, path, dialect)
            frame = _parsed(key, path, dialect, names)
    frame.columns = [str(c).strip() for c in frame.columns]
    if frame.columns[0] in ("#", "%") and frame.iloc[:, -1].isna().all():
        raise ValueError(
            f"`{key}`: the names in {path} begin with {frame.columns[0]!r}, which is taken for one: take it out of the "
            f"file, or number the columns by {override('comment', frame.columns[0])} data.header=false"
        )
    odd = len(frame.columns) == 1 or holds_separators(list(frame.columns), dialect)
    if odd and (words := advice(path, dialect)):
        count = len(frame.columns)
        raise ValueError(f"`{key}`: {path} has {count} column{'s' * (count != 1)} as it is read: add {words}")
    if dialect.header == "auto" and looks_like_rows(frame, dialect):
        shown = ", ".join(map(str, frame.columns[:3]))
        raise ValueError(
            f"`{key}`: the first line of {path} looks like a row ({shown}…): add data.header=false, which numbers the "
            f"columns from 0 to {len(frame.columns) - 1}, or data.header=true if these are names"
        )
    _read_texts(key, path, dialect, names, frame, as_text)
    return Source(key, path, dialect, frame, _doubled(path, dialect) if dialect.has_names else frozenset())


def _read_texts(
    key: str, path: str, dialect: Dialect, names: dict[str, Any], frame: pd.DataFrame, as_text: Collection[str]
) -> None:
    """Put the texts of a file into those columns of a frame that hold no numbers, or are texts all the same."""
    if frame.empty:
        return
    unclear = frame.iloc[0].isna().to_numpy()  # may lack all numbers
    kinds = enumerate(zip(frame.columns, frame.dtypes, unclear, strict=True))
    places = [
        i
        for i, (name, kind, odd) in kinds
        if name in as_text or not pd.api.types.is_numeric_dtype(kind) or (odd and not _has_numbers(frame.iloc[:, i]))
    ]
    if not places:
        return
    only_empty = {"keep_default_na": False, "na_values": ["", *dialect.na_values]}
    texts = _parsed(key, path, dialect, names | {"dtype": str, "usecols": places} | only_empty)
    for i, place in enumerate(places):
        frame.isetitem(place, _typed(frame.iloc[:, place], texts.iloc[:, i], frame.columns[place] in as_text, dialect))


def _has_numbers(column: pd.Series) -> bool:
    return is_number(column) and bool(column.notna().any())


def _typed(column: pd.Series, text: pd.Series, as_text: bool, dialect: Dialect) -> pd.Series:
    """Return the text of a column, or what else it is: empty, numbers, booleans with gaps.

    Args:
        column: as pandas takes it.
        text: of its cells.
        as_text: numbers are texts too, but for those that are missing.
        dialect: as its numbers are written.
    """
    if column.isna().all():  # empty, or texts such as NA and None
        return text if text.nunique() > 1 else column.astype(float)
    text = text.str.strip().replace("", None)
    if as_text:
        return text.where(column.notna()) if is_number(column) else text
    if pd.api.types.infer_dtype(column, skipna=True) == "boolean":
        return column.astype("boolean")
    if as_read(text[:_SAMPLE], dialect).notna().any():
        numbers = as_read(text, dialect)
        all_read = (numbers.notna() | text.isna()).all()
        if all_read:  # pandas left them as text: too large for its whole numbers, or grouped in a way it can't read
            return numbers if pd.api.types.is_integer_dtype(numbers) else numbers.astype(float)
    return text


def _parsed(key: str, path: str, dialect: Dialect, arguments: dict[str, Any]) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **(dialect.arguments() | arguments))
    except pd.errors.EmptyDataError:
        raise ValueError(f"`{key}`: {path} is empty") from None
    except pd.errors.ParserWarning:
        raise
    except LookupError as error:
        raise ValueError(f"`data.encoding`: {error}") from error
    except Exception as error:  # whatever pandas makes of a file that is no table
        if isinstance(error, ValueError) and str(error).startswith("`data."):
            raise
        words = advice(path, dialect)
        told = f"as it is: add {words}" if words else f"as a table: {' '.join(str(error).split())}"
        raise ValueError(f"`{key}`: {path} can't be read {told}") from error


def _names_of_all(key: str, path: str, dialect: Dialect) -> list[str]:
    """Return names for a file whose rows begin with a cell that has none, as R writes the names of rows."""
    frame = _parsed(key, path, dialect, {"index_col": None})
    first = str(frame.columns[0])
    if frame.index.nlevels == 1 and frame.index.is_unique and not first.startswith("#"):
        return [_ROW_NAMES, *frame.columns]
    words = advice(path, dialect)
    told = f": add {words}" if words else "; data.header=N says that N lines stand above the names"
    cells, count = len(frame.columns) + frame.index.nlevels, len(frame.columns)
    raise ValueError(f"`{key}`: {path} has {cells} cells in a row, but {count} name{'s' * (count != 1)}{told}")


def _doubled(path: str, dialect: Dialect) -> frozenset[str]:
    """Return the names that stand more than once in the line of names, where pandas numbers the others."""
    first: dict[str, Any] = {"header": None, "nrows": 1, "dtype": str, "na_values": [], "keep_default_na": False}
    names = pd.read_csv(path, **(dialect.arguments() | first)).iloc[0].astype(str).str.strip()
    return frozenset(names[names.duplicated() & (names != "")])
