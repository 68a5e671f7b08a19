"""The record through MLflow's own client, for any tracking URI."""

import json
import math
import re
import tempfile
import time
import traceback as tracebacks
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from torch import Tensor

from gdexp.config.refusal import Refusal
from gdexp.data.identity import Identity
from gdexp.tracking.store import artifact_root, database, ensure, fold_in, store_uri
from gdexp.tracking.weights import save_weights

_FLUSH_SECONDS = 2.0


class ClientRecord:
    """One MLflow run; its numbers are sent in batches, about every two seconds and at the end."""

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        *,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        config_yaml: str,
        data: Identity | None,
    ) -> None:
        self.name, self.status, self.uri = name, "RUNNING", store_uri(uri)
        self._db, self._config_yaml = database(self.uri), config_yaml
        self._metrics: list[Metric] = []
        self._flushed = time.monotonic()
        self._weights: Mapping[str, Tensor] = {}
        self.run_id: str | None = None
        try:
            if self._db is not None:
                ensure(self._db)
            self._client = MlflowClient(self.uri)
            run = self._client.create_run(
                self._experiment_id(experiment), tags={k: str(v) for k, v in tags.items()}, run_name=name
            )
            self.run_id = run.info.run_id
            self._client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in params.items()])
            if data is not None:
                self._client.log_inputs(run.info.run_id, [_dataset_input(data)])
        except Refusal:
            raise
        except KeyboardInterrupt:
            if self.run_id:
                self._client.set_terminated(self.run_id, "KILLED")
            raise
        except Exception as error:  # MLflow's own, SQLAlchemy's, a server's: the store can't be used
            raise Refusal(f"`tracking.uri`: {self.uri} can't be used: {str(error).splitlines()[0]}") from error

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the numbers of one epoch; those that aren't finite are left out."""
        now = time.time()
        milliseconds = int(now * 1000)
        self._metrics += [Metric(k, v, milliseconds, step) for k, v in metrics.items() if math.isfinite(v)]
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Save these, as they are then, should the run be cut off."""
        self._weights = weights

    def finish(
        self, outcome: str, files: Mapping[str, Mapping[str, Tensor]], tags: Mapping[str, object] | None = None
    ) -> None:
        """Close the record of a run that came to its end, with its files NAME.safetensors."""
        self._close("FINISHED", {"gdexp.outcome": outcome, **(tags or {})}, files, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.status == "RUNNING":
            if isinstance(error, Exception):
                text = "".join(tracebacks.format_exception(error))
                self._close("FAILED", {}, {"weights": self._weights}, {"traceback.txt": text})
            else:
                self._close("KILLED", {}, {"weights": self._weights}, {})
        if self._db is not None:
            self._client._tracking_client.store.engine.dispose()
            fold_in(self._db)

    def _experiment_id(self, name: str) -> str:
        if (found := self._client.get_experiment_by_name(name)) is not None:
            if found.lifecycle_stage != "active":
                raise Refusal(f"`tracking.experiment`: {name!r} was deleted; restore it or choose another name")
            return found.experiment_id
        try:
            if self._db is None:
                return self._client.create_experiment(name)
            folder = re.sub(r"[^\w-]", "_", name)
            return self._client.create_experiment(name, artifact_location=(artifact_root(self._db) / folder).as_uri())
        except MlflowException:  # another process made it just now
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return found.experiment_id

    def _flush(self) -> None:
        if self._metrics:
            self._client.log_batch(str(self.run_id), metrics=self._metrics)
            self._metrics = []
        self._flushed = time.monotonic()

    def _close(
        self,
        status: str,
        tags: Mapping[str, object],
        files: Mapping[str, Mapping[str, Tensor]],
        texts: Mapping[str, str],
    ) -> None:
        run_id = str(self.run_id)
        self._flush()
        with tempfile.TemporaryDirectory(prefix="gdexp-") as folder:
            for name, weights in files.items():
                save_weights(Path(folder) / f"{name}.safetensors", weights)
            for name, text in {"config.yaml": self._config_yaml, **texts}.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(run_id, folder)
        self._client.log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])
        self._client.set_terminated(run_id, status, end_time=int(time.time() * 1000))
        self.status = status


def _dataset_input(data: Identity) -> DatasetInput:
    """Return data as MLflow shows them; its column for the digest takes 36 characters."""
    dataset = Dataset(
        name=data.name,
        digest=data.sha256[:32],
        source_type="code",
        source=json.dumps({"tags": {k: str(v) for k, v in data.source.items()}}),
        profile=json.dumps({"sha256": data.sha256, "shapes": data.shapes}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
