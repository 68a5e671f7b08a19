"""The one way in which bad input is turned down."""

from collections.abc import Iterable
from difflib import get_close_matches


class Refusal(ValueError):
    """Input that can't be run, as the one line that the user reads."""

    def __init__(self, line: str) -> None:
        super().__init__(" ".join(line.split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for the closest known name, else the list of them all.

    >>> nearest("sdg", ["adam", "sgd"])
    '; did you mean `sgd`?'
    >>> nearest("x", ["adam", "sgd"])
    '; choose from adam, sgd'
    """
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean `{close[0]}`?"
    return f"; choose from {', '.join(known)}" if known else ""
