"""What a run leaves behind. The only folder that knows MLflow.

    with start(config, name=…, params=…, tags=…, config_yaml=…) as record:
        record.add(step, {"train_loss": 0.5})
        record.finish("completed", {"weights": weights})

Leaving the block without `finish` closes the record as FAILED, or as KILLED on an interruption.
"""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from torch import Tensor

from gdexp.data.identity import Identity

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by MLflow when it is imported


class Record(Protocol):
    """The record of one run while it is being written."""

    run_id: str | None
    name: str
    status: str

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one epoch; those that aren't finite are left out."""

    def finish(
        self, outcome: str, files: Mapping[str, Mapping[str, Tensor]], tags: Mapping[str, object] | None = None
    ) -> None:
        """Close the record of a run that came to its end, with its files NAME.safetensors."""

    def keep(self, weights: Mapping[str, Tensor]) -> None:
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
    config_yaml: str,
    data: Identity | None = None,
) -> Record:
    """Open the store and begin a run in it.

    Args:
        config: the `tracking` node.
        study: name of the `experiments/` file, the MLflow experiment's default name.
        name: of the run.
        params: written once.
        tags: likewise, beside those that every run gets.
        config_yaml: text of the artifact config.yaml.
        data: recorded as MLflow's dataset input.

    Raises:
        Refusal: the store can't be opened or written.
    """
    if config["writer"] == "none":
        from gdexp.tracking.nothing import Unrecorded

        return Unrecorded(name)
    from gdexp.tracking.client import ClientRecord

    return ClientRecord(
        config["uri"],
        config["experiment"] or os.environ.get("MLFLOW_EXPERIMENT_NAME") or study or "gdexp",
        name=name,
        params=params,
        tags=tags,
        config_yaml=config_yaml,
        data=data,
    )
