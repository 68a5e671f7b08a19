"""A run's model, rebuilt from its record."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import OmegaConf
from torch import nn

from gdexp.config import targets, trust
from gdexp.config.refusal import Refusal
from gdexp.tracking.reader import client
from gdexp.tracking.store import store_uri
from gdexp.tracking.weights import load_weights


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
        with client(store_uri(uri)) as store, tempfile.TemporaryDirectory(prefix="gdexp-") as folder:
            store.get_run(run_id)
            config_path = store.download_artifacts(run_id, "config.yaml", folder)
            file = "weights.safetensors" if weights == "final" else f"weights_{weights}.safetensors"
            path = store.download_artifacts(run_id, file, folder)
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
    targets.forget_changed()
    trust.check_trusted({"model": config["model"], "learner": learner})
    if config["model"]["_target_"] is not None:
        model = targets.build("model", config["model"])
    if learner.get("_target_") is None:
        return model
    takes = targets.parameters(targets.resolve("learner._target_", learner["_target_"]))
    parts = {"model": model, "loss": None, "optimizer": None, "device": torch.device("cpu"), "dtype": torch.float32}
    parts = {k: v for k, v in parts.items() if k in takes and k not in learner}
    return targets.build("learner", learner, **parts)
