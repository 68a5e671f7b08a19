"""How a CSV file is written."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    "space": " ",
    "apostrophe": "'",
    "hash": "#",
    "percent": "%",
}


class Dialect(NamedTuple):
    """How a CSV file is written; the keys of `data` with these names.

    Args:
        separator: between cells: a character, its name (`comma`, `semicolon`, `tab`), or `spaces`.
        decimal: point or comma.
        thousands: what stands between each three digits of a number; `space` is any of those that
            are printed as one, `apostrophe` the curved one too; None: nothing does.
        encoding: as Python names it.
        na_values: further texts that mean a missing value.
        header: true: the first line holds the names; false: there are none, columns are numbered
            from 0; a number: so many lines stand above the names; auto: as true, but a first line
            that looks like a row is refused.
        comment: what begins a comment, which goes on to the end of its line; None: nothing does.
    """

    separator: str = "comma"
    decimal: str = "point"
    thousands: str | None = None
    encoding: str = "utf-8"
    na_values: Sequence[str | float] = ()
    header: Any = "auto"
    comment: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return those of `pandas.read_csv`.

        Raises:
            ValueError: names the key whose value can't be used.
        """
        characters: dict[str, str | None] = {}
        for key in ("separator", "decimal", "thousands", "comment"):
            told = getattr(self, key)
            characters[key] = found = character(told)
            if found is not None and len(found) != 1 and not (key == "separator" and found == r"\s+"):
                raise ValueError(f"`data.{key}` must be one character or its name, as semicolon, got {told!r}")
        return {
            "sep": characters["separator"],
            "decimal": characters["decimal"],
            "thousands": characters["thousands"],
            "comment": characters["comment"],
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


def override(key: str, value: Any) -> str:
    """Return the word of a command line that sets a key of `data`."""
    if value in ("#", "%"):  # a shell or Hydra would want quotes
        value = next(name for name, mark in CHARACTERS.items() if mark == value)
    return word(f"data.{key}={typed(value)}")


def character(told: Any) -> Any:
    """Return the character that a name means, anything else as it is."""
    return CHARACTERS.get(told, told)
