"""The one way in which bad input is turned down."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from gdexp.config.printable import printable
from gdexp.config.secrets import hide


class Refusal(ValueError):
    """Input that can't be run, as the one line that the user reads."""

    def __init__(self, line: str) -> None:
        super().__init__(printable(hide(" ".join(line.split()))))


class Withdrawn(Refusal):
    """Input that a run's first epoch shows to be none: the run is taken back as if it had not begun."""


class TakenOver(Refusal):
    """A run whose record is another process's now, so that this one has no more to do with it."""


class Refusals(Refusal):
    """All that is wrong with the jobs of a sweep, a line each; many are counted."""

    def __init__(self, lines: Sequence[str], most: int = 20) -> None:
        more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
        ValueError.__init__(self, "\n".join([*map(printable, lines[:most]), *more]))


_LISTED = 30  # names in one line


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for the closest known name, else a list of those that are known.

    >>> nearest("sdg", ["adam", "sgd"])
    '; did you mean `sgd`?'
    >>> nearest("x", ["adam", "sgd"])
    '; choose from adam, sgd'
    """
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean `{close[0]}`?"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"; choose from {', '.join(known[:_LISTED])}{more}" if known else ""
