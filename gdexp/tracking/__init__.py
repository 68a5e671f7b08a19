"""What runs leave behind. The only folder that knows MLflow.

    with start(config, [Description(name=…, params=…, tags=…, texts={"config.yaml": …})]) as record:
        record.add(step, {"train_loss": 0.5})
        record.finish("completed", {"weights": weights})

Runs that train together have one record. Leaving the block closes the runs without `finish` as FAILED,
or as KILLED on an interruption.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self
from uuid import uuid4

from gdexp.config.refusal import Refusal

if TYPE_CHECKING:
    from torch import Tensor

    from gdexp.data.identity import Identity
    from gdexp.tracking.adopted import Adopted
    from gdexp.tracking.claims import Claims
    from gdexp.tracking.frame import Result
    from gdexp.tracking.whole import Begun

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by MLflow when it is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # whoever sends here tries again, and knows how long
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # one line for each run

_LONGEST_NAME = 250  # of an experiment: MLflow's column


class Description(NamedTuple):
    """A run as it begins.

    Args:
        name: of the run.
        params: written once.
        tags: likewise, beside those that every run gets.
        texts: artifacts that are there from the start, by their names.
    """

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    texts: Mapping[str, str]


class Record(Protocol):
    """The record of runs while it is being written; `run` counts them from 0."""

    run_ids: list[str | None]
    statuses: list[str]
    folders: "Sequence[Path]"  # of the artifacts, on this machine; empty: nothing is kept
    uri: str | None  # of the store that has it

    @property
    def lost(self) -> Mapping[int, str]:
        """The runs that another process has taken over, and the line that says so."""

    def add(self, step: int, metrics: Mapping[str, float], run: int = 0) -> None:
        """Record numbers of one epoch; those that aren't finite are left out."""

    def finish(
        self,
        outcome: str,
        files: "Mapping[str, Mapping[str, Tensor]]",
        tags: Mapping[str, object] | None = None,
        run: int = 0,
    ) -> None:
        """Take the end of a run, with its files NAME.safetensors, which may not change any more."""

    def add_texts(self, texts: Mapping[str, str]) -> None:
        """Record texts that the runs have come to use since they began, by their names."""

    def keep(self, weights: "Callable[[int], Mapping[str, Tensor]]") -> None:
        """Say what to save of a run should it be cut off: the live weights."""

    def flush(self) -> Sequence[str]:
        """Write what has come in; return what could not be written."""

    def withdraw(self) -> None:
        """Take all runs back: they are begun again in another way."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def start(
    config: Mapping[str, Any],
    runs: Sequence[Description],
    *,
    study: str | None = None,
    data: "Identity | None" = None,
    adopts: bool = False,
) -> Record:
    """Open the store and begin runs in it.

    A SQLite store whose schema is known is written directly, any other by MLflow's client; where
    nothing answers, the runs are kept in the local store.

    Args:
        config: the `tracking` node.
        runs: that train together.
        study: name of the `experiments/` file, the MLflow experiment's default name.
        data: recorded as MLflow's dataset input.
        adopts: whether the record goes into the run that MLFLOW_RUN_ID names, if it names one.

    Raises:
        Refusal: the store can't be opened or written.
    """
    if config["writer"] == "none":
        from gdexp.tracking.nothing import Unrecorded

        return Unrecorded(len(runs))
    from gdexp.tracking.adopted import Adopted
    from gdexp.tracking.sqlite import DatasetRow
    from gdexp.tracking.store import store_uri
    from gdexp.tracking.whole import Begun

    adopted = Adopted.of_environment(config) if adopts else None
    experiment = _experiment(config, study)
    seen = data and DatasetRow(*data.as_mlflow())
    begun = [Begun(run.name, experiment, run.params, run.tags, run.texts, seen) for run in runs]
    # in order, as SQLite keeps its indexes: rows of many runs are written in a fifth less time
    ids = [adopted.run_id] if adopted else sorted(uuid4().hex for _ in begun)
    return _opened(store_uri(config["uri"]), begun, ids, direct=config["writer"] == "auto", adopted=adopted)


def again(config: Mapping[str, Any], run_id: str, name: str, tags: Mapping[str, str]) -> Record:
    """Take up the record of a run that was cut off.

    Args:
        config: the `tracking` node.
        run_id: of the run.
        name: of the run.
        tags: set anew.

    Raises:
        Refusal: the store is none that is written directly, or the run is still running.
    """
    from gdexp.tracking.recorder import ArtifactsElsewhere, Recorder
    from gdexp.tracking.store import database, is_there, opened, store_uri
    from gdexp.tracking.whole import Begun

    db = database(store_uri(config["uri"]))
    tables = opened(db) if db is not None and is_there(db) else None
    if tables is None:
        raise Refusal("a run goes on in the SQLite store where it was begun: name it by tracking.uri=sqlite:///…")
    try:
        return Recorder(tables, [Begun(name, "", {}, tags, {}, None)], "", run_id)
    except (ArtifactsElsewhere, Refusal) as error:
        tables.close()
        raise Refusal(f"run {run_id} can't go on: {error}") from error


def ready(config: Mapping[str, Any]) -> None:
    """Refuse a SQLite store that can't be opened or written, before much is trained for it."""
    from gdexp.tracking.store import database, ensure, store_uri

    if config["writer"] != "none" and (db := database(store_uri(config["uri"]))) is not None:
        ensure(db, direct=config["writer"] == "auto")


def finished_jobs(
    config: Mapping[str, Any], study: str | None = None, extremes: Sequence[str] = ()
) -> dict[str, "list[Result]"]:
    """Return the finished runs of sweeps that a store has, by the key of their job.

    Args:
        config: the `tracking` node.
        study: as in `start`.
        extremes: metrics of which also the smallest and the largest value are wanted.
    """
    if config["writer"] == "none":
        return {}
    from gdexp.tracking.done import finished
    from gdexp.tracking.store import store_uri

    direct = config["writer"] == "auto"
    return finished(store_uri(config["uri"]), _experiment(config, study), direct=direct, extremes=extremes)


def claims_of(config: Mapping[str, Any], study: str | None = None) -> "Claims":
    """Return what a sweep claims its jobs with.

    Args:
        config: the `tracking` node.
        study: as in `start`.
    """
    from gdexp.tracking.claims import of_command

    return of_command(config, _experiment(config, study))


def _experiment(config: Mapping[str, Any], study: str | None) -> str:
    from gdexp.tracking.experiment import of_environment

    name = config["experiment"] or of_environment(config["uri"]) or study or "gdexp"
    if len(name) > _LONGEST_NAME:
        raise Refusal(f"MLFLOW_EXPERIMENT_NAME must be at most {_LONGEST_NAME} characters long, got {len(name)}")
    return name


def _opened(
    uri: str,
    begun: "Sequence[Begun]",
    ids: Sequence[str],
    direct: bool,
    adopted: "Adopted | None" = None,
    is_there: bool = True,
) -> Record:
    """Begin runs, with ids that they keep where another store than this takes them."""
    from gdexp.tracking.places import artifact_location
    from gdexp.tracking.recorder import ArtifactsElsewhere, Recorder
    from gdexp.tracking.store import database, ensure, opened
    from gdexp.tracking.transfer import unwritable

    location = None
    if (db := database(uri)) is not None:
        location = artifact_location(db, begun[0].experiment)
        if direct and (tables := opened(db)) is not None:
            try:
                return Recorder(tables, begun, location, ids=ids, adopted=adopted, is_there=is_there)
            except ArtifactsElsewhere as elsewhere:
                tables.close()
                if str(elsewhere).startswith("mlflow-artifacts:"):  # a server's own, and this isn't one
                    reason = "they are a server's"
                    raise unwritable(begun[0].experiment, str(elsewhere).rpartition("/")[0], reason) from None
        ensure(db, direct=False)
    from gdexp.tracking.client import ForwardingRecorder, Unreachable, instead

    try:
        return ForwardingRecorder(uri, begun, ids, location, adopted)
    except Unreachable as error:
        return _opened(instead(uri, error), begun, ids, direct, adopted, is_there=False)
