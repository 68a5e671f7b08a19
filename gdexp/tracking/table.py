"""The runs of a store as rows: what tables, comparisons and repeated sweeps read.

A SQLite store whose schema is known is read directly, any other by MLflow's client. Knows no torch.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gdexp.config.refusal import Refusal, nearest
from gdexp.tracking.frame import columns, frame
from gdexp.tracking.sqlite import Tables
from gdexp.tracking.store import database, opened, store_uri
from gdexp.watch import better

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.tracking import MlflowClient

    Curves = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # places, steps, values

RUN_ID = re.compile(r"[0-9a-f]{32}")
_MEASURED = re.compile(r"(train|val)_(?!.*_step$)")  # metrics that have a best value


class Row(NamedTuple):
    """One run."""

    run_id: str
    name: str
    status: str
    experiment: str
    start_time: int  # ms
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]  # gdexp's own
    metrics: dict[str, float]  # the last of each
    epoch: int  # the last one recorded

    @property
    def outcome(self) -> str | None:
        return self.tags.get("gdexp.outcome")

    @property
    def is_summary(self) -> bool:
        return self.tags.get("gdexp.kind") == "sweep"


class Which(NamedTuple):
    """Runs of a store: those that fit all that is given."""

    experiment: str | None = None
    sweep: str | None = None
    run_ids: Sequence[str] | None = None
    jobs: bool = False  # only those of sweeps that are finished


class Reader(Protocol):
    """An open store."""

    uri: str

    def rows(self, which: Which = ...) -> list[Row]:
        """Return runs, the newest first."""

    def extremes(self, keys: Sequence[str]) -> dict[str, dict[int, tuple[float, float]]]:
        """Return the smallest and the largest value of metrics, by the place of the run in the last `rows`."""

    def curves(self, keys: Sequence[str]) -> "Curves":
        """Return places in the last `rows`, steps and values of metrics, by place and step in order."""

    def first(self, key: str, places: Sequence[int]) -> dict[int, float]:
        """Return the value of a metric at step 1 of runs at some places."""

    def experiments(self, deleted: bool = False) -> list[str]:
        """Return the names of the experiments that aren't deleted, or those that are."""

    def newest_sweep(self) -> str | None:
        """Return the id of the sweep whose run began last."""

    def search(self, filter: str) -> list[str]:
        """Return the ids of the runs that a filter in MLflow's syntax finds."""


@contextmanager
def reading(uri: str | None = None, *, direct: bool = True) -> Iterator[Reader]:
    """Open a store that is there, and leave no open file behind.

    Args:
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.
        direct: whether a SQLite store may be read directly.

    Raises:
        Refusal: there is none, or it doesn't answer.
    """
    uri = store_uri(uri)
    db = _there(uri)
    tables = opened(db) if direct and db is not None else None
    if tables is not None:
        try:
            yield Direct(uri, tables)
        finally:
            tables.close()
        return
    with client(uri) as opened_client:
        yield ByClient(uri, opened_client)


def _there(uri: str) -> Path | None:
    """Return the file of a SQLite store, which must be there; None for any other."""
    db = database(uri)
    if db is not None and not db.is_file():
        raise Refusal(f"no store at {db}: run something first, or name another by its URI")
    return db


@contextmanager
def client(uri: str) -> "Iterator[MlflowClient]":
    """Open a store by MLflow's client, and leave no open file behind."""
    db = _there(uri)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from gdexp.tracking.client import Unreachable, answers

    if db is not None and (tables := opened(db)) is not None:  # which puts right what a move or a kill left
        tables.close()
    try:
        answers(uri)
        found = MlflowClient(uri)
    except (Unreachable, MlflowException) as error:
        raise Refusal(f"`tracking.uri`: {str(error).splitlines()[0]}") from error
    try:
        yield found
    finally:
        if db is not None:
            found._tracking_client.store.engine.dispose()


class Direct:
    """The direct way, through the tables.

    Args:
        uri: of the store.
        tables: open.
    """

    def __init__(self, uri: str, tables: Tables) -> None:
        self.uri = uri
        self._tables = tables

    def rows(self, which: Which = Which()) -> list[Row]:  # noqa: B008
        """Return runs, the newest first."""
        select = self._choose(which)
        count = select("SELECT count(*) FROM chosen")[0][0]
        params: list[dict[str, str]] = [{} for _ in range(count)]
        tags: list[dict[str, str]] = [{} for _ in range(count)]
        # one text a run is read in half the time of its rows
        together = "SELECT i, json_group_object(key, value) FROM chosen CROSS JOIN {} USING (run_uuid) {} GROUP BY i"
        for i, text in select(together.format("params", "")):
            params[i] = json.loads(text)
        for i, text in select(together.format("tags", "WHERE substr(key, 1, 6)='gdexp.'")):
            tags[i] = json.loads(text)
        metrics: list[dict[str, float]] = [{} for _ in range(count)]
        epochs = [0] * count
        latest = "SELECT i, key, value, step, is_nan FROM chosen JOIN latest_metrics USING (run_uuid)"
        for i, key, value, step, is_nan in select(latest):
            metrics[i][key] = float("nan") if is_nan else value
            epochs[i] = step if key == "train_loss" else epochs[i]
        about = select(
            "SELECT i, r.run_uuid, r.name, r.status, e.name, r.start_time, r.end_time FROM chosen"
            " JOIN runs r USING (run_uuid) JOIN experiments e USING (experiment_id) ORDER BY i"
        )
        return [Row(*own, params[i], tags[i], metrics[i], epochs[i]) for i, *own in about]  # type: ignore[call-arg]

    def extremes(self, keys: Sequence[str]) -> dict[str, dict[int, tuple[float, float]]]:
        """Return the smallest and the largest value of metrics, by the place of the run in the last `rows`."""
        found: dict[str, dict[int, tuple[float, float]]] = {key: {} for key in keys}
        sql = "SELECT i, key, min(value), max(value) FROM chosen CROSS JOIN metrics USING (run_uuid) GROUP BY i, key"
        for i, key, least, most in self._tables.select(sql):
            if key in found:
                found[key][i] = least, most
        return found

    def curves(self, keys: Sequence[str]) -> "Curves":
        """Return places in the last `rows`, steps and values of metrics, by place and step in order."""
        import numpy as np

        found = {}
        for key in keys:
            # the + keeps SQLite from walking all runs' values of the key once for each run
            sql = (
                "SELECT i, step, value FROM chosen CROSS JOIN metrics USING (run_uuid)"
                " WHERE +key=? AND NOT is_nan ORDER BY i, step, timestamp"
            )
            table = np.array(self._tables.select(sql, key), dtype=np.float64).reshape(-1, 3)
            found[key] = table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2]
        return found

    def first(self, key: str, places: Sequence[int]) -> dict[int, float]:
        """Return the value of a metric at step 1 of runs at some places."""
        sql = (
            "SELECT i, value FROM chosen CROSS JOIN metrics USING (run_uuid)"
            " WHERE i IN (SELECT value FROM json_each(?)) AND +key=? AND step=1"
        )
        return dict(self._tables.select(sql, json.dumps(list(places)), key))

    def experiments(self, deleted: bool = False) -> list[str]:
        """Return the names of the experiments that aren't deleted, or those that are."""
        stage = "deleted" if deleted else "active"
        return [name for (name,) in self._tables.select("SELECT name FROM experiments WHERE lifecycle_stage=?", stage)]

    def newest_sweep(self) -> str | None:
        """Return the id of the sweep whose run began last."""
        found = self._tables.select(
            "SELECT t.value FROM tags t JOIN runs r USING (run_uuid) JOIN experiments e USING (experiment_id)"
            " WHERE t.key='gdexp.sweep' AND r.lifecycle_stage='active' AND e.lifecycle_stage='active'"
            " ORDER BY r.start_time DESC LIMIT 1"
        )
        return found[0][0] if found else None

    def search(self, filter: str) -> list[str]:
        """Return the ids of the runs that a filter in MLflow's syntax finds."""
        with client(self.uri) as opened_client:
            return ByClient(self.uri, opened_client).search(filter)

    def _choose(self, which: Which) -> Any:
        """Number the runs from 0, in a table of this connection."""
        clauses, values = ["r.lifecycle_stage='active'", "e.lifecycle_stage='active'"], []
        tagged = "r.run_uuid IN (SELECT run_uuid FROM tags WHERE key=?"
        if which.experiment is not None:
            clauses.append("e.name=?")
            values.append(which.experiment)
        if which.sweep is not None:
            clauses.append(f"{tagged} AND value=?)")
            values += ["gdexp.sweep", which.sweep]
        if which.jobs:
            clauses += [f"{tagged})", "r.status='FINISHED'"]
            values.append("gdexp.job")
        if which.run_ids is not None:
            clauses.append("r.run_uuid IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(list(which.run_ids)))
        execute = self._tables.execute
        execute("DROP TABLE IF EXISTS temp.chosen")
        execute("CREATE TEMP TABLE chosen (i INTEGER PRIMARY KEY, run_uuid TEXT UNIQUE)")
        order = "row_number() OVER (ORDER BY r.start_time DESC, r.rowid DESC) - 1, r.run_uuid"
        source = f"runs r JOIN experiments e USING (experiment_id) WHERE {' AND '.join(clauses)}"
        execute(f"INSERT INTO chosen SELECT {order} FROM {source}", *values)
        return self._tables.select


class ByClient:
    """The way by MLflow's client.

    Args:
        uri: of the store.
        client: open.
    """

    def __init__(self, uri: str, client: "MlflowClient") -> None:
        self.uri = uri
        self._client = client
        self._rows: list[Row] = []

    def rows(self, which: Which = Which()) -> list[Row]:  # noqa: B008
        """Return runs, the newest first."""
        clauses = []
        if which.sweep is not None:
            clauses.append(f"tags.\"gdexp.sweep\" = '{which.sweep}'")
        if which.jobs:
            clauses += ["tags.\"gdexp.job\" LIKE '%'", "attributes.status = 'FINISHED'"]
        if which.run_ids is not None:
            clauses.append(f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in which.run_ids)})")
        self._rows = list(self._pages(" AND ".join(clauses), which.experiment))
        return self._rows

    def extremes(self, keys: Sequence[str]) -> dict[str, dict[int, tuple[float, float]]]:
        """Return the smallest and the largest value of metrics, by the place of the run in the last `rows`."""
        histories = {key: self._histories(key) for key in keys}
        return {
            key: {i: (min(v for _, v in h), max(v for _, v in h)) for i, h in found.items()}
            for key, found in histories.items()
        }

    def curves(self, keys: Sequence[str]) -> "Curves":
        """Return places in the last `rows`, steps and values of metrics, by place and step in order."""
        import numpy as np

        found = {}
        for key in keys:
            rows = [(i, *point) for i, history in self._histories(key).items() for point in history]
            table = np.array(rows, dtype=np.float64).reshape(-1, 3)
            found[key] = table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2]
        return found

    def first(self, key: str, places: Sequence[int]) -> dict[int, float]:
        """Return the value of a metric at step 1 of runs at some places."""
        histories = self._histories(key, places)
        return {i: v for i, history in histories.items() for step, v in history if step == 1}

    def experiments(self, deleted: bool = False) -> list[str]:
        """Return the names of the experiments that aren't deleted, or those that are."""
        return [e.name for e in self._client.search_experiments(view_type=2 if deleted else 1)]

    def newest_sweep(self) -> str | None:
        """Return the id of the sweep whose run began last."""
        found = next(iter(self._pages("tags.\"gdexp.sweep\" LIKE '%'", most=1)), None)
        return found and found.tags["gdexp.sweep"]

    def search(self, filter: str) -> list[str]:
        """Return the ids of the runs that a filter in MLflow's syntax finds."""
        return [row.run_id for row in self._pages(filter)]

    def _histories(self, key: str, places: Sequence[int] | None = None) -> dict[int, list[tuple[int, float]]]:
        wanted = range(len(self._rows)) if places is None else places
        with_key = [(i, self._rows[i]) for i in wanted if key in self._rows[i].metrics]
        history = self._client.get_metric_history
        found = {i: sorted((m.step, m.value) for m in history(row.run_id, key)) for i, row in with_key}
        return {i: [(step, v) for step, v in points if v == v] for i, points in found.items()}

    def _epoch(self, info: Any) -> int:
        """Return the last epoch of a run, which a client tells only with all of its numbers."""
        return max((m.step for m in self._client.get_metric_history(info.run_id, "train_loss")), default=0)

    def _pages(self, filter: str, experiment: str | None = None, most: int | None = None) -> Iterator[Row]:
        from mlflow.exceptions import MlflowException

        try:
            names = {e.experiment_id: e.name for e in self._client.search_experiments()}
            ids = [i for i, name in names.items() if experiment in (None, name)]
            token: str | None = None
            while ids:
                page = self._client.search_runs(ids, filter, max_results=most or 1000, page_token=token)
                for run in page:
                    info, data = run.info, run.data
                    tags = {k: v for k, v in data.tags.items() if k.startswith("gdexp.")}
                    last = self._epoch(info) if info.status == "RUNNING" else 0
                    times = info.start_time, info.end_time
                    about = info.run_id, info.run_name, info.status, names[info.experiment_id], *times
                    yield Row(*about, dict(data.params), tags, dict(data.metrics), last)
                if most or not (token := page.token):
                    return
        except MlflowException as error:
            raise Refusal(f"the store can't be searched: {str(error).splitlines()[0]}") from error


def runs(what: str | None = None, *, uri: str | None = None, curves: bool = False) -> "pd.DataFrame":
    """Read the runs of a store, the newest first.

    Args:
        what: name of an MLflow experiment or id of a sweep; None: all of the store.
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.
        curves: the long form, one row a number.

    Returns:
        one row a run: run_id, name, status, outcome, params, the final and, as `best_train_loss`, the best metrics by
        their names. Of the long form: run_id, name, key, step, value.

    Raises:
        ValueError: no such store, experiment or sweep.
    """
    with reading(uri) as reader:
        which = Which() if what is None else named(reader, what)
        rows = reader.rows(which)
        keys = sorted({key for row in rows for key in row.metrics})
        if curves:
            return _long(rows, reader.curves(keys))
        best = reader.extremes([key for key in keys if _MEASURED.match(key)])
    places = [i for i, row in enumerate(rows) if not row.is_summary]
    found = columns([rows[i] for i in places])
    for key, extremes in best.items():
        side = 1 if better(key) == "max" else 0
        found[f"best_{key}"] = [extremes[i][side] if i in extremes else None for i in places]
    return frame(found)


def named(reader: Reader, what: str) -> Which:
    """Return the runs of an experiment or a sweep.

    Raises:
        Refusal: there is none of that name.
    """
    experiments = reader.experiments()
    if what in experiments:
        return Which(experiment=what)
    if RUN_ID.fullmatch(what) and reader.rows(Which(sweep=what)):
        return Which(sweep=what)
    raise Refusal(f"no experiment or sweep {what!r} in {reader.uri}{nearest(what, experiments)}")


def _long(rows: Sequence[Row], curves: "Curves") -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    places = np.concatenate([np.empty(0, int), *(c[0] for c in curves.values())])
    steps = np.concatenate([np.empty(0, int), *(c[1] for c in curves.values())])
    values = np.concatenate([np.empty(0), *(c[2] for c in curves.values())])
    which = np.repeat(np.arange(len(curves)), [len(c[0]) for c in curves.values()])
    order = np.lexsort((steps, which, places))
    kept = order[~np.array([r.is_summary for r in rows], dtype=bool)[places[order]]]

    def labels(texts: list[str], at: "np.ndarray") -> pd.Categorical:
        codes, categories = pd.factorize(np.array(texts, dtype=object))
        return pd.Categorical.from_codes(codes[at], pd.Index(categories, dtype=object))

    return pd.DataFrame(
        {
            "run_id": labels([r.run_id for r in rows], places[kept]),
            "name": labels([r.name for r in rows], places[kept]),
            "key": labels(list(curves), which[kept]),
            "step": steps[kept],
            "value": values[kept],
        }
    )
