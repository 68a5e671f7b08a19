"""Which runs that say RUNNING are still running, and the end of those that aren't.

A run lives as long as its process holds its lock, which lies beside the store.
Where that can't be told, the run is left alone until this machine has seen its signs of life unchanged
for long enough, by its own steady clock. Clocks of two machines are never compared.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gdexp.config.printable import printable
from gdexp.config.refusal import Refusal
from gdexp.tracking import locks, places
from gdexp.tracking.sqlite import Tables

OWNER, HOST, HEARTBEAT = "gdexp.process", "gdexp.host", "gdexp.heartbeat"
UNCHANGED_SECONDS = 300.0  # after which a process that can't be looked at is gone; it gives a sign each minute
_SEEN = "CREATE TABLE IF NOT EXISTS gdexp_seen (what, observer, sign, since, PRIMARY KEY (what, observer))"
_OPEN = """
SELECT r.run_uuid, r.name, r.artifact_uri, o.value, h.value, r.start_time,
    (SELECT max(timestamp) FROM latest_metrics l WHERE l.run_uuid=r.run_uuid),
    (SELECT value FROM tags b WHERE b.run_uuid=r.run_uuid AND b.key='gdexp.heartbeat')
FROM runs r JOIN tags o ON o.run_uuid=r.run_uuid AND o.key='gdexp.process'
    LEFT JOIN tags h ON h.run_uuid=r.run_uuid AND h.key='gdexp.host'
WHERE r.status='RUNNING'
"""  # those of other programs are believed to run


class Open(NamedTuple):
    """A run of ours that says RUNNING."""

    run_id: str
    name: str
    uri: str
    owner: str
    host: str | None
    start: int
    last: int | None  # when it wrote its last number
    beat: str | None

    @property
    def which(self) -> str:
        """Its name and its id, to be shown."""
        return printable(f"{self.name} ({self.run_id})")


class Looked(NamedTuple):
    """What became of the runs that said RUNNING.

    Args:
        closed: those whose process is gone.
        unknown: those of which it can't be told.
    """

    closed: list[Open]
    unknown: list[Open]

    def lines(self, most: int | None = None) -> list[str]:
        """Return what is said of them.

        Args:
            most: runs of each kind that are named; None: all.
        """
        lines = [f"run {run.which} is closed as KILLED: its process is gone" for run in self.closed[:most]]
        if more := len(self.closed[len(lines) :]):
            lines.append(f"so are {more} more")
        minutes = f"{UNCHANGED_SECONDS / 60:.0f} minutes"
        named = self.unknown[:most]
        lines += [
            f"run {run.which} says RUNNING on {printable(str(run.host))}, which can't be looked at from here;"
            f" it is closed when nothing is seen to change in it for {minutes}"
            for run in named
        ]
        if more := len(self.unknown[len(named) :]):
            lines.append(f"so do {more} more")
        return lines


def signature() -> dict[str, str]:
    """Return the tags with which this process marks its runs."""
    return {HOST: socket.gethostname(), OWNER: locks.process()}


def lock_of(store: Path, owner: str | None) -> Path | None:
    """Return the lock of the process that runs are marked with, None where an earlier version had none.

    Args:
        store: the file that has the runs.
        owner: the mark.
    """
    known = owner is not None and places.RUN_ID.fullmatch(owner)
    return locks.path(store, str(owner)) if known else None


@contextmanager
def at_work(store: Path) -> Iterator[None]:
    """Hold the lock that says that this process has runs in a store."""
    locks.take(store, locks.process())
    try:
        yield
    finally:
        locks.release(store, locks.process())


def close_dead(tables: Tables, *, clear: bool = True) -> Looked:
    """Close runs whose process is gone as KILLED, at the time of their last number.

    Args:
        tables: of the store.
        clear: whether what such a process was about to write is removed, and what is seen of others noted.
    """
    closed, unknown = list[Open](), list[Open]()
    together: dict[str, list[Open]] = {}
    for run in _open(tables):
        together.setdefault(run.owner, []).append(run)
    for runs in together.values():
        held = _is_held(tables, runs[0])
        if held:
            continue
        with tables.transaction():  # another command may have been quicker
            left = [run for run in _open(tables, [run.run_id for run in runs]) if run.owner == runs[0].owner]
            dead = [run for run in left if held is False or (clear and _is_silent(tables, run))]
            for run in dead:
                tables.end(run.run_id, "KILLED", run.last or run.start)
        closed += dead
        ended = {run.run_id for run in dead}
        unknown += [run for run in left if run.run_id not in ended]
        for run in dead if clear else ():
            _clear(tables, run)
        if dead and clear:
            locks.remove_free(lock_of(tables.path, runs[0].owner))
    return Looked(closed, unknown)


def may_be_alive(tables: Tables, run_id: str) -> bool:
    """Say whether a run that says RUNNING may still be trained, within a transaction; of others' that is believed."""
    for run in _open(tables, [run_id]):
        held = _is_held(tables, run)
        return not _is_silent(tables, run) if held is None else held
    return True


def is_left(tables: Tables) -> bool:
    """Say whether it is certain that no process has anything to do with the runs of a store of our own."""
    found = [lock_of(tables.path, owner) for (owner,) in tables.select("SELECT value FROM tags WHERE key=?", OWNER)]
    return all(lock is None or not lock.exists() or locks.is_held(lock) is False for lock in found)


def is_gone(tables: Tables, what: str, owner: str) -> bool:
    """Say whether a process that was about to write something for a store is gone."""
    lock = lock_of(tables.path, owner)
    held = None if lock is None else locks.is_held(lock)
    if held is not None:
        return not held
    with tables.transaction():
        return is_unchanged(tables, what, owner)


def is_unchanged(tables: Tables, what: str, sign: str) -> bool:
    """Say, within a transaction, whether this machine has seen a sign of life unchanged for long enough."""
    tables.execute(_SEEN)
    now, observer = time.monotonic(), locks.system()
    found = tables.select("SELECT sign, since FROM gdexp_seen WHERE what=? AND observer=?", what, observer)
    if not found or found[0][0] != sign or found[0][1] > now:
        tables.execute("INSERT OR REPLACE INTO gdexp_seen VALUES (?,?,?,?)", what, observer, sign, now)
        return False
    return now - found[0][1] > UNCHANGED_SECONDS


def _open(tables: Tables, run_ids: Sequence[str] | None = None) -> list[Open]:
    """Return the runs that say RUNNING: all, or those of these."""
    if run_ids is None:
        return [Open(*row) for row in tables.select(_OPEN)]
    return [Open(*row) for run_id in run_ids for row in tables.select(f"{_OPEN} AND r.run_uuid=?", run_id)]


def _is_held(tables: Tables, run: Open) -> bool | None:
    """Say whether the lock of a run's process is held, None where that can't be told."""
    lock = lock_of(tables.path, run.owner)
    return None if lock is None else locks.is_held(lock)


def _is_silent(tables: Tables, run: Open) -> bool:
    return is_unchanged(tables, run.run_id, f"{run.owner} {run.last} {run.beat}")


def _clear(tables: Tables, run: Open) -> None:
    """Remove what a process that is gone was about to write among the artifacts of its run."""
    try:
        folder = places.folder(tables.path, run.uri, run.run_id)
    except Refusal:  # it is none of this store's
        return
    if folder is not None:
        places.clear(folder)
