"""The direct way into MLflow's tables: the standard library's sqlite3, and no import of mlflow.

What is relied on, and tested against MLflow's own client for each revision in KNOWN:

- `alembic_version.version_num` names the schema.
- A run is a row of `runs` (run_uuid: 32 hexadecimal digits; source_type 'UNKNOWN', source_name,
  entry_point_name and source_version empty; times in ms) and the tag `mlflow.runName`; its
  artifacts lie in `<experiments.artifact_location>/<run_uuid>/artifacts`.
- `params` are written once; values end after 6000 characters, those of `tags` after 8000.
- `metrics` holds every number; the same key, time, step and value is one row. NaN is 0 with
  is_nan = 1, an infinity the largest float of its sign.
- `latest_metrics` holds, for each key of a run, the row with the largest (step, timestamp, value).
- A dataset is a row of `datasets` for each experiment, name and digest; a row of `inputs` joins it
  to a run, `input_tags` say what it was for.
"""

import json
import math
import re
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from gdexp.config.refusal import Refusal

KNOWN = {"dc11669786a5": "MLflow 3.17", "b7e2c1a4d9f3": "MLflow 3.16", "6f8d9c3b2a1e": "MLflow 3.15"}
_ILLEGAL = re.compile(r"[^\w\-. :/]")  # in the name of an MLflow metric
SYNCED = "gdexp.synced_to"  # a tag: the server that has all of a run
PAUSED = "gdexp.paused_ms"  # a tag: how long nothing was trained between the begin and the end of a run
PARAM_LENGTH, TAG_LENGTH = 6000, 8000

# the columns that are used here, for a store that only gdexp reads: one on its way to a server
_OWN_TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name UNIQUE, artifact_location, lifecycle_stage,
    creation_time, last_update_time);
CREATE TABLE runs (run_uuid PRIMARY KEY, name, source_type, source_name, entry_point_name, user_id, status, start_time,
    end_time, source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time);
CREATE TABLE params (key, value, run_uuid, PRIMARY KEY (key, run_uuid));
CREATE TABLE tags (key, value, run_uuid, PRIMARY KEY (key, run_uuid));
CREATE TABLE metrics (key, value, timestamp, run_uuid, step, is_nan,
    PRIMARY KEY (key, timestamp, step, run_uuid, value, is_nan));
CREATE TABLE latest_metrics (key, value, timestamp, step, is_nan, run_uuid, PRIMARY KEY (key, run_uuid));
CREATE TABLE datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source, dataset_schema,
    dataset_profile, PRIMARY KEY (experiment_id, name, digest));
CREATE TABLE inputs (input_uuid, source_type, source_id, destination_type, destination_id, step DEFAULT 0,
    PRIMARY KEY (source_type, source_id, destination_type, destination_id));
CREATE TABLE input_tags (input_uuid, name, value, PRIMARY KEY (input_uuid, name));
CREATE TABLE kept_for (store);
CREATE TABLE files (run_uuid, path, content, PRIMARY KEY (run_uuid, path));
"""

_NO_TABLES = """
SELECT type, name FROM sqlite_master WHERE (type = 'trigger' OR type = 'view' OR sql LIKE 'CREATE VIRTUAL%')
    AND tbl_name IN ('alembic_version', 'experiments', 'experiment_tags', 'runs', 'params', 'tags', 'metrics',
        'latest_metrics', 'datasets', 'inputs', 'input_tags')
"""


class DeletedExperiment(Refusal):
    """An experiment that is there, but deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"`tracking.experiment`: {name!r} was deleted; restore it or choose another name")
        self.name = name


class Number(NamedTuple):
    """One value of a metric."""

    key: str
    value: float
    timestamp: int  # ms
    step: int


class DatasetRow(NamedTuple):
    """A data set as MLflow has it."""

    name: str
    digest: str  # at most 36 characters
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    context: str | None  # as "training"


class Run(NamedTuple):
    """A run's own row."""

    run_id: str
    name: str
    user: str
    start_time: int
    artifact_uri: str
    experiment_id: int
    status: str = "RUNNING"
    end_time: int | None = None


class Tables:
    """An open store.

    Args:
        path: of the file, which must be there.
        timeout: seconds to wait for another writer.
        address: SQLite's own, where the file isn't to be opened for writing, or is a copy of the one at the path.
    """

    def __init__(self, path: Path, timeout: float = 20.0, address: str | None = None) -> None:
        self.path = path
        address = address or f"{path.absolute().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(address, timeout, isolation_level=None, check_same_thread=False, uri=True)
        self._connection.execute("PRAGMA cache_size=-65536")  # 64 MiB: a sweep's record is one transaction
        # with a write-ahead log: safe but for the last moment before a power cut
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA trusted_schema=OFF")
        if odd := self.select(_NO_TABLES):  # of a file that does more than hold rows
            self.close()
            raise Refusal(f"{path} is no MLflow store: it holds the {odd[0][0]} {odd[0][1]}")

    @classmethod
    def own(cls, path: Path) -> "Tables":
        """Make a store that only gdexp reads."""
        connection = sqlite3.connect(path)
        connection.executescript(_OWN_TABLES)
        connection.close()
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def wait_at_most(self, seconds: float) -> None:
        """Wait so long for another writer from now on."""
        self._connection.execute(f"PRAGMA busy_timeout={int(1000 * seconds)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all of what is written inside, or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")
            raise

    def select(self, sql: str, *values: object) -> list[tuple]:
        """Return the rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def select_of(self, names: Iterable[str], sql: str) -> dict[str, tuple]:
        """Return the rows of a query by their first column, in one statement for all of these names.

        Args:
            names: run ids, or whatever else the query asks for.
            sql: with one `IN (SELECT value FROM json_each(?))`.
        """
        return {row[0]: row for row in self.select(sql, json.dumps(list(names)))}

    def execute(self, sql: str, *values: object) -> None:
        """Run one statement."""
        self._connection.execute(sql, values)

    def revision(self) -> str | None:
        """Return the schema revision, None where this is no store of MLflow's."""
        if not self.select("SELECT 1 FROM sqlite_master WHERE name='alembic_version'"):
            return None
        rows = self.select("SELECT version_num FROM alembic_version")
        return rows[0][0] if len(rows) == 1 else None

    def experiment(self, name: str, location: str) -> tuple[int, str]:
        """Return id and artifact location of an experiment, made if there is none of that name.

        Raises:
            DeletedExperiment: it was deleted.
        """
        found = self.select(
            "SELECT experiment_id, artifact_location, lifecycle_stage FROM experiments WHERE name=?", name
        )
        if found:
            if found[0][2] != "active":
                raise DeletedExperiment(name)
            return found[0][0], found[0][1]
        now = int(time.time() * 1000)
        sql = (
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time)"
            " VALUES (?,?,'active',?,?)"
        )
        self.execute(sql, name, location, now, now)
        return self.select("SELECT last_insert_rowid()")[0][0], location

    def add_run(self, run: Run) -> None:
        """Add a run, or take over the status of one that is there."""
        sql = (
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,"
            " end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " VALUES (?,?,'UNKNOWN','','',?,?,?,?,'','active',?,?)"
            " ON CONFLICT (run_uuid) DO UPDATE SET status=excluded.status, end_time=excluded.end_time"
        )
        values = (run.user, run.status, run.start_time, run.end_time, run.artifact_uri, run.experiment_id)
        self.execute(sql, run.run_id, run.name, *values)
        self.add_tags(run.run_id, {"mlflow.runName": run.name})

    def add_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Add params; one that is there already stays."""
        rows = [(k, v[:PARAM_LENGTH], run_id) for k, v in params.items()]
        self._connection.executemany("INSERT OR IGNORE INTO params (key, value, run_uuid) VALUES (?,?,?)", rows)

    def add_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        rows = [(k, v[:TAG_LENGTH], run_id) for k, v in tags.items()]
        self._connection.executemany("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?,?,?)", rows)

    def add_metrics(self, run_id: str, numbers: Iterable[Number]) -> None:
        """Add numbers, and bring the latest up to date."""
        rows = [(_legal(n.key), *_storable(n.value), n.timestamp, n.step, run_id) for n in numbers]
        self._connection.executemany(
            "INSERT OR IGNORE INTO metrics (key, value, is_nan, timestamp, step, run_uuid) VALUES (?,?,?,?,?,?)", rows
        )
        latest: dict[str, tuple] = {}
        for row in rows:
            key, value, _, timestamp, step, _ = row
            if key not in latest or (step, timestamp, value) > latest[key][0]:
                latest[key] = (step, timestamp, value), row
        self._connection.executemany(
            "INSERT INTO latest_metrics (key, value, is_nan, timestamp, step, run_uuid) VALUES (?,?,?,?,?,?)"
            " ON CONFLICT (key, run_uuid) DO UPDATE SET value=excluded.value, is_nan=excluded.is_nan,"
            " timestamp=excluded.timestamp, step=excluded.step"
            " WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)",
            [row for _, row in latest.values()],
        )

    def remove_metrics(self, run_id: str, numbers: Iterable[Number]) -> None:
        """Take numbers back; the latest are those that are left."""
        rows = [(_legal(n.key), n.timestamp, n.step, run_id) for n in numbers]
        self._connection.executemany("DELETE FROM metrics WHERE key=? AND timestamp=? AND step=? AND run_uuid=?", rows)
        columns = "key, value, is_nan, timestamp, step, run_uuid"
        for key in {row[0] for row in rows}:
            self.execute("DELETE FROM latest_metrics WHERE run_uuid=? AND key=?", run_id, key)
            self.execute(
                f"INSERT INTO latest_metrics ({columns}) SELECT {columns} FROM metrics WHERE run_uuid=? AND key=?"
                " ORDER BY step DESC, timestamp DESC, value DESC LIMIT 1",
                *(run_id, key),
            )

    def add_dataset(self, run_ids: Sequence[str], experiment_id: int, data: DatasetRow) -> None:
        """Say which data runs saw."""
        self.execute(
            "INSERT OR IGNORE INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type,"
            " dataset_source, dataset_schema, dataset_profile) VALUES (?,?,?,?,?,?,?,?)",
            *(uuid4().hex, experiment_id, *data[:6]),
        )
        find = "SELECT dataset_uuid FROM datasets WHERE experiment_id=? AND name=? AND digest=?"
        [(dataset,)] = self.select(find, experiment_id, data.name, data.digest)
        join = "source_type='DATASET' AND source_id=? AND destination_type='RUN'"
        there = {run_id for (run_id,) in self.select(f"SELECT destination_id FROM inputs WHERE {join}", dataset)}
        edges = {run_id: uuid4().hex for run_id in run_ids if run_id not in there}
        sql = (
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id)"
            " VALUES (?,'DATASET',?,'RUN',?)"
        )
        self._connection.executemany(sql, [(edge, dataset, run_id) for run_id, edge in edges.items()])
        if data.context is not None:
            tag = "INSERT INTO input_tags (input_uuid, name, value) VALUES (?,'mlflow.data.context',?)"
            self._connection.executemany(tag, [(edge, data.context) for edge in edges.values()])

    def rename_run(self, run_id: str, new: str) -> None:
        """Give a run another id, in a store that only gdexp reads; its artifacts are to be moved likewise."""
        with self.transaction():
            for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
                self.execute(f"UPDATE {table} SET run_uuid=? WHERE run_uuid=?", new, run_id)
            self.execute("UPDATE inputs SET destination_id=? WHERE destination_id=?", new, run_id)
            self.execute("UPDATE runs SET artifact_uri=replace(artifact_uri, ?, ?) WHERE run_uuid=?", run_id, new, new)

    def remove_run(self, run_id: str) -> None:
        """Take back a run that was begun here and has not ended."""
        for table in ("metrics", "latest_metrics", "params", "tags"):
            self.execute(f"DELETE FROM {table} WHERE run_uuid=?", run_id)
        edges = "FROM inputs WHERE destination_type='RUN' AND destination_id=?"
        self.execute(f"DELETE FROM input_tags WHERE input_uuid IN (SELECT input_uuid {edges})", run_id)
        self.execute(f"DELETE {edges}", run_id)
        self.execute("DELETE FROM runs WHERE run_uuid=?", run_id)

    def begin_again(self, run_id: str) -> None:
        """Take up a run of ours that has ended."""
        self.execute("UPDATE runs SET status='RUNNING', end_time=NULL WHERE run_uuid=?", run_id)

    def end(self, run_id: str, status: str, end_time: int | None) -> None:
        """Close a run."""
        self.execute("UPDATE runs SET status=?, end_time=? WHERE run_uuid=?", status, end_time, run_id)


def revision(path: Path) -> str | None:
    """Return the schema revision of a store, None where there is no store."""
    try:
        address = to_read(path) or f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            [(found,)] = connection.execute("SELECT version_num FROM alembic_version")
            return found
    except (sqlite3.Error, ValueError, OSError):
        return None


def to_read(path: Path) -> str | None:
    """Return SQLite's address of a file that is only read, so that nothing appears beside it.

    None: it has a write-ahead log that nobody is using, and which can't be read without writing.
    """
    uri = path.absolute().as_uri()
    with path.open("rb") as file:
        in_wal_mode = file.read(20)[18:] == b"\x02\x02"
    if not in_wal_mode or path.with_name(f"{path.name}-shm").exists():
        return f"{uri}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    return None if log.exists() and log.stat().st_size else f"{uri}?immutable=1"


def _storable(value: float) -> tuple[float, int]:
    """Return a number as MLflow stores it, and whether it was NaN."""
    if math.isfinite(value):
        return value, 0
    if math.isnan(value):
        return 0.0, 1
    return math.copysign(sys.float_info.max, value), 0


@cache
def _legal(key: str) -> str:
    """Return the name that MLflow takes for a metric."""
    return _ILLEGAL.sub("_", key)[:250]
