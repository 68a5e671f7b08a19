"""Lines for the user. That they can't be printed never decides about anything else.

A terminal may be full, closed, gone, or know no letters but ASCII's; a host may have none at all.
"""

import os
import sys
from contextlib import suppress
from typing import Any


def say(text: str) -> None:
    """Print on the standard output."""
    _print(sys.stdout, text)


def warn(text: str) -> None:
    """Print a line on the standard error that says whose it is."""
    note(f"gdexp: {text}")


def note(text: str) -> None:
    """Print on the standard error."""
    _print(sys.stderr, text)


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
