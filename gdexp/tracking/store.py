"""Where the record is: the URI, and a SQLite store made once, complete or not at all."""

import os
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from gdexp.config.refusal import Refusal
from gdexp.lines import warn
from gdexp.tracking import begins, claims, endings, kept, locks
from gdexp.tracking.address import database as database
from gdexp.tracking.address import of_file as of_file
from gdexp.tracking.address import store_uri as store_uri
from gdexp.tracking.address import without_password as without_password
from gdexp.tracking.places import artifact_location as artifact_location
from gdexp.tracking.places import artifact_root, is_shared, user_cache
from gdexp.tracking.places import local_path as local_path
from gdexp.tracking.sqlite import KNOWN, Tables, revision

_SHOWN = 3  # runs that are named when many are closed


class Unwritable(Refusal):
    """A store that can't be written, though it may be one that can be read."""


def opened(db: Path, *, to_write: bool = True) -> Tables | None:
    """Open a store whose schema is known, made if there is none; None: it is MLflow's client's.

    Runs whose process is gone are closed, those that were kept beside it are taken in, and the paths of a
    store that was moved are put right.

    Args:
        db: the file.
        to_write: whether more is to be written than what puts the store right.

    Raises:
        Unwritable: nothing can be written there.
        Refusal: the file there is no database.
    """
    ensure(db, to_write=to_write)
    if os.environ.get("GDEXP_PLAIN") == "1":
        return None
    try:
        with ExitStack() as stack:
            tables = stack.enter_context(closing(Tables(db)))
            if tables.revision() not in KNOWN:
                return None
            _heal(tables)
            stack.pop_all()
            return tables
    except sqlite3.Error as error:  # else MLflow's client would be asked, which can't do better
        kind = Unwritable if isinstance(error, sqlite3.OperationalError) else Refusal
        raise kind(f"`tracking.uri`: {db} can't be used as a store: {error}") from error


def _heal(tables: Tables) -> None:
    """Bring a store up to date; a line for each run that was closed or taken in."""
    db = tables.path
    follow_move(tables)
    if is_shared(db) and tables.select("SELECT 1 FROM runs WHERE status='RUNNING'"):
        warn(f"{db} lies on a network file system and others write to it; an mlflow server is safer")
    begins.clear(tables)
    claims.forget_dead(tables)
    looked = endings.close_dead(tables)
    for line in looked.lines(_SHOWN) + [finding.line for finding in kept.take_in(tables)]:
        warn(f"{line}")
    locks.clear(db)


def is_there(db: Path) -> bool:
    """Say whether there is a store; one that is lost, though a run was kept for it, is made anew with that run.

    Raises:
        Unwritable: a run was kept for it, and nothing can be written there.
    """
    if db.is_file():
        return True
    if db.exists() or not any(kept.is_meant(path, db) for path in kept.waiting(db)):
        return False
    ensure(db)
    with closing(Tables(db)) as tables:
        for finding in kept.take_in(tables):
            warn(finding.line)
    return db.is_file()


def is_known(db: Path | Tables) -> bool:
    """Say whether a store's tables may be used directly."""
    if os.environ.get("GDEXP_PLAIN") == "1":
        return False
    return (db.revision() if isinstance(db, Tables) else revision(db)) in KNOWN


def ensure(db: Path, *, to_write: bool = True, direct: bool = True) -> None:
    """Make a SQLite store if there is none; any number of processes may ask at once.

    While it is written directly it is in WAL mode, which the file remembers, but never on a network file system.

    Args:
        db: the file.
        to_write: whether it is going to be written.
        direct: whether that is done directly, if its tables are known; MLflow's client puts no file to rest.

    Raises:
        Unwritable: nothing can be written there.
        Refusal: the file there is no database.
    """
    try:
        if not db.exists():
            db.parent.mkdir(parents=True, exist_ok=True)
            _make(db)
        connection = sqlite3.connect(db, timeout=20 if to_write else 1, isolation_level=None)
        try:
            if to_write and direct and is_known(db):
                connection.execute(f"PRAGMA journal_mode={'DELETE' if is_shared(db) else 'WAL'}")
            connection.execute("BEGIN IMMEDIATE")
            [(number,)] = connection.execute("PRAGMA user_version").fetchall()
            connection.execute(f"PRAGMA user_version={number}")  # fails where nothing can be written
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise Unwritable(f"`tracking.uri`: {db} can't be used as a store: {error}") from error
    except sqlite3.Error as error:
        raise Refusal(f"`tracking.uri`: {db} can't be used as a store: {error}") from error
    except OSError as error:
        raise Unwritable(f"`tracking.uri`: {db} can't be written: {error.strerror or error}") from error


def follow_move(tables: Tables) -> bool:
    """Put the artifact paths right if store and artifacts were moved or copied; say whether they were."""
    found = tables.select("SELECT artifact_location FROM experiments WHERE experiment_id=0")
    root = artifact_root(tables.path)
    new, old = root.as_uri(), found[0][0].rpartition("/")[0] if found and found[0][0] else ""
    before = local_path(old)
    if old == new or before is None or before.name != root.name or not root.is_dir():
        return False  # not a store of this form, or its artifacts stayed where they were
    runs = tables.select("SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", len(old) + 1, f"{old}/")
    if runs and not any((root / uri[len(old) + 1 :]).is_dir() for (uri,) in runs):
        return False
    with tables.transaction():
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            sql = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
            tables.execute(sql, new, len(old) + 1, len(old) + 1, f"{old}/")
    return True


def template() -> Path | None:
    """Return an empty store of the installed MLflow, made by itself once; None where nothing can be kept."""
    kept = user_cache() / f"mlflow-{mlflow_version()}.db"
    if kept.is_file():
        return kept
    from filelock import FileLock

    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if not kept.is_file():
                with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".gdexp-") as folder:
                    draft = Path(folder) / "mlflow.db"
                    _migrated(draft)
                    draft.replace(kept)
    except OSError:
        return None
    return kept


@cache
def mlflow_version() -> str:
    """Return the installed MLflow's version, without importing it."""
    return version("mlflow")


def fold_in(db: Path) -> None:
    """Fold the write-ahead log into the file, if nobody else is using it, and have it read without one.

    In WAL mode SQLite reads a file only where it can write beside it, and so does MLflow.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA synchronous=OFF")  # all is on the disk by now but the mode
        connection.execute("PRAGMA journal_mode=DELETE")


def _make(db: Path) -> None:
    """Prepare a store under another name, then give it its own, unless another process was quicker."""
    with locks.draft(db) as folder:
        draft = folder / db.name
        if (empty := template()) is not None:
            draft.write_bytes(empty.read_bytes())
        else:
            _migrated(draft)
        connection = sqlite3.connect(draft)
        now = int(time.time() * 1000)
        connection.execute(
            "UPDATE experiments SET artifact_location=?, creation_time=?, last_update_time=? WHERE experiment_id=0",
            (f"{artifact_root(db).as_uri()}/0", now, now),
        )
        connection.commit()
        connection.close()
        for left in ("-wal", "-shm"):  # of a store that was deleted: SQLite would take them for the new one's
            with suppress(OSError):
                if not db.exists():
                    db.with_name(db.name + left).unlink()
        try:
            os.link(draft, db)  # unlike a renaming, never replaces what is there
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not db.exists():
                draft.rename(db)


def _migrated(draft: Path) -> None:
    """Let MLflow make an empty store."""
    warn(f"MLflow makes an empty store, once for its version {mlflow_version()}")
    import logging

    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # two lines on its migrations
    store = SqlAlchemyStore(of_file(draft), (draft.parent / "mlruns").as_uri())
    store.engine.dispose()
