"""Reading the record: a run's model, and tables of runs."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from omegaconf import OmegaConf
from torch import nn

from gdexp.config import targets
from gdexp.config.refusal import Refusal
from gdexp.tracking.frame import frame, row
from gdexp.tracking.store import database, opened, store_uri
from gdexp.tracking.weights import load_weights

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient


def load(run_id: str, uri: str | None = None, *, weights: Literal["final", "best", "ema"] = "final") -> nn.Module:
    """Rebuild a run's model with its weights, on the CPU, in eval mode; nothing is unpickled.

    Args:
        run_id: of the MLflow run.
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.
        weights: the final ones, the best by trainer.monitor, or the average of trainer.ema.

    Returns:
        the model, or the learner of the user's own.

    Raises:
        ValueError: no such run, no weights, or a config that names what may not be built from a record.
    """
    from mlflow.exceptions import MlflowException

    try:
        with _client(uri) as client, tempfile.TemporaryDirectory(prefix="gdexp-") as folder:
            client.get_run(run_id)
            config_path = client.download_artifacts(run_id, "config.yaml", folder)
            file = "weights.safetensors" if weights == "final" else f"weights_{weights}.safetensors"
            path = client.download_artifacts(run_id, file, folder)
            config = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(config_path), resolve=True))
            state = load_weights(Path(path))
    except (MlflowException, OSError) as error:
        raise Refusal(f"run {run_id} can't be loaded: {str(error).splitlines()[0]}") from error
    with torch.random.fork_rng(devices=[]):
        model = _built(config)
    if not isinstance(model, nn.Module):
        raise Refusal(f"run {run_id}: its learner is no torch.nn.Module; its weights are in {file}")
    model.to(dtype=getattr(torch, config["trainer"]["dtype"]))
    model.load_state_dict(state)
    return model.eval()


def _built(config: Mapping[str, Any]) -> Any:
    """Build the model of a record, or the user's own learner around it."""
    learner, model = config.get("learner") or {}, None
    if config["model"]["_target_"] is not None:
        model = targets.build("model", config["model"], trust=targets.trusted)
    if learner.get("_target_") is None:
        return model
    takes = targets.parameters(targets.resolve("learner._target_", learner["_target_"]))
    parts = {"model": model, "loss": None, "optimizer": None, "device": torch.device("cpu"), "dtype": torch.float32}
    parts = {k: v for k, v in parts.items() if k in takes and k not in learner}
    return targets.build("learner", learner, trust=targets.trusted, **parts)


def runs(experiment: str | None = None, *, uri: str | None = None) -> "pd.DataFrame":
    """Read the runs of a store, one row each, newest first.

    Args:
        experiment: name of an MLflow experiment or id of a sweep; None: all of the store.
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.

    Returns:
        columns run_id, name, status, outcome, then params and final metrics by their names.
    """
    rows: list[dict[str, object]] = []
    with _client(uri) as client:
        ids = [e.experiment_id for e in client.search_experiments()]
        clause = ""
        if experiment is not None:
            found = client.get_experiment_by_name(experiment)
            ids = [found.experiment_id] if found is not None else ids
            clause = "" if found is not None else f"tags.\"gdexp.sweep\" = '{experiment}'"
        token: str | None = None
        while True:
            page = client.search_runs(ids, clause, max_results=1000, page_token=token)
            for run in page:
                info, data, outcome = run.info, run.data, run.data.tags.get("gdexp.outcome")
                if data.tags.get("gdexp.kind") == "sweep":  # the summary of others
                    continue
                rows.append(row(info.run_id, info.run_name, info.status, outcome, data.params, data.metrics))
            if not (token := page.token):
                return frame(rows)


@contextmanager
def _client(uri: str | None) -> "Iterator[MlflowClient]":
    """Open a store that is there, and leave no open file behind."""
    uri = store_uri(uri)
    if (db := database(uri)) is not None and not db.is_file():
        raise Refusal(f"no store at {db}: run something first, or name another by uri=…")
    from mlflow.tracking import MlflowClient

    if db is not None and (tables := opened(db)) is not None:
        tables.close()
    client = MlflowClient(uri)
    try:
        yield client
    finally:
        if db is not None:
            client._tracking_client.store.engine.dispose()
