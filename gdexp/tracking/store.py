"""Where the record is: the URI, and a SQLite store made once, complete or not at all."""

import hashlib
import logging
import os
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from gdexp.config.refusal import Refusal

_SQLITE = "sqlite:///"


def store_uri(uri: str | None = None) -> str:
    """Return a tracking URI with an absolute path: the given one, MLFLOW_TRACKING_URI's, or `./mlflow.db`."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
    return uri


def database(uri: str) -> Path | None:
    """Return the file of a SQLite URI, None for any other."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def artifact_root(db: Path) -> Path:
    """Return where a SQLite store keeps its artifacts: MLflow's default, beside the file."""
    return db.parent / "mlruns"


def ensure(db: Path) -> None:
    """Make a SQLite store in WAL mode if there is none; any number of processes may ask at once.

    Raises:
        Refusal: the place can't be written, or the file there is no database.
    """
    try:
        if not db.exists():
            db.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(_lock_file(db)):
                if not db.exists():
                    _make(db)
        with sqlite3.connect(db, timeout=20) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")  # fails where nothing can be written
            connection.rollback()
        connection.close()
    except sqlite3.Error as error:
        raise Refusal(f"`tracking.uri`: {db} can't be used as a store: {error}") from error
    except OSError as error:
        raise Refusal(f"`tracking.uri`: {db} can't be written: {error.strerror or error}") from error


def _lock_file(db: Path) -> Path:
    """Return a lock outside the user's folder, the same one for all processes of this user and machine."""
    digest = hashlib.sha256(str(db.resolve()).encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return Path(tempfile.gettempdir()) / f"gdexp-{user}-{digest}.lock"


def _make(db: Path) -> None:
    """Let MLflow make the store under another name, then rename it into place."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # two lines on its migrations
    with tempfile.TemporaryDirectory(dir=db.parent, prefix=".gdexp-") as folder:
        draft = Path(folder) / db.name
        store = SqlAlchemyStore(f"{_SQLITE}{draft}", artifact_root(db).as_uri())
        store.engine.dispose()
        connection = sqlite3.connect(draft)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        draft.rename(db)


def fold_in(db: Path) -> None:
    """Fold the write-ahead log into the file, if nobody else is using it."""
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(db)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
