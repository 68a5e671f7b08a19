"""Numbers that a table holds as text, because of how they are written."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import pandas as pd

from gdexp.data.dialect import CHARACTERS, Dialect, character, override

# how numbers are written, with the words that read them so; the first that fits all of a column counts
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS_COMMA = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_THOUSANDS_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?")
_ALIKE = {" ": r"\s", "'": "['’]"}  # what is printed alike: spaces that don't break, the curved apostrophe
_SPACED = {
    name: re.compile(rf"[+-]?[1-9]\d{{0,2}}({_ALIKE[CHARACTERS[name]]}\d{{3}})+([.,]\d*)?")
    for name in ("space", "apostrophe")
}
# a number with what stands around it; letters right before the digits would make it a name, as C85
_WITHIN = re.compile(
    r"((?:[^\d,]*[^\w.,-])?)[-+−(]?\s*"
    r"((?:[1-9]\d{0,2}(?:[\s.,'’_]\d{2,3})*[\s.,'’_]\d{3}|\d+|(?=[.,]\d))(?:[.,]\d*)?(?:[eE][-+−]?\d+)?)"
    r"\s*((?:[^\d.,\s].*)?)"
)
_NO_WORD = re.compile(r"[\W_]+")  # as ?, -- or *
_FEW, _MANY = 2, 10  # words among so many different numbers are no names of classes
_NEARLY_ALL = 0.9
_SAMPLE = 1000  # values, none of which is a number in a column of text
_SHOWN = 40  # characters of a value in a message


def misread(name: str, column: pd.Series, dialect: Dialect, categories: Sequence[str] = ()) -> str:
    """Return what is wrong with a column of text that is one of numbers but for how they are written.

    Args:
        name: of the column.
        column: its texts.
        dialect: as the file was read.
        categories: other columns whose numbers are texts, for the words that read the file.
    """
    values = column.dropna().astype(str)
    some = values[:_SAMPLE]
    as_texts = f"{override('categories', [*categories, name])} if it holds texts"
    if written(some, dialect.separator) is None and pd.to_numeric(some, errors="coerce").isna().all():
        return _with_signs(name, values, as_texts)
    odd = values[as_read(values, dialect).isna()]
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
        return _with_signs(name, values, as_texts)
    lacking, total = override("na_values", [*dialect.na_values, *marks]), len(column)
    if len(odd) == 1 and odd.index[0] == column.index[-1] and not _NO_WORD.fullmatch(marks[0]):
        rows, cure = f"the last of {total} rows", f"{lacking} data.missing=drop, which leave the row out"
    else:
        rows, cure = f"{len(odd)} of {total} rows", lacking
    return f"column {name!r} holds {marks[0][:_SHOWN]!r} in {rows}, and numbers else: add {cure}, or {as_texts}"


def _with_signs(name: str, values: pd.Series, as_texts: str) -> str:
    """Return what is wrong with texts nearly all of which are a number with one sign or unit, as 10.5% or 3 km."""
    different = [text for v in values.unique()[:_SAMPLE] if not _NO_WORD.fullmatch(text := str(v).strip())]
    within = [(text, m) for text in different if (m := _WITHIN.fullmatch(text.strip(" ()+-−")))]
    if not within or len(within) < _NEARLY_ALL * len(different):
        return ""
    signs = {(m[1].strip(), m[3].strip()) for _, m in within} - {("", "")}
    few = len(different) <= 2 * len(signs) or (_have_words(b + a for b, a in signs) and len(different) <= _MANY)
    whole = all(m[2].isdecimal() for _, m in within)
    if len(signs) > _FEW or (whole and (few or _have_words(before for before, _ in signs))):
        return ""  # rather classes, such as 36 months and 60 months, or room 12
    shown, found = next((pair for pair in within if not _PLAIN.fullmatch(pair[0])), within[0])
    sign = (found[1] + found[3]).strip(" (")
    how = f"with {sign!r} beside them" if sign else "in this way"
    return (
        f"column {name!r} holds numbers such as {shown[:_SHOWN]!r}, and none is read {how}: write plain numbers into "
        f"the file, or add {as_texts}"
    )


def _have_words(signs: Iterable[str]) -> bool:
    """Say whether a sign has letters, and is no currency's as US$ is."""
    plain = [sign for sign in signs if "Sc" not in map(unicodedata.category, sign)]
    return any(letter.isalpha() for letter in "".join(plain))


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
    if all(_THOUSANDS_POINT.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text) for text in texts):
        return {"decimal": "comma", "thousands": "point"}
    for name, grouped in _SPACED.items():
        if all(grouped.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text) for text in odd):
            return {"thousands": name} | ({"decimal": "comma"} if any("," in text for text in odd) else {})
    return None


def as_read(texts: pd.Series, dialect: Dialect) -> pd.Series:
    """Return the numbers that texts are in a dialect, NaN where they are none."""
    told = dialect.arguments()
    for mark, point in ((told["thousands"], ""), (told["decimal"], ".")):
        if mark is not None and mark != point:
            texts = texts.str.replace(_ALIKE.get(mark, re.escape(mark)), point, regex=True)
    return pd.to_numeric(texts, errors="coerce")
