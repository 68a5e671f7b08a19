"""Runs that are about to be there: named in a small table of our own until their rows are.

Their artifacts are written first and their rows last, so a command that is killed in between leaves folders
that no row knows. The next command finds them here.
"""

import shutil
from collections.abc import Sequence

from gdexp.config.refusal import Refusal
from gdexp.tracking import endings, locks, places
from gdexp.tracking.sqlite import Tables

_NAME = "gdexp_begins"
_TABLE = f"CREATE TABLE IF NOT EXISTS {_NAME} (runs PRIMARY KEY, location, host, process)"


def note(tables: Tables, run_ids: Sequence[str], location: str) -> None:
    """Name runs whose artifacts are about to be written, within a transaction; this process holds its lock.

    Args:
        tables: of the store that gets them.
        run_ids: of the runs.
        location: URI of their experiment's artifacts.
    """
    own = endings.signature()
    tables.execute(_TABLE)
    values = " ".join(run_ids), location, own[endings.HOST], own[endings.OWNER]
    tables.execute(f"INSERT OR REPLACE INTO {_NAME} VALUES (?,?,?,?)", *values)


def forget(tables: Tables, run_ids: Sequence[str]) -> None:
    """Say that the rows of these runs are there, or that their artifacts are gone, within a transaction."""
    tables.execute(f"DELETE FROM {_NAME} WHERE runs=?", " ".join(run_ids))


def clear(tables: Tables) -> list[str]:
    """Remove what was written for runs whose process was gone before they began; return their ids."""
    if not tables.select("SELECT 1 FROM sqlite_master WHERE name=?", _NAME):
        return []
    removed = []
    for runs, location, owner in tables.select(f"SELECT runs, location, process FROM {_NAME}"):
        if endings.is_gone(tables, runs, owner):
            removed += [run_id for run_id in runs.split() if _remove(tables, location, run_id)]
            with tables.transaction():
                forget(tables, runs.split())
            locks.remove_free(endings.lock_of(tables.path, owner))
    return removed


def _remove(tables: Tables, location: str, run_id: str) -> bool:
    """Remove the folder of a run without a row, or what was half written into that of another; say if it was one."""
    try:
        folder = places.folder(tables.path, f"{location.rstrip('/')}/{run_id}/artifacts", run_id)
    except Refusal:  # it is none of this store's
        return False
    if folder is None:
        return False
    if tables.select("SELECT 1 FROM runs WHERE run_uuid=?", run_id):
        places.clear(folder)
        return False
    was_there = folder.parent.is_dir()
    shutil.rmtree(folder.parent, ignore_errors=True)
    return was_there and not folder.parent.exists()
