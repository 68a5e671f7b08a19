"""Runs carried from a SQLite store to where they belong: a server, or another store.

Both ways may be cut off anywhere and repeated: what is there already is not written twice.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gdexp.config.refusal import Refusal
from gdexp.tracking import begins, endings, places
from gdexp.tracking.address import database, without_password
from gdexp.tracking.adopted import Adopted
from gdexp.tracking.places import artifact_location
from gdexp.tracking.sqlite import DatasetRow, DeletedExperiment, Number, Run, Tables

ORIGIN = "gdexp.origin"  # on a server: the id that the run has where it was made
CHECKPOINTS = "checkpoints"  # the folder of a run's states, which only this machine can go on from
REMOTE = "gdexp.remote"  # in a spool: the id that the run has on the server
_BATCH = 1000  # metrics in a request, MLflow's own limit
_FEW = 100  # params or tags in a request, likewise
_ATTEMPTS = 5


class Server:
    """The far end of a synchronisation.

    Args:
        uri: for MLflow's own client.
    """

    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._uri, self._client = uri, MlflowClient(uri)
        self._experiments: dict[str, str] = {}
        self._adopted: str | None = None

    def begin(self, tables: Tables, run_id: str, artifact_location: str | None = None) -> str:
        """Make a run on the server, marked with its id here, should the answer be lost; return its id there."""
        mark = {} if database(self._uri) is not None else {ORIGIN: run_id}  # no answer of a file is lost
        return self._made(tables, run_id, artifact_location, mark)

    def adopt(self, tables: Tables, run_id: str, run: Adopted) -> str:
        """Take a run that is on the server for one that is here; what it has already stays. Return its id."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise run.missing(without_password(self._uri)) from error
        info, data = found.info, found.data
        run.check(info.status, info.lifecycle_stage, self._client.get_experiment(info.experiment_id).name, data.tags)
        self._adopted = run.run_id
        with tables.transaction():
            for table, theirs in (("params", data.params), ("tags", data.tags)):
                for key in theirs:
                    tables.execute(f"DELETE FROM {table} WHERE run_uuid=? AND key=?", run_id, key)
        return run.run_id

    def find(self, tables: Tables, run_id: str) -> str:
        """Return the id of a run that was sent before, or make it and mark it with the id that it has here."""
        return self._found(run_id) or self._made(tables, run_id, None, {ORIGIN: run_id})

    def _made(self, tables: Tables, run_id: str, artifact_location: str | None, tags: dict[str, str]) -> str:
        [(name, user, start, experiment)] = tables.select(
            "SELECT r.name, r.user_id, r.start_time, e.name FROM runs r JOIN experiments e USING (experiment_id)"
            " WHERE run_uuid=?",
            run_id,
        )
        where = self._experiment(experiment, artifact_location)
        tags = {"mlflow.user": user, **tags}
        return self._client.create_run(where, start_time=start, tags=tags, run_name=name).info.run_id

    def send_description(self, tables: Tables, run_id: str, remote: str) -> Iterator[None]:
        """Send tags, params and dataset inputs; yield after each answer."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        tags = [RunTag(k, v) for k, v in _tags(tables, run_id).items() if k != "mlflow.runName"]
        params = [Param(k, v) for k, v in tables.select("SELECT key, value FROM params WHERE run_uuid=?", run_id)]
        for some in _parts(tags, _FEW):
            self._client.log_batch(remote, tags=some)
            yield
        for few in _parts(params, _FEW):
            self._client.log_batch(remote, params=few)
            yield
        for data in datasets(tables, run_id):
            inputs = [InputTag("mlflow.data.context", data.context)] if data.context else []
            self._add_input(remote, DatasetInput(Dataset(*data[:6]), inputs))
            yield

    def send_numbers(self, tables: Tables, run_id: str, remote: str, after: int = 0) -> Iterator[int]:
        """Send the metrics that came after a row; yield the last row sent, again and again."""
        from mlflow.entities import Metric

        while rows := tables.select(
            "SELECT rowid, key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid=? AND rowid>?"
            f" ORDER BY rowid LIMIT {_BATCH}",
            *(run_id, after),
        ):
            numbers = [Metric(k, float("nan") if nan else v, t, s) for _, k, v, t, s, nan in rows]
            self._client.log_batch(remote, metrics=numbers)
            after = rows[-1][0]
            yield after

    def send_end(self, tables: Tables, run_id: str, remote: str) -> Iterator[int]:
        """Send artifacts, but for checkpoints, then how the run ended; yield the size of each before it is sent."""
        [(uri, status, end)] = tables.select("SELECT artifact_uri, status, end_time FROM runs WHERE run_uuid=?", run_id)
        folder = places.folder(tables.path, uri, run_id)
        for path in places.files(folder) if folder is not None else ():
            inside = path.relative_to(folder)  # type: ignore[arg-type]
            if inside.parts[0] != CHECKPOINTS:
                yield path.stat().st_size
                self._send_file(remote, path, inside)
        yield 0
        if status != "RUNNING":
            self._client.set_terminated(remote, status, end_time=end)

    def try_artifacts(self, tables: Tables, run_id: str, remote: str) -> None:
        """Send the first text of a run, so that it is known before training whether any can be sent.

        Raises:
            Refusal: none can.
        """
        [(uri, experiment)] = tables.select(
            "SELECT artifact_uri, e.name FROM runs JOIN experiments e USING (experiment_id) WHERE run_uuid=?", run_id
        )
        folder = places.local_path(uri)
        path = next(places.files(folder), None) if folder is not None else None
        if folder is None or path is None:
            return
        try:
            self._send_file(remote, path, path.relative_to(folder))
        except Exception as error:  # of any of the stores of artifacts that MLflow knows
            self.delete(remote)
            where = self._client.get_run(remote).info.artifact_uri.partition(remote)[0]
            raise unwritable(experiment, where, str(error).splitlines()[0]) from error

    def _send_file(self, remote: str, path: Path, inside: Path) -> None:
        folder = inside.parent.as_posix()
        self._client.log_artifact(remote, str(path), None if folder == "." else folder)

    def delete(self, remote: str) -> None:
        """Delete a run that was begun here and is begun again in another way, if it is still there."""
        from mlflow.exceptions import MlflowException

        if remote == self._adopted:
            return
        try:
            self._client.delete_run(remote)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def close(self) -> None:
        """Close the connections of a database that MLflow's client keeps open, so that its file can come to rest."""
        store = getattr(getattr(self._client, "_tracking_client", None), "store", None)
        if (engine := getattr(store, "engine", None)) is not None:
            engine.dispose()

    def _add_input(self, remote: str, entry: Any) -> None:
        """Add a dataset input; MLflow fails if another process adds the same data at that moment."""
        from mlflow.exceptions import MlflowException

        for attempt in range(_ATTEMPTS):
            try:
                self._client.log_inputs(remote, [entry])
                return
            except MlflowException as error:
                if "UNIQUE" not in str(error).upper() or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.05)

    def _experiment(self, name: str, location: str | None) -> str:
        """Return the id of an experiment of that name, made if there is none."""
        from mlflow.exceptions import MlflowException

        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage != "active":
                raise DeletedExperiment(name)
            try:
                self._experiments[name] = (
                    found.experiment_id if found else self._client.create_experiment(name, artifact_location=location)
                )
            except MlflowException:  # another process made it just now
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _found(self, run_id: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id).info.run_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        every = [e.experiment_id for e in self._client.search_experiments()]
        found = self._client.search_runs(every, f"tags.`{ORIGIN}` = '{run_id}'", order_by=["attributes.start_time"])
        if not found:
            return None
        kept = max(found, key=lambda run: ("gdexp.version" in run.data.tags, len(run.data.metrics)))
        for again in found:  # an answer was lost, and the client asked once more
            if again is not kept and self._is_empty(again):
                self._client.delete_run(again.info.run_id)
        return kept.info.run_id

    def _is_empty(self, run: Any) -> bool:
        """Say whether a run is as it was made by us, and nobody has written anything into it since."""
        made_with = {ORIGIN, "mlflow.user", "mlflow.runName"}
        is_new = run.info.status == "RUNNING" and run.data.tags.keys() <= made_with
        written = run.data.params or run.data.metrics or run.inputs.dataset_inputs
        return is_new and not written and not self._client.list_artifacts(run.info.run_id)


def unwritable(experiment: str, where: str, reason: str) -> Refusal:
    """Return what is said of an experiment whose artifacts can't be written from here."""
    return Refusal(
        f"`tracking.experiment`: the artifacts of {experiment!r} are kept at {where}, where nothing can be written"
        f" from here ({reason}); choose another experiment, or the server that keeps them by tracking.uri=http://…"
    )


def finished(tables: Tables) -> list[str]:
    """Return the ids of the runs that have ended, the oldest first."""
    ended = f"status!='RUNNING' AND lifecycle_stage='active' AND {places.IS_RUN_ID}"  # no other is a run of MLflow's
    sql = f"SELECT run_uuid FROM runs WHERE {ended} ORDER BY start_time"
    return [run_id for (run_id,) in tables.select(sql)]


def running(tables: Tables) -> int:
    """Return how many runs are still training."""
    return tables.select("SELECT count(*) FROM runs WHERE status='RUNNING' AND lifecycle_stage='active'")[0][0]


def sync(tables: Tables, server: Server, run_id: str) -> str:
    """Send one run whole; return its id on the server."""
    remote = server.find(tables, run_id)
    for send in (server.send_description, server.send_numbers, server.send_end):
        for _ in send(tables, run_id, remote):
            pass
    return remote


def merge(source: Tables, target: Tables, run_id: str, files: Path | None = None) -> bool:
    """Copy one run into another store, under its id, unless that knows as much of it already.

    Args:
        source: where the run has ended.
        target: the other store.
        run_id: of the run.
        files: a folder with its artifacts, if they aren't where the source says. Such a run has come from a
            process that has ended it, so it may replace one that is still said to be running.

    Returns:
        whether there was anything to do.
    """
    [(uri, experiment)] = source.select(
        "SELECT artifact_uri, e.name FROM runs JOIN experiments e USING (experiment_id) WHERE run_uuid=?", run_id
    )
    there, theirs = _knowledge(target, run_id), _knowledge(source, run_id)
    if files is None and target.select("SELECT 1 FROM runs WHERE run_uuid=? AND status='RUNNING'", run_id):
        return False
    if there > theirs or (there == theirs and files is None):
        return False
    with endings.at_work(target.path):
        with target.transaction():
            _, location = target.experiment(experiment, artifact_location(target.path, experiment))
            begins.note(target, [run_id], location)
        new_uri = f"{location.rstrip('/')}/{run_id}/artifacts"
        old, new = files or places.folder(source.path, uri, run_id), places.local_path(new_uri)
        if old is not None and new is not None and old != new:
            _copy_tree(old, new)
        with target.transaction():  # the row comes last, so that it says that all is there
            copy_rows(source, target, run_id, new_uri)
            begins.forget(target, [run_id])
    return True


def copy_rows(source: Tables, target: Tables, run_id: str, uri: str) -> None:
    """Write all that a store has of a run but for its artifacts into another one, within a transaction there.

    Args:
        source: where the run is.
        target: the other store.
        run_id: of the run.
        uri: of its artifacts there.
    """
    [(name, user, start, status, end, experiment)] = source.select(
        "SELECT r.name, r.user_id, r.start_time, r.status, r.end_time, e.name"
        " FROM runs r JOIN experiments e USING (experiment_id) WHERE run_uuid=?",
        run_id,
    )
    number, _ = target.experiment(experiment, uri.partition(f"/{run_id}/")[0])
    target.add_run(Run(run_id, name, user, start, uri, number, status, end))
    target.add_tags(run_id, _tags(source, run_id))
    target.add_params(run_id, dict(source.select("SELECT key, value FROM params WHERE run_uuid=?", run_id)))
    rows = source.select("SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid=?", run_id)
    target.add_metrics(run_id, [Number(k, float("nan") if nan else v, t, s) for k, v, t, s, nan in rows])
    for data in datasets(source, run_id):
        target.add_dataset([run_id], number, data)


def _knowledge(tables: Tables, run_id: str) -> tuple[int, int, int]:
    """Return how much a store knows of a run, to be compared: the end first, then the steps, then the numbers."""
    rows = tables.select("SELECT status FROM runs WHERE run_uuid=?", run_id)
    if not rows:
        return (-1, 0, 0)
    [(last, count)] = tables.select("SELECT coalesce(max(step), 0), count(*) FROM metrics WHERE run_uuid=?", run_id)
    return ({"FINISHED": 1, "RUNNING": -1}.get(rows[0][0], 0), last, count)


def _copy_tree(old: Path, new: Path) -> None:
    """Copy a folder, each file whole or not at all, and no link."""
    for path in places.files(old):
        target = new / path.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.part")
        shutil.copy2(path, draft, follow_symlinks=False)
        draft.replace(target)


def _tags(tables: Tables, run_id: str) -> dict[str, str]:
    tags = dict(tables.select("SELECT key, value FROM tags WHERE run_uuid=?", run_id))
    return {k: v for k, v in tags.items() if k not in (endings.HEARTBEAT, REMOTE)}


def datasets(tables: Tables, run_id: str) -> Iterator[DatasetRow]:
    rows = tables.select(
        "SELECT d.name, d.digest, d.dataset_source_type, d.dataset_source, d.dataset_schema, d.dataset_profile, t.value"
        " FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id"
        " LEFT JOIN input_tags t ON t.input_uuid = i.input_uuid AND t.name = 'mlflow.data.context'"
        " WHERE i.destination_type='RUN' AND i.source_type='DATASET' AND i.destination_id=?",
        run_id,
    )
    return (DatasetRow(*row) for row in rows)


def _parts(entries: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
