"""Runs read directly from the tables of a SQLite store."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gdexp.tracking.places import IS_RUN_ID
from gdexp.tracking.reader import Row, Which, client, with_gaps
from gdexp.tracking.sqlite import Tables

if TYPE_CHECKING:
    from gdexp.tracking.reader import Curves


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
        last = [with_gaps(own, tags[i]) for i, own in enumerate(metrics)]
        return [Row(*own, params[i], tags[i], last[i], epochs[i]) for i, *own in about]  # type: ignore[call-arg]

    def extremes(self, keys: Sequence[str]) -> dict[str, dict[int, tuple[float, float]]]:
        """Return the smallest and the largest value of metrics, by the place of the run in the last `rows`."""
        found: dict[str, dict[int, tuple[float, float]]] = {key: {} for key in keys}
        sql = (
            "SELECT i, key, min(value), max(value) FROM chosen CROSS JOIN metrics USING (run_uuid)"
            " WHERE NOT is_nan GROUP BY i, key"
        )
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
        from gdexp.tracking.read_by_client import ByClient

        with client(self.uri) as opened_client:
            return ByClient(self.uri, opened_client).search(filter)

    def _choose(self, which: Which) -> Any:
        """Number the runs from 0, in a table of this connection."""
        clauses, values = ["r.lifecycle_stage='active'", "e.lifecycle_stage='active'", IS_RUN_ID], []
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
