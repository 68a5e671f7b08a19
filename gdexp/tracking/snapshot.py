"""Stores to be read: put right where they can be written, else read as if they had been put right.

A store that can't be written is read where it is. Where SQLite can't do that, since there are leftovers
beside the file, and where MLflow is to read it, a copy in a temporary folder stands for it.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from gdexp.config.refusal import Refusal
from gdexp.lines import warn
from gdexp.tracking import endings, kept
from gdexp.tracking.sqlite import Tables, to_read
from gdexp.tracking.store import Unwritable, database, fold_in, follow_move, is_known, is_there, of_file, opened


@contextmanager
def readable(db: Path) -> Iterator[Tables | None]:
    """Open a store that is there for reading; None: it is MLflow's client's.

    Raises:
        Refusal: it can't be read.
    """
    _check(db)
    with ExitStack() as stack:
        try:
            if (tables := opened(db, to_write=False)) is not None:
                stack.callback(fold_in, db)
                stack.callback(tables.close)
        except Unwritable:
            tables = stack.enter_context(_untouched(db))
        yield tables


@contextmanager
def by_client(uri: str) -> Iterator[str]:
    """Yield the address by which MLflow can read a store: its own, or that of a copy if it can't be written.

    Raises:
        Refusal: it can't be read.
    """
    db = database(uri)
    if db is not None:
        _check(db)
    with ExitStack() as stack:
        try:
            if db is not None and (tables := opened(db, to_write=False)) is not None:
                tables.close()
        except Unwritable:
            assert db is not None
            copy = _copied(db, stack)
            with suppress(sqlite3.Error), closing(Tables(db, address=copy.as_uri())) as tables:
                _put_right(tables)
            uri = of_file(copy)
        yield uri


def _check(db: Path) -> None:
    if not is_there(db):
        raise Refusal(f"no store at {db}: run something first, or name another by its URI")


@contextmanager
def _untouched(db: Path) -> Iterator[Tables | None]:
    """Open a store that can't be written."""
    for path in kept.waiting(db):
        warn(f"{path} can't be taken in, for {db} can't be written")
    with ExitStack() as stack:
        tables = stack.enter_context(closing(_tables(db, stack)))
        if not is_known(tables):
            yield None
            return
        tables.execute("PRAGMA temp_store=MEMORY")
        for name in ("runs", "experiments"):  # the connection's own tables stand before those of the file
            tables.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM main.{name} ORDER BY rowid")
        tables.execute("CREATE UNIQUE INDEX temp.by_run ON runs (run_uuid)")
        _put_right(tables)
        yield tables


def _tables(db: Path, stack: ExitStack) -> Tables:
    try:
        if (address := to_read(db)) is not None:
            return Tables(db, address=address)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Refusal(f"{db} can't be read: {error}") from error
    except OSError as error:
        raise Refusal(f"{db} can't be read: {error.strerror or error}") from error
    return Tables(db, address=_copied(db, stack).as_uri())


def _put_right(tables: Tables) -> None:
    follow_move(tables)
    endings.close_dead(tables, clear=False)


def _copied(db: Path, stack: ExitStack) -> Path:
    """Return a copy of a store as it is now, with what SQLite has still to bring into the file."""
    try:
        copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gdexp-"))) / db.name
        if (address := to_read(db)) is not None and _is_copied(address, copy):
            return copy
        for end in ("", "-wal", "-journal"):
            if (path := db.with_name(db.name + end)).exists():
                shutil.copyfile(path, copy.with_name(path.name))
        return copy
    except OSError as error:
        raise Refusal(f"{db} can't be read: {error.strerror or error}") from error


def _is_copied(address: str, copy: Path) -> bool:
    """Let SQLite copy a file, which it can also while others write; say whether it could."""
    try:
        with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error:
        return False
    return True
