"""The words of a command line that read a CSV file which isn't written as usual."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gdexp.data.dialect import CHARACTERS, Dialect, character, override
from gdexp.data.numerals import written

_SEPARATORS = ("comma", "semicolon", "tab", "pipe")
_COMMENTS = ("hash", "percent")
_AS_IT_STANDS = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
_MOST_LINES = 20  # above the header, as a title or notes
_START = 4096  # bytes, some of which are 0 where a file holds no text
_COMPRESSED = {".gz", ".bz2", ".zip", ".xz", ".zst", ".tar"}  # which pandas reads
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Table(NamedTuple):
    """A file as it could be read.

    Args:
        separator: between its cells.
        above: how many lines stand above its names, or above its rows where it has no names.
        named: whether it has names.
        rows: the first ones, as text, names included.
    """

    separator: str
    above: int
    named: bool
    rows: pd.DataFrame


def advice(path: str, dialect: Dialect) -> str:
    """Return the words that read a file which can't be read as it is told, empty if none are known."""
    encoding = _encoding(path, dialect.encoding)
    if encoding is None or (found := _found(path, dialect, encoding)) is None:
        return ""
    comment = dialect.comment
    if not found.named and (comment := _comment(path, encoding, found.above)) is None:
        return ""
    cells = found.rows[1:] if found.named else found.rows
    style = next(filter(None, (written(cells[c], found.separator) for c in cells)), {})
    told = {
        "encoding": (encoding, dialect.encoding),
        "separator": (found.separator, dialect.separator),
        "comment": (comment, dialect.comment),
        "header": (found.above if found.named else False, dialect.header if not found.named else 0),
        "decimal": (style.get("decimal", dialect.decimal), dialect.decimal),
        "thousands": (style.get("thousands", dialect.thousands), dialect.thousands),
    }
    return " ".join(override(key, value) for key, (value, now) in told.items() if character(value) != character(now))


def no_text(path: str, encoding: str) -> str:
    """Return what to do with a file that holds no text as it is read, empty if it does."""
    with Path(path).open("rb") as file:
        start = file.read(_START)
    if encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32")) or start[:2] in _UTF16:
        return ""
    if Path(path).suffix in _COMPRESSED or b"\0" not in start:
        return ""
    if 0 not in start[::2] and set(start[1::2]) == {0}:
        return f"holds text of another encoding: add {override('encoding', 'utf-16-le')}"
    return "holds no text: data=table reads CSV and Parquet files; save it as one, or bring it by data=custom"


def line_of_names(path: str, dialect: Dialect, name: str) -> int | None:
    """Return how many lines stand above one that holds the name of a column, None if there is none."""
    if not dialect.has_names:
        return None
    for above in range(1, _MOST_LINES):
        try:
            line = pd.read_csv(path, **(dialect.arguments() | _AS_IT_STANDS | {"skiprows": above, "nrows": 1}))
        except Exception:  # the file ends
            return None
        if name in line.iloc[0].astype(str).str.strip().tolist():
            return above
    return None


def holds_separators(names: Sequence[str], dialect: Dialect) -> bool:
    """Say whether names hold what separates the cells of other files."""
    own = dialect.arguments()["sep"]
    return any(CHARACTERS[s] in name for s in _SEPARATORS for name in names if CHARACTERS[s] != own)


def looks_like_rows(frame: pd.DataFrame, dialect: Dialect) -> bool:
    """Say whether the names of a table are rather the first of its rows.

    So they are if all columns of numbers have a number as name, but for a sequence such as years; without
    columns of numbers, if each name is a value in its column too.
    """
    kinds = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    point = str(dialect.arguments()["decimal"])
    numbers = [_as_number(str(name), point) for name, kind in zip(frame.columns, kinds, strict=True) if kind]
    texts = [i for i, kind in enumerate(kinds) if not kind]
    if not numbers:
        return len(texts) > 1 and len(frame) > 1 and all(_holds_its_name(frame, i) for i in texts)
    known = [n for n in numbers if n is not None]
    if not known or any(np.isnan(known)):
        return False
    steps = np.diff(known)
    counts = np.allclose(steps, steps[:1]) and bool(all(steps != 0))
    if not counts:
        return True
    return len(known) < 3 and (not texts or any(_holds_its_name(frame, i) for i in texts))


def _holds_its_name(frame: pd.DataFrame, place: int) -> bool:
    return bool((frame.iloc[:, place] == frame.columns[place]).any())


def _found(path: str, dialect: Dialect, encoding: str) -> _Table | None:
    """Return the first table of several columns in a file, with the separator that makes most columns of numbers."""
    for above in range(_MOST_LINES):
        separators = dict.fromkeys([dialect.separator, *_SEPARATORS])
        if there := [t for s in separators if (t := _peeked(path, s, encoding, above)) is not None]:
            return max(there, key=_columns)  # the first of equals
    return _peeked(path, "spaces", encoding, 0)


def _columns(table: _Table) -> tuple[int, int]:
    """Return how many columns of a table hold numbers, and how many it has."""
    numbers = [written(table.rows[c][1:], table.separator) is not None for c in table.rows]
    return sum(numbers), table.rows.shape[1]


def _comment(path: str, encoding: str, lines: int) -> str | None:
    """Return what begins each of the first lines of a file as comments, None if they are none."""
    with Path(path).open(encoding=encoding) as file:
        first = [next(file).lstrip() for _ in range(lines)]
    starts = {line[0] for line in first if line}
    return next((name for name in _COMMENTS if starts == {CHARACTERS[name]}), None)


def _encoding(path: str, given: str) -> str | None:
    """Return the encoding that reads a file, None if it is no text."""
    with Path(path).open("rb") as file:
        start = file.read(2)
    for encoding in ["utf-16"] if start in _UTF16 else [given, "utf-8", "cp1252", "latin-1"]:
        try:
            lines = pd.read_csv(
                path,
                encoding=encoding,
                header=None,
                dtype=str,
                sep="\x01",
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                on_bad_lines="skip",
            )
        except (UnicodeError, LookupError):
            continue
        except Exception:
            return None
        return None if lines[0].str.contains("\0", regex=False).any() else encoding
    return None


def _peeked(path: str, separator: str, encoding: str, above: int) -> _Table | None:
    """Return the first rows of a file as text, None if they don't make a table of several columns."""
    try:
        table = pd.read_csv(
            path,
            sep=character(separator),
            encoding=encoding,
            header=None,
            skiprows=above,
            nrows=100,
            dtype=str,
            skipinitialspace=True,
        )
    except Exception:  # not so, then
        return None
    if table.shape[1] < 2 or table.iloc[:, -2:].notna().any(axis=1).mean() <= 0.5:
        return None
    is_row = bool(pd.to_numeric(table.iloc[0], errors="coerce").notna().any())
    if above and len(table) < 2:
        return None
    return _Table(separator, above, named=not (above and is_row), rows=table)


def _as_number(name: str, point: str) -> float | None:
    """Return the number that a name is, None of a name that is missing, NaN of any other."""
    if name.startswith("Unnamed: "):
        return None
    for text in (name, re.sub(r"\.\d+$", "", name)):  # pandas numbers the second of two equal names
        try:
            number = float(text.replace(point, "."))
        except ValueError:
            continue
        return number if math.isfinite(number) else float("nan")
    return float("nan")
