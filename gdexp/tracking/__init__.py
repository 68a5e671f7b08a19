"""What a run leaves behind. The only folder that knows MLflow.

    with start(config, name=…, params=…, tags=…, texts={"config.yaml": …}) as record:
        record.add(step, {"train_loss": 0.5})
        record.finish("completed", {"weights": weights})

Leaving the block without `finish` closes the record as FAILED, or as KILLED on an interruption.
"""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor

    from gdexp.data.identity import Identity
    from gdexp.tracking.recorder import Begun

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by MLflow when it is imported
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # one line for each run


class Record(Protocol):
    """The record of one run while it is being written."""

    run_id: str | None
    name: str
    status: str
    uri: str | None  # of the store that has it

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one epoch; those that aren't finite are left out."""

    def finish(
        self, outcome: str, files: "Mapping[str, Mapping[str, Tensor]]", tags: Mapping[str, object] | None = None
    ) -> None:
        """Close the record of a run that came to its end, with its files NAME.safetensors."""

    def keep(self, weights: "Mapping[str, Tensor]") -> None:
        """Say what to save should the run be cut off: the live weights."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def start(
    config: Mapping[str, Any],
    *,
    study: str | None,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    texts: Mapping[str, str],
    data: "Identity | None" = None,
) -> Record:
    """Open the store and begin a run in it.

    A SQLite store whose schema is known is written directly, any other by MLflow's client; where
    nothing answers, the run is kept in the local store.

    Args:
        config: the `tracking` node.
        study: name of the `experiments/` file, the MLflow experiment's default name.
        name: of the run.
        params: written once.
        tags: likewise, beside those that every run gets.
        texts: artifacts that are there from the start, by their names.
        data: recorded as MLflow's dataset input.

    Raises:
        Refusal: the store can't be opened or written.
    """
    if config["writer"] == "none":
        from gdexp.tracking.nothing import Unrecorded

        return Unrecorded(name)
    from gdexp.tracking.recorder import Begun
    from gdexp.tracking.store import store_uri

    experiment = config["experiment"] or os.environ.get("MLFLOW_EXPERIMENT_NAME") or study or "gdexp"
    begun = Begun(
        name=name, experiment=experiment, params=params, tags=tags, texts=texts, data=data and data.as_mlflow()
    )
    return _opened(store_uri(config["uri"]), begun, direct=config["writer"] == "auto")


def _opened(uri: str, begun: "Begun", direct: bool) -> Record:
    from gdexp.tracking.recorder import ArtifactsElsewhere, Recorder
    from gdexp.tracking.store import artifact_location, database, ensure, opened

    location = None
    if (db := database(uri)) is not None:
        location = artifact_location(db, begun.experiment)
        if direct and (tables := opened(db)) is not None:
            try:
                return Recorder(tables, begun, location)
            except ArtifactsElsewhere:
                tables.close()
        ensure(db)
    from gdexp.tracking.client import ForwardingRecorder, Unreachable, instead

    try:
        return ForwardingRecorder(uri, begun, location)
    except Unreachable as error:
        return _opened(instead(uri, error), begun, direct)
