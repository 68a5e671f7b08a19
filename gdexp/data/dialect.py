"""How a CSV file is written, and which words of the command line read one that isn't written as usual."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gdexp.config.printable import word
from gdexp.config.written import typed

# names for characters that a shell or Hydra would want in quotes
CHARACTERS = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    "\\t": "\t",
    "pipe": "|",
    "spaces": r"\s+",
    "point": ".",
    "dot": ".",
}

_SEPARATORS = ("comma", "semicolon", "tab", "pipe")
_MOST_LINES = 20  # above the header, as a title or notes
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d*,\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_NO_WORD = re.compile(r"[\W_]+")  # as ?, -- or *
_SAMPLE = 1000  # values, none of which is a number in a column of text
_SHOWN = 40  # characters of a value in a message


class Dialect(NamedTuple):
    """How a CSV file is written; the keys of `data` with these names.

    Args:
        separator: between cells: a character, its name (`comma`, `semicolon`, `tab`), or `spaces`.
        decimal: point or comma.
        encoding: as Python names it.
        na_values: further texts that mean a missing value.
        header: true: the first line holds the names; false: there are none, columns are numbered
            from 0; a number: so many lines stand above the names; auto: as true, but a first line
            that looks like a row is refused.
    """

    separator: str = "comma"
    decimal: str = "point"
    encoding: str = "utf-8"
    na_values: Sequence[str | float] = ()
    header: Any = "auto"

    def arguments(self) -> dict[str, Any]:
        """Return those of `pandas.read_csv`.

        Raises:
            ValueError: names the key whose value can't be used.
        """
        separator, decimal = (CHARACTERS.get(c, c) for c in (self.separator, self.decimal))
        for key, value, whole in (("separator", separator, (r"\s+",)), ("decimal", decimal, ())):
            if len(value) != 1 and value not in whole:
                raise ValueError(f"`data.{key}` must be one character or its name, as semicolon, got {value!r}")
        return {
            "sep": separator,
            "decimal": decimal,
            "encoding": self.encoding,
            "na_values": list(self.na_values),
            "header": 0 if self.has_names else None,
            "skiprows": self._lines_above(),
            "skipinitialspace": True,
            "index_col": False,
        }

    @property
    def has_names(self) -> bool:
        """Whether a line holds the names of the columns."""
        return self.header is not None and self.header is not False

    def _lines_above(self) -> int:
        if not self.has_names or self.header is True or self.header == "auto":
            return 0
        if self.header < 0:
            raise ValueError(f"`data.header` must be auto, true, false or a number of lines, got {self.header}")
        return int(self.header)


def advice(path: str, dialect: Dialect) -> str:
    """Return the words that read a file which can't be read as it is told, empty if none are known."""
    encoding = _encoding(path, dialect.encoding)
    if encoding is None:
        return ""
    found = _separator(path, dialect, encoding)
    if found is None:
        return ""
    separator, above, table = found
    commas = separator != "comma" and any(_has_commas(table[c][1:]) for c in table)
    told = {
        "encoding": (encoding, dialect.encoding),
        "separator": (separator, dialect.separator),
        "header": (above, 0),
        "decimal": ("comma" if commas else dialect.decimal, dialect.decimal),
    }
    return " ".join(override(key, value) for key, (value, now) in told.items() if value != now)


def override(key: str, value: Any) -> str:
    """Return the word of a command line that sets a key of `data`."""
    return word(f"data.{key}={typed(value)}")


def _separator(path: str, dialect: Dialect, encoding: str) -> tuple[str, int, pd.DataFrame] | None:
    """Return what separates the cells of a file, how many lines stand above its table, and the first rows."""
    for above in range(_MOST_LINES):
        tables = [(s, _peeked(path, s, encoding, above)) for s in dict.fromkeys([dialect.separator, *_SEPARATORS])]
        if there := [(s, above, table) for s, table in tables if table is not None]:
            return max(there, key=lambda found: found[2].shape[1])  # the first of equals
    spaced = _peeked(path, "spaces", encoding, 0)
    return None if spaced is None else ("spaces", 0, spaced)


def looks_like_rows(frame: pd.DataFrame) -> bool:
    """Say whether the names of a table are rather the first of its rows.

    So they are if all columns of numbers have a number as name, but for a sequence such as years; without
    columns of numbers, if each name is a value in its column too.
    """
    columns = [(str(name), frame.iloc[:, i]) for i, name in enumerate(frame.columns)]
    texts = [(name, column) for name, column in columns if not pd.api.types.is_numeric_dtype(column)]
    numbers = [_as_number(name) for name, c in columns if pd.api.types.is_numeric_dtype(c) and c.notna().any()]
    if not numbers:
        return len(texts) > 1 and len(frame) > 1 and all((column == name).any() for name, column in texts)
    known = [n for n in numbers if n is not None]
    if not known or any(np.isnan(known)):
        return False
    steps = np.diff(known)
    counts = np.allclose(steps, steps[:1]) and bool(all(steps != 0))
    names_texts = texts and not any((column == name).any() for name, column in texts)
    return not (counts and (len(known) > 2 or names_texts))


def misread(name: str, column: pd.Series, dialect: Dialect) -> str:
    """Return what is wrong with a column of text that is one of numbers but for how they are written."""
    values = column.dropna().astype(str)
    some = values[:_SAMPLE]
    if pd.to_numeric(some, errors="coerce").isna().all() and not _has_commas(some):
        return ""
    odd = values[pd.to_numeric(values, errors="coerce").isna()]
    if odd.empty:
        return ""
    if dialect.arguments()["decimal"] == "." and _has_commas(values):
        return f"column {name!r} holds numbers such as {odd.iloc[0]!r}: add data.decimal=comma"
    marks = [str(mark).strip() for mark in odd.unique()]
    if len(odd) == len(values) or not all(map(_NO_WORD.fullmatch, marks)):
        return ""
    return (
        f"column {name!r} holds {marks[0][:_SHOWN]!r} in {len(odd)} of {len(column)} rows, and numbers else: add "
        f"{override('na_values', [*dialect.na_values, *marks])}, or {override('categories', [name])} if it holds texts"
    )


def _encoding(path: str, given: str) -> str | None:
    """Return the encoding that reads a file, None if it is no text."""
    with Path(path).open("rb") as file:
        start = file.read(2)
    for encoding in ["utf-16"] if start in _UTF16 else [given, "cp1252", "latin-1"]:
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


def _peeked(path: str, separator: str, encoding: str, above: int) -> pd.DataFrame | None:
    """Return the first rows of a file as text, None if they don't make a table of several columns."""
    try:
        table = pd.read_csv(
            path,
            sep=CHARACTERS.get(separator, separator),
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
    is_row = pd.to_numeric(table.iloc[0], errors="coerce").notna().any()
    return None if above and (is_row or len(table) < 2) else table


def _has_commas(values: pd.Series) -> bool:
    """Say whether texts are numbers with a decimal comma, at least one of them."""
    texts = [str(v).strip() for v in values.dropna()]
    commas = [t for t in texts if "," in t]
    return bool(commas) and all(map(_DECIMAL_COMMA.fullmatch, texts)) and not all(map(_THOUSANDS.fullmatch, commas))


def _as_number(name: str) -> float | None:
    """Return the number that a name is, None of a name that is missing, NaN of any other."""
    if name.startswith("Unnamed: "):
        return None
    for text in (name, re.sub(r"\.\d+$", "", name)):  # pandas numbers the second of two equal names
        try:
            number = float(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else float("nan")
    return float("nan")
