"""Runs read by MLflow's client."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gdexp.config.refusal import Refusal
from gdexp.tracking.reader import Row, Which, with_gaps

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from gdexp.tracking.reader import Curves


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
                    yield Row(*about, dict(data.params), tags, with_gaps(dict(data.metrics), tags), last)
                if most or not (token := page.token):
                    return
        except MlflowException as error:
            raise Refusal(f"the store can't be searched: {str(error).splitlines()[0]}") from error
