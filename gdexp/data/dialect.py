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
# how numbers are written, with the words that read them so; the first that fits all of a column counts
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS_COMMA = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_THOUSANDS_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?")
_NO_WORD = re.compile(r"[\W_]+")  # as ?, -- or *
_FEW, _MANY = 2, 10  # words among so many different numbers are no names of classes
_SAMPLE = 1000  # values, none of which is a number in a column of text
_SHOWN = 40  # characters of a value in a message


class Dialect(NamedTuple):
    """How a CSV file is written; the keys of `data` with these names.

    Args:
        separator: between cells: a character, its name (`comma`, `semicolon`, `tab`), or `spaces`.
        decimal: point or comma.
        thousands: what stands between each three digits of a number; None: nothing does.
        encoding: as Python names it.
        na_values: further texts that mean a missing value.
        header: true: the first line holds the names; false: there are none, columns are numbered
            from 0; a number: so many lines stand above the names; auto: as true, but a first line
            that looks like a row is refused.
    """

    separator: str = "comma"
    decimal: str = "point"
    thousands: str | None = None
    encoding: str = "utf-8"
    na_values: Sequence[str | float] = ()
    header: Any = "auto"

    def arguments(self) -> dict[str, Any]:
        """Return those of `pandas.read_csv`.

        Raises:
            ValueError: names the key whose value can't be used.
        """
        characters: dict[str, str | None] = {}
        for key in ("separator", "decimal", "thousands"):
            told = getattr(self, key)
            characters[key] = character = _character(told)
            if character is not None and len(character) != 1 and not (key == "separator" and character == r"\s+"):
                raise ValueError(f"`data.{key}` must be one character or its name, as semicolon, got {told!r}")
        return {
            "sep": characters["separator"],
            "decimal": characters["decimal"],
            "thousands": characters["thousands"],
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
    written = next(filter(None, (_written(table[c][1:], separator) for c in table)), {})
    told = {
        "encoding": (encoding, dialect.encoding),
        "separator": (separator, dialect.separator),
        "header": (above, 0),
        "decimal": (written.get("decimal", dialect.decimal), dialect.decimal),
        "thousands": (written.get("thousands", dialect.thousands), dialect.thousands),
    }
    return " ".join(override(key, value) for key, (value, now) in told.items() if _character(value) != _character(now))


def override(key: str, value: Any) -> str:
    """Return the word of a command line that sets a key of `data`."""
    return word(f"data.{key}={typed(value)}")


def _separator(path: str, dialect: Dialect, encoding: str) -> tuple[str, int, pd.DataFrame] | None:
    """Return what separates the cells of a file, how many lines stand above its table, and the first rows."""
    for above in range(_MOST_LINES):
        tables = [(s, _peeked(path, s, encoding, above)) for s in dict.fromkeys([dialect.separator, *_SEPARATORS])]
        if there := [(s, above, table) for s, table in tables if table is not None]:
            return max(there, key=lambda found: _columns(found[2], found[0]))  # the first of equals
    spaced = _peeked(path, "spaces", encoding, 0)
    return None if spaced is None else ("spaces", 0, spaced)


def _columns(table: pd.DataFrame, separator: str) -> tuple[int, int]:
    """Return how many columns of a table hold numbers, and how many it has."""
    numbers = [_written(table[c][1:], separator) is not None for c in table]
    return sum(numbers), table.shape[1]


def holds_separators(names: Sequence[str], dialect: Dialect) -> bool:
    """Say whether names hold what separates the cells of other files."""
    own = dialect.arguments()["sep"]
    return any(CHARACTERS[s] in name for s in _SEPARATORS for name in names if CHARACTERS[s] != own)


def looks_like_rows(frame: pd.DataFrame, dialect: Dialect) -> bool:
    """Say whether the names of a table are rather the first of its rows.

    So they are if all columns of numbers have a number as name, but for a sequence such as years; without
    columns of numbers, if each name is a value in its column too.
    """
    columns = [(str(name), frame.iloc[:, i]) for i, name in enumerate(frame.columns)]
    texts = [(name, column) for name, column in columns if not pd.api.types.is_numeric_dtype(column)]
    point = str(dialect.arguments()["decimal"])
    numbers = [_as_number(name, point) for name, c in columns if pd.api.types.is_numeric_dtype(c) and c.notna().any()]
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
    if _written(some, dialect.separator) is None and pd.to_numeric(some, errors="coerce").isna().all():
        return ""
    odd = values[_as_read(values, dialect).isna()]
    if odd.empty:
        return ""
    written = (_written(values, dialect.separator) or {}).items()
    told = [override(k, v) for k, v in written if _character(v) != _character(getattr(dialect, k))]
    if told:
        shown = next((text for text in odd if not _NO_WORD.fullmatch(text)), odd.iloc[0])
        return f"column {name!r} holds numbers such as {shown!r}: add {' '.join(told)}"
    marks = [str(mark).strip() for mark in odd.unique()]
    numbers = values.nunique() - len(marks)
    rare = len(marks) <= _FEW and numbers >= _MANY and len(odd) < len(values) / 2
    if numbers == 0 or not (rare or all(map(_NO_WORD.fullmatch, marks))):
        return ""
    return (
        f"column {name!r} holds {marks[0][:_SHOWN]!r} in {len(odd)} of {len(column)} rows, and numbers else: add "
        f"{override('na_values', [*dialect.na_values, *marks])}, or {override('categories', [name])} if it holds texts"
    )


def _as_read(texts: pd.Series, dialect: Dialect) -> pd.Series:
    """Return the numbers that texts are in a dialect, NaN where they are none."""
    told = dialect.arguments()
    for character, point in ((told["thousands"], ""), (told["decimal"], ".")):
        if character is not None and character != point:
            texts = texts.str.replace(character, point, regex=False)
    return pd.to_numeric(texts, errors="coerce")


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
            sep=_character(separator),
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


def _written(values: pd.Series, separator: str) -> dict[str, str] | None:
    """Return the keys that read texts as numbers, none of plain ones; None if they aren't numbers."""
    texts = [text for v in values.dropna() if not _NO_WORD.fullmatch(text := str(v).strip()) and text]
    odd = [text for text in texts if not _PLAIN.fullmatch(text)]
    if not odd:
        return {} if texts else None
    thousands = all(map(_THOUSANDS_COMMA.fullmatch, odd))
    if all(map(_DECIMAL_COMMA.fullmatch, texts)) and not (thousands and _character(separator) == ","):
        return {"decimal": "comma"}
    if thousands:
        return {"thousands": "comma"}
    grouped = [_THOUSANDS_POINT.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text) for text in texts]
    return {"decimal": "comma", "thousands": "point"} if all(grouped) else None


def _character(told: Any) -> Any:
    """Return the character that a name means, anything else as it is."""
    return CHARACTERS.get(told, told)


def _as_number(name: str, point: str) -> float | None:
    """Return the number that a name is, None of a name that is missing, NaN of any other."""
    if name.startswith("Unnamed: "):
        return None
    for text in (
        name.replace(point, "."),
        re.sub(r"\.\d+$", "", name).replace(point, "."),
    ):  # pandas numbers the second of two equal names
        try:
            number = float(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else float("nan")
    return float("nan")
