"""Lines for the user. That they can't be printed never decides about anything else.

A terminal may be full, closed, gone, or know no letters but ASCII's; a host may have none at all.
What is printed may be a stranger's: nothing in a line moves the cursor or begins a line of its own.
"""

import os
import sys
from contextlib import suppress
from typing import Any

from gdexp.config.printable import printable


def say(*lines: str) -> None:
    """Print lines on the standard output."""
    _print(sys.stdout, "\n".join(map(_line, lines)))


def page(text: str) -> None:
    """Print a text of many lines on the standard output, such as a table, whose foreign words are printable."""
    _print(sys.stdout, text)


def warn(*lines: str) -> None:
    """Print lines on the standard error, of which the first says whose they are."""
    _print(sys.stderr, "gdexp: " + "\n".join(map(_line, lines)))


def note(text: str) -> None:
    """Print on the standard error, maybe several lines, such as a traceback."""
    _print(sys.stderr, printable(text, lines=True))


def is_terminal() -> bool:
    """Say whether the standard output is a terminal."""
    try:
        return bool(sys.stdout.isatty())
    except (AttributeError, ValueError):  # there is none, it is closed, or a host's own that can't tell
        return False


def finish() -> None:
    """Bring out what is printed, so that the end of the process has no trouble with it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            _give_up(stream)


def _line(text: str) -> str:
    """Return a text as one line."""
    return printable(text, lines=True).replace("\n", "\\n")


def _print(stream: Any, text: str) -> None:
    if stream is None:
        return
    try:
        print(text, file=stream)
    except UnicodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        with suppress(Exception):
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
    except (OSError, ValueError, AttributeError):
        _give_up(stream)


def _give_up(stream: Any) -> None:
    """Let what else is printed go nowhere, where the stream is the process's own."""
    if stream is not None and stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
