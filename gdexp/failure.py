"""What the user reads when something goes wrong: a line for what a person or a file did, else the traceback.

The one rule for all commands. An error that passed through the user's own code keeps its traceback.
"""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gdexp.config import folders
from gdexp.config.printable import printable
from gdexp.config.refusal import Refusal
from gdexp.config.secrets import hide
from gdexp.lines import note, warn

# whose errors are of a file, an address or a word; their classes are known by name, so that nothing is imported
_LIBRARIES = ("hydra", "omegaconf", "antlr4", "yaml", "sqlite3", "sqlalchemy", "mlflow", "requests", "urllib3")
_MEMORY = ("allocate memory", "out of memory", "too large to allocate", "Storage size calculation overflowed")


@contextmanager
def told() -> Iterator[None]:
    """End the process with the exit code of a command, having said in a line what went wrong."""
    try:
        _check_folder()
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        note(" ".join(["interrupted", *getattr(error, "__notes__", [])]))
        sys.exit(128 + number)
    except Exception as error:
        show(error)
        sys.exit(1)


def show(error: BaseException) -> None:
    """Print an error: its line, or its traceback."""
    if (line := line_of(error)) is None:
        note(hide("".join(traceback.format_exception(error))).rstrip("\n"))
    else:
        warn(*line.split("\n"))


def line_of(error: BaseException) -> str | None:
    """Return the line that says all about an error; None where only a traceback does."""
    if isinstance(error, Refusal):
        return str(error)
    if is_of_users_code(error):
        return None
    line = _line(error)
    return None if line is None else printable(hide(" ".join(line.split())))


def _line(error: BaseException) -> str | None:
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    said = str(error)
    if "yaml" in kinds:
        return _of_yaml(error)
    if kinds & set(_LIBRARIES):
        return f"{type(error).__name__}: {said.splitlines()[0] if said else ''}"
    if isinstance(error, OSError):
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{names}: {error.strerror or said}" if names else error.strerror or said
    if isinstance(error, UnicodeError):
        return f"{_no_text() or 'a file'} isn't UTF-8: {said}"
    if isinstance(error, ImportError):
        return f"{said}: pip install {error.name}" if error.name else said
    if isinstance(error, MemoryError) or any(words in said for words in _MEMORY):
        return f"not enough memory: {said.splitlines()[0] if said else 'the arrays are too large'}"
    return None


def _of_yaml(error: BaseException) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a file"
    return f"{where} isn't YAML: {problem or str(error).splitlines()[0]}"


def _no_text() -> Path | None:
    """Return the user's file of YAML that isn't UTF-8, which Hydra doesn't name."""
    for path in (path for folder in folders.user_dirs() for path in sorted(folder.rglob("*.yaml"))):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeError:
            return path
        except OSError:
            continue
    return None


def is_of_users_code(error: BaseException) -> bool:
    """Say whether an error was raised in, or below, code that is neither installed nor Python's nor ours."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    told_apart = hasattr(error, "__notes__")  # of another process: its traceback is a note
    return told_apart or any(file.endswith(".py") and not folders.is_installed(Path(file)) for file in files)


def _check_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise Refusal("the current directory is gone: cd to one that is there") from error
