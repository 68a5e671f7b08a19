"""Which jobs of sweeps are being trained by whom, so that two commands never train one twice.

A claim is a row in a small table of our own beside MLflow's. It is made just before a job trains, in a
transaction, and is worth nothing without its command, which holds a lock beside the store while it lives.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from gdexp.tracking import endings, locks
from gdexp.tracking.sqlite import Tables

_TABLE = "CREATE TABLE IF NOT EXISTS gdexp_claims (job PRIMARY KEY, owner, host, process, seen)"
_OWNERS = "SELECT job, owner FROM gdexp_claims WHERE job IN (SELECT value FROM json_each(?))"
_COMMANDS = "SELECT owner, seen FROM gdexp_claims WHERE job GLOB 'command *'"


class Claims(NamedTuple):
    """What a command needs to claim jobs, in whatever process it trains them.

    Args:
        store: the file of a store that is written directly; None: nothing can be claimed, and all is ours.
        experiment: of the runs.
        owner: tells the command from all others.
        since: rows of runs from this one on have come after the command looked for what is finished.
    """

    store: Path | None
    experiment: str
    owner: str
    since: int

    @classmethod
    def start(cls, store: Path | None, experiment: str) -> Self:
        """Return the claims of this command.

        Args:
            store: the file of the store, None where it isn't written directly.
            experiment: of the runs.
        """
        claims = cls(store, experiment, os.urandom(16).hex(), since=0)
        if store is None:
            return claims
        locks.take(store, claims.owner)
        try:
            with claims._table() as tables:
                claims._put(tables, f"command {claims.owner}")  # while it is there, what others claim stays on record
                first = "(SELECT min(rowid) FROM runs WHERE status='RUNNING')"
                [(since,)] = tables.select(f"SELECT coalesce({first}, max(rowid) + 1, 0) FROM runs")
        except BaseException:
            locks.release(store, claims.owner)
            raise
        return claims._replace(since=since)

    def take(self, jobs: Sequence[str]) -> list[bool]:
        """Claim jobs by their keys; say of each whether it is ours."""
        if self.store is None:
            return [True] * len(jobs)
        if self.is_abandoned():
            return [False] * len(jobs)
        try:
            with self._table() as tables:
                self._put(tables, f"command {self.owner}")  # a sign of life
                owners = tables.select_of([self._name(job) for job in jobs], _OWNERS)
                return [self._take(tables, job, owners) for job in jobs]
        except sqlite3.Error:  # a job that is trained twice is better than one that isn't
            return [True] * len(jobs)

    def release(self) -> None:
        """Take leave; the claims go with the last command."""
        if self.store is None:
            return
        locks.release(self.store, self.owner)
        if not self.store.exists():
            return
        with self._table() as tables:
            tables.execute("DELETE FROM gdexp_claims WHERE job=?", f"command {self.owner}")
            if not tables.select(_COMMANDS):
                tables.execute("DELETE FROM gdexp_claims")

    def are_known(self) -> bool:
        """Say whether the store, as it is found here, is the one in which the command has said that it is there."""
        if self.store is None:
            return True
        if not self.store.is_file():
            return False
        with self._table() as tables:
            return bool(tables.select("SELECT 1 FROM gdexp_claims WHERE job=?", f"command {self.owner}"))

    def is_abandoned(self) -> bool:
        """Say whether it is certain that the command is gone."""
        if self.store is None:
            return False
        lock = _lock(self.store, self.owner)
        held = locks.is_held(lock)
        if held is None and not lock.exists():  # it was found to be gone, and its lock removed
            with suppress(sqlite3.Error), self._table() as tables:
                return not tables.select("SELECT 1 FROM gdexp_claims WHERE job=?", f"command {self.owner}")
        return held is False

    def _take(self, tables: Tables, job: str, owners: Mapping[str, tuple]) -> bool:
        name = self._name(job)
        if claimed := owners.get(name):
            _, owner = claimed
            if owner == self.owner:
                return True
            if self._is_there(tables, owner) or self._is_trained(tables, job):
                return False
        self._put(tables, name)
        return True

    def _name(self, job: str) -> str:
        return f"{self.experiment} {job}"

    def _is_trained(self, tables: Tables, job: str) -> bool:
        """Say whether a worker of a command that is gone still trains a job, or the command had done it."""
        rows = tables.select(
            "SELECT r.rowid, r.run_uuid, r.status FROM runs r JOIN tags t USING (run_uuid)"
            " JOIN experiments e USING (experiment_id)"
            " WHERE t.key='gdexp.job' AND t.value=? AND e.name=? AND r.lifecycle_stage='active'",
            *(job, self.experiment),
        )
        for row, run_id, status in rows:
            if status == "FINISHED" and row >= self.since:
                return True
            if status == "RUNNING" and endings.may_be_alive(tables, run_id):
                return True
        return False

    def _is_there(self, tables: Tables, owner: str) -> bool:
        """Say whether a command hasn't taken leave and may be alive."""
        rows = tables.select("SELECT seen FROM gdexp_claims WHERE job=?", f"command {owner}")
        return bool(rows) and _may_be_alive(tables, owner, rows[0][0])

    def _put(self, tables: Tables, name: str) -> None:
        """Write a claim, with something that it had never before as its sign of life."""
        values = (name, self.owner, "", "", os.urandom(8).hex())
        tables.execute("INSERT OR REPLACE INTO gdexp_claims VALUES (?,?,?,?,?)", *values)

    @contextmanager
    def _table(self) -> Iterator[Tables]:
        """Open the table for a transaction."""
        assert self.store is not None
        with closing(Tables(self.store)) as tables, tables.transaction():
            tables.execute(_TABLE)
            yield tables


def forget_dead(tables: Tables) -> None:
    """Take leave for commands that are gone, and remove their locks."""
    if not tables.select("SELECT 1 FROM sqlite_master WHERE name='gdexp_claims'"):
        return
    for owner, seen in tables.select(_COMMANDS):
        if locks.is_held(_lock(tables.path, owner)):
            continue
        with tables.transaction():
            if not _may_be_alive(tables, owner, seen):
                tables.execute("DELETE FROM gdexp_claims WHERE job=?", f"command {owner}")
                _lock(tables.path, owner).unlink(missing_ok=True)


def _may_be_alive(tables: Tables, owner: str, sign: str) -> bool:
    held = locks.is_held(_lock(tables.path, owner))
    return not endings.is_unchanged(tables, f"command {owner}", str(sign)) if held is None else held


def _lock(store: Path, owner: str) -> Path:
    return locks.path(store, owner)


def of_command(config: Mapping[str, Any], experiment: str) -> Claims:
    """Return the claims of a sweep.

    Args:
        config: the `tracking` node.
        experiment: of the runs.
    """
    from gdexp.tracking.store import database, is_known, store_uri

    db = database(store_uri(config["uri"]))
    direct = config["writer"] == "auto" and db is not None and is_known(db)
    return Claims.start(db if direct else None, experiment)
