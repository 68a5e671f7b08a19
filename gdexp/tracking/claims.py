"""Which jobs of sweeps are being trained by whom, so that two commands never train one twice.

A claim is a row in a small table of our own beside MLflow's. It is made just before a job trains, in a
transaction, stays as long as the command that made it, and is worth nothing without a living process.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from gdexp.tracking import endings
from gdexp.tracking.sqlite import Tables

_TABLE = "CREATE TABLE IF NOT EXISTS gdexp_claims (job PRIMARY KEY, owner, host, process, seen)"


class Claims(NamedTuple):
    """What a command needs to claim jobs, in whatever process it trains them.

    Args:
        store: the file of a store that is written directly; None: nothing can be claimed, and all is ours.
        experiment: of the runs.
        owner: tells the command from all others.
        host: where it runs.
        process: that it is.
        since: rows of runs from this one on have come after the command looked for what is finished.
    """

    store: Path | None
    experiment: str
    owner: str
    host: str
    process: str
    since: int

    @classmethod
    def start(cls, store: Path | None, experiment: str) -> Self:
        """Return the claims of this command.

        Args:
            store: the file of the store, None where it isn't written directly.
            experiment: of the runs.
        """
        own, token = endings.signature(), os.urandom(16).hex()
        claims = cls(store, experiment, token, own[endings.HOST], own[endings.PROCESS], since=0)
        if store is None:
            return claims
        with claims._table() as tables:
            claims._put(tables, f"command {token}")  # while it is there, what others claim stays on record
            sql = "SELECT coalesce((SELECT min(rowid) FROM runs WHERE status='RUNNING'), max(rowid) + 1, 0) FROM runs"
            [(since,)] = tables.select(sql)
        return claims._replace(since=since)

    def take(self, jobs: Sequence[str]) -> list[bool]:
        """Claim jobs by their keys; say of each whether it is ours."""
        if self.store is None:
            return [True] * len(jobs)
        try:
            with self._table() as tables:
                self._put(tables, f"command {self.owner}")  # a sign of life
                return [self._take(tables, job) for job in jobs]
        except sqlite3.Error:  # a job that is trained twice is better than one that isn't
            return [True] * len(jobs)

    def release(self) -> None:
        """Take leave; the claims go with the last command."""
        if self.store is None or not self.store.exists():
            return
        with self._table() as tables:
            tables.execute("DELETE FROM gdexp_claims WHERE job=?", f"command {self.owner}")
            rows = tables.select("SELECT host, process, seen FROM gdexp_claims WHERE job GLOB 'command *'")
            if not any(endings.is_alive(process, host, seen) for host, process, seen in rows):
                tables.execute("DELETE FROM gdexp_claims")

    def is_abandoned(self) -> bool:
        """Say whether the command is gone, as far as it can be seen from here."""
        return endings.is_gone(self.process, self.host)

    def _take(self, tables: Tables, job: str) -> bool:
        name = f"{self.experiment} {job}"
        rows = tables.select("SELECT owner, host, process, seen FROM gdexp_claims WHERE job=?", name)
        for owner, host, process, seen in rows:
            if owner == self.owner:
                return True
            if endings.is_alive(process, host, seen) and self._is_there(tables, owner):
                return False
            if self._is_trained(tables, job):
                return False
        self._put(tables, name)
        return True

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
            if status == "RUNNING" and endings.is_run_alive(tables, run_id):
                return True
        return False

    def _is_there(self, tables: Tables, owner: str) -> bool:
        """Say whether a command hasn't taken leave; its process may live on, as a notebook's does."""
        return bool(tables.select("SELECT 1 FROM gdexp_claims WHERE job=?", f"command {owner}"))

    def _put(self, tables: Tables, name: str) -> None:
        values = (name, self.owner, self.host, self.process, time.time())
        tables.execute("INSERT OR REPLACE INTO gdexp_claims VALUES (?,?,?,?,?)", *values)

    @contextmanager
    def _table(self) -> Iterator[Tables]:
        """Open the table for a transaction."""
        assert self.store is not None
        with closing(Tables(self.store)) as tables, tables.transaction():
            tables.execute(_TABLE)
            yield tables


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
