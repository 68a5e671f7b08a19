"""Numbers that a table holds as text, because of how they are written."""

import re

import pandas as pd

from gdexp.data.dialect import Dialect, character, override

# how numbers are written, with the words that read them so; the first that fits all of a column counts
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS_COMMA = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_THOUSANDS_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?")
_NO_WORD = re.compile(r"[\W_]+")  # as ?, -- or *
_FEW, _MANY = 2, 10  # words among so many different numbers are no names of classes
_SAMPLE = 1000  # values, none of which is a number in a column of text
_SHOWN = 40  # characters of a value in a message


def misread(name: str, column: pd.Series, dialect: Dialect) -> str:
    """Return what is wrong with a column of text that is one of numbers but for how they are written."""
    values = column.dropna().astype(str)
    some = values[:_SAMPLE]
    if written(some, dialect.separator) is None and pd.to_numeric(some, errors="coerce").isna().all():
        return ""
    odd = values[_as_read(values, dialect).isna()]
    if odd.empty:
        return ""
    style = (written(values, dialect.separator) or {}).items()
    told = [override(k, v) for k, v in style if character(v) != character(getattr(dialect, k))]
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


def written(values: pd.Series, separator: str) -> dict[str, str] | None:
    """Return the keys that read texts as numbers, none of plain ones; None if they aren't numbers."""
    texts = [text for v in values.dropna() if not _NO_WORD.fullmatch(text := str(v).strip()) and text]
    odd = [text for text in texts if not _PLAIN.fullmatch(text)]
    if not odd:
        return {} if texts else None
    thousands = all(map(_THOUSANDS_COMMA.fullmatch, odd))
    if all(map(_DECIMAL_COMMA.fullmatch, texts)) and not (thousands and character(separator) == ","):
        return {"decimal": "comma"}
    if thousands:
        return {"thousands": "comma"}
    grouped = [_THOUSANDS_POINT.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text) for text in texts]
    return {"decimal": "comma", "thousands": "point"} if all(grouped) else None


def _as_read(texts: pd.Series, dialect: Dialect) -> pd.Series:
    """Return the numbers that texts are in a dialect, NaN where they are none."""
    told = dialect.arguments()
    for mark, point in ((told["thousands"], ""), (told["decimal"], ".")):
        if mark is not None and mark != point:
            texts = texts.str.replace(mark, point, regex=False)
    return pd.to_numeric(texts, errors="coerce")
