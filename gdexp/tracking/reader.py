"""The runs of a store as rows: what tables, comparisons and repeated sweeps read.

A SQLite store whose schema is known is read directly, any other by MLflow's client. Knows no torch.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gdexp.config.refusal import Refusal
from gdexp.tracking.snapshot import by_client, readable
from gdexp.tracking.sqlite import PAUSED
from gdexp.tracking.store import database, store_uri

if TYPE_CHECKING:
    import numpy as np
    from mlflow.tracking import MlflowClient

    Curves = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # places, steps, values


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
    def seconds(self) -> float:
        """How long the run has trained, NaN of one that hasn't ended; what lay between two commands doesn't count."""
        if self.end_time is None:
            return math.nan
        return (self.end_time - self.start_time - int(self.tags.get(PAUSED, 0))) / 1000

    @property
    def is_summary(self) -> bool:
        return self.tags.get("gdexp.kind") == "sweep"


def with_gaps(metrics: dict[str, float], tags: Mapping[str, str]) -> dict[str, float]:
    """Return a run's last metrics with NaN for those that ended so, of which a store has an earlier value only."""
    if "gdexp.nan" not in tags:
        return metrics
    gaps = json.loads(tags["gdexp.nan"])
    return metrics | {name: math.nan for name, gap in gaps.items() if gap["at_end"]}


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
    db = database(uri)
    from gdexp.tracking.read_by_client import ByClient
    from gdexp.tracking.read_tables import Direct

    with ExitStack() as stack:
        tables = stack.enter_context(readable(db)) if direct and db is not None else None
        yield Direct(uri, tables) if tables is not None else ByClient(uri, stack.enter_context(client(uri)))


@contextmanager
def client(uri: str) -> "Iterator[MlflowClient]":
    """Open a store by MLflow's client, and leave no open file behind."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from gdexp.tracking.client import Unreachable, answers

    with by_client(uri) as address:
        try:
            answers(uri)
            found = MlflowClient(address)
        except (Unreachable, MlflowException) as error:
            raise Refusal(f"`tracking.uri`: {str(error).splitlines()[0]}") from error
        try:
            yield found
        finally:
            if database(uri) is not None:
                found._tracking_client.store.engine.dispose()
