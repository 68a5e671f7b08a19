"""A run's model, rebuilt from its record."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from gdexp.config import modules, secrets, targets, text, trust, variables
from gdexp.config.check import RULES, check_known, own
from gdexp.config.refusal import Refusal
from gdexp.dtypes import move
from gdexp.tracking.extent import check_extent
from gdexp.tracking.reading import Recorded, read
from gdexp.tracking.weights import of_model


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
    file = "weights.safetensors" if weights == "final" else f"weights_{weights}.safetensors"
    try:
        run = read(run_id, uri, weights=file)
        if file not in run.weights:
            raise Refusal(f"it has no {file}")
        config = run.config
        nodes = _nodes(config, run)
        dtype = _dtype(nodes)
    except (Refusal, ValueError) as error:
        raise Refusal(f"run {run_id} can't be loaded: {error}") from error
    with torch.random.fork_rng(devices=[]):
        model = _built(nodes, run)
    if not isinstance(model, nn.Module):
        raise Refusal(f"run {run_id}: its learner is no torch.nn.Module; its weights are in {file}")
    move(model, torch.device("cpu"), dtype)
    try:
        model.load_state_dict(of_model(run.weights[file], model))
    except RuntimeError as error:
        raise Refusal(f"run {run_id} can't be loaded: {str(error).splitlines()[0]}") from error
    return model.eval()


def _dtype(config: Mapping[str, Any]) -> torch.dtype:
    name = config["trainer"].get("dtype", "float32")
    rule, keeps = RULES["trainer.dtype"]
    if not keeps(name):
        raise Refusal(f"`trainer.dtype` must be {rule}, got {name!r}")
    return getattr(torch, str(name))


def _nodes(config: Mapping[str, Any], run: Recorded) -> dict[str, Any]:
    """Return what a model is built of, with today's environment, which must be what it was."""
    found: dict[str, Any] = {group: config.get(group) or {"_target_": None} for group in ("model", "learner")}
    if not all(isinstance(node, dict) and "_target_" in node for node in found.values()):
        raise Refusal("its config.yaml is damaged: it names no model")
    modules.forget_changed()
    trust.check_trusted(found)
    trainer = config.get("trainer")
    found["trainer"] = {"dtype": trainer["dtype"]} if isinstance(trainer, Mapping) and "dtype" in trainer else {}
    check_known(found, run.run_id)
    plain: dict[str, Any] = text.with_environment(found)
    secrets.learn(plain, found)
    variables.check(run.tags.get(variables.TAG), plain, found, whole=False)
    return plain


def _built(nodes: dict[str, Any], run: Recorded) -> Any:
    """Build the model of a record, or the user's own learner around it."""
    check_extent(nodes, run.held, run.run_id)
    learner, model = nodes["learner"], None
    if nodes["model"]["_target_"] is not None:
        model = targets.build("model", own("model", nodes["model"]))
    if learner["_target_"] is None:
        return model
    takes = targets.parameters(targets.resolve("learner._target_", learner["_target_"]))
    parts = {"model": model, "loss": None, "optimizer": None, "device": torch.device("cpu"), "dtype": torch.float32}
    parts = {k: v for k, v in parts.items() if k in takes and k not in learner}
    return targets.build("learner", learner, **parts)
