"""Which way a metric is better: the one place that says it.

The loss and the metrics of gdexp are known by name, whatever rows they were measured on. A metric of the user's own
says it by an attribute `greater_is_better` of its function, true or false; numbers that a model or a learner measures
by itself are said in an attribute of that name of its class, as `{"kl": False}`; and the config may say it. Of any
other number nothing is guessed.
"""

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from gdexp.config import targets
from gdexp.config.refusal import Refusal

TAG = "gdexp.greater_is_better"  # of a run: what its config, functions and model say, as JSON

_GREATER = {
    *("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "r2"),
    "rows_per_second",
}
_LESS = {
    *("loss", "log_loss", "mae", "rmse"),
    *("grad_norm", "update_norm", "epoch_seconds", "peak_memory"),
}
_NEITHER = {"lr", "weight_norm"}  # measured on request, and no better for being more or less
_ROWS, _WEIGHTS = re.compile(r"^(train|val|test)_"), re.compile(r"(_ema|_best)+$")
_GREATER_TOO = re.compile(r"top_\d+|(precision|recall|f1|auroc)_(micro|macro)")


def known(name: str) -> str | None:
    """Return `max` for a metric of ours of which more is better, `min` for one of which less is; else None.

    >>> known("test_accuracy"), known("val_top_3_ema"), known("val_loss"), known("val_accuracy_gap")
    ('max', 'max', 'min', None)
    """
    plain = _spellings(name)[-1]
    if plain in _GREATER or _GREATER_TOO.fullmatch(plain):
        return "max"
    return "min" if plain in _LESS else None


def of_monitor(name: str, config: Mapping[str, Any]) -> str:
    """Return `max` or `min` for the metric that decides on a run's best weights.

    Raises:
        Refusal: nothing says it.
    """
    return _found("trainer.monitor", name, config)


def of_objective(name: str, config: Mapping[str, Any]) -> str:
    """Return `max` or `min` for the metric by which the runs of a sweep are ordered.

    Raises:
        Refusal: nothing says it.
    """
    return _found("sweep.objective", name, config)


def check(config: Mapping[str, Any]) -> None:
    """Refuse a monitor or an objective of which nothing says which way is better.

    A name that is neither a metric of the user's own nor a number that only a model can measure is left to the check
    that knows what there is to measure.
    """
    for key in ("trainer.monitor", "sweep.objective"):
        group, _, name = key.partition(".")
        metric = config[group][name]
        if metric is None:
            continue
        measured = _NEITHER | _own_metrics(config).keys()
        if config["loss"]["_target_"] is None or not measured.isdisjoint(_spellings(metric)):
            _found(key, metric, config)


def record(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tag that says which way is better, for metrics that aren't known by their names alone."""
    said = _stated(config)
    for group, name in (("sweep", "objective"), ("trainer", "monitor")):
        metric = config[group][name]
        if metric is not None and (mode := _mode(f"{group}.{name}", metric, config)) is not None:
            said[metric] = mode
    if not said:
        return {}
    return {TAG: json.dumps({name: mode == "max" for name, mode in said.items()})}


@functools.lru_cache(maxsize=4096)
def recorded(name: str, text: str | None) -> str | None:
    """Return which way is better by a run's tag, else by the name; None: nothing says it.

    >>> recorded("val_kl", '{"kl": false}'), recorded("val_kl", None)
    ('min', None)
    """
    said = _read(text)
    for spelling in _spellings(name):
        if spelling in said:
            return "max" if said[spelling] else "min"
    return known(name)


def cost(value: float, mode: str) -> float:
    """Return a number that is the smaller the better; what isn't finite is worse than any number.

    >>> cost(0.5, "max"), cost(float("nan"), "max"), cost(float("-inf"), "min")
    (-0.5, inf, inf)
    """
    if not math.isfinite(value):
        return math.inf
    return -value if mode == "max" else value


def _found(key: str, name: str, config: Mapping[str, Any]) -> str:
    mode = _mode(key, name, config)
    if mode is None:
        raise Refusal(
            f"`{key}`: nothing says whether more or less of {name!r} is better: add {key}_mode=min or {key}_mode=max,"
            " or give its function or model an attribute greater_is_better"
        )
    return mode


def _mode(key: str, name: str, config: Mapping[str, Any]) -> str | None:
    """Return what is said of a metric: by a mode of the config, by its function or model, by its name."""
    trainer, sweep = config["trainer"], config["sweep"]
    asked = {
        "trainer.monitor": (trainer["monitor"], trainer["monitor_mode"]),
        "sweep.objective": (sweep["objective"], sweep["objective_mode"]),
    }
    modes = [asked[key][1]] + [mode for metric, mode in asked.values() if metric == name]
    said = _stated(config)
    modes += [said[spelling] for spelling in _spellings(name) if spelling in said]
    return next((mode for mode in modes if mode != "auto"), None) or known(name)


def _stated(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what the functions of metrics, the model and the learner say of their numbers."""
    said: dict[str, str] = {}
    for group in ("model", "learner"):
        own = getattr(_imported(config[group]["_target_"]), "greater_is_better", None)
        if isinstance(own, Mapping):
            said |= {str(name): "max" if greater else "min" for name, greater in own.items()}
    for name, target in _own_metrics(config).items():
        if (mode := _of_function(_imported(target))) is not None:
            said[name] = mode
    return said


def _own_metrics(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the dotted names of the metrics that aren't ours, by the names that they are recorded by."""
    return {name.rpartition(".")[2]: name for name in config["metrics"] if "." in name}


def _of_function(function: Any) -> str | None:
    for attribute in ("greater_is_better", "higher_is_better"):  # the second one is torchmetrics'
        said = getattr(function, attribute, getattr(getattr(function, "func", None), attribute, None))
        if isinstance(said, bool):
            return "max" if said else "min"
    if str(getattr(function, "__module__", "")).startswith("sklearn.metrics"):
        # its documentation says so of all its functions: a _score is to be maximized, the others minimized
        ending = str(getattr(function, "__name__", "")).rpartition("_")[2]
        return {"score": "max", "error": "min", "loss": "min", "deviance": "min"}.get(ending)
    return None


def _imported(target: Any) -> Any:
    """Return what a dotted name stands for, None where it can't be imported, which others say."""
    try:
        return None if target is None else targets.resolve("", target)
    except Exception:
        return None


def _spellings(name: str) -> tuple[str, str, str]:
    """Return a metric's name as it is, without the rows it was measured on, and without whose weights they met."""
    measure = _ROWS.sub("", name)
    return name, measure, _WEIGHTS.sub("", measure)


def _read(text: str | None) -> dict[str, bool]:
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
