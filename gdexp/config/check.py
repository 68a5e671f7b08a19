"""Every refusal that needs no data: `check(config)`.

The rule of a key of ours stands in RULES; the keys of a target are checked against its signature.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gdexp.config import direction, targets
from gdexp.config.refusal import Refusal, nearest
from gdexp.config.secret_names import HIDDEN
from gdexp.config.sources import options


def _whole(low: int, high: float = math.inf) -> tuple[str, Any]:
    top = "" if high == math.inf else f" below {high:.0f}"
    return f"a whole number from {low}{top}", lambda v: targets.accepts(int, v) and low <= v < high


def _number(rule: str, holds: Any) -> tuple[str, Any]:
    return f"a number {rule}", lambda v: targets.accepts(float, v) and holds(v)


def _or_null(rule: tuple[str, Any]) -> tuple[str, Any]:
    return f"{rule[0]}, or null", lambda v: v is None or rule[1](v)


def _or_auto(rule: tuple[str, Any]) -> tuple[str, Any]:
    return f"auto, {rule[0]}", lambda v: v == "auto" or rule[1](v)


def _among(*names: str) -> tuple[str, Any]:
    return f"one of {', '.join(names)}", lambda v: v in names


def _list_of_names(example: str) -> tuple[str, Any]:
    return f"a list as [{example}]", lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v)


_TEXT = ("text", lambda v: isinstance(v, str) and v != "")
_NAME = ("text of at most 250 characters", lambda v: isinstance(v, str) and 0 < len(v) <= 250)  # MLflow's column
_BOOLEAN = ("true or false", lambda v: isinstance(v, bool))
_SHARE = _number("in [0, 1) or a number of rows", lambda v: 0 <= v < 1 or (v >= 1 and v == int(v)))

_MEASURES = ("grad_norm", "update_norm", "weight_norm", "rows_per_second", "epoch_seconds", "peak_memory")

GROUPS = ("data", "model", "loss", "optimizer", "scheduler", "learner", "trainer", "tracking")
_NODES = (*GROUPS, "sweep")
_UNTARGETED = ("trainer", "tracking", "sweep")  # all their keys stand in RULES

# key: (the rule in words, whether a value keeps it)
RULES: dict[str, tuple[str, Any]] = {
    "seed": _whole(0, 2**32),  # the range of numpy's generator, and of torch's on the CPU
    "data.val_fraction": _SHARE,
    "data.test_fraction": _SHARE,
    "data.split_seed": _or_null(_whole(0, 2**32)),
    "data.split": _among("random", "stratified", "grouped"),
    "data.folds": _or_null(_whole(2)),
    "data.fold": _or_null(_whole(0)),
    "data.standardize": _among("inputs", "both", "none"),
    "model.inputs": _among("auto", "one", "spread"),
    "model.weights": _or_null(_TEXT),
    "model.weights_partial": _BOOLEAN,
    "metrics": _list_of_names("f1, auroc"),
    "scheduler.interval": _among("epoch", "step"),
    "scheduler.warmup": _whole(0),
    "scheduler.warmup_start_factor": _number("in (0, 1]", lambda v: 0 < v <= 1),
    "trainer.epochs": _whole(1),
    "trainer.batch_size": _or_null(_whole(1)),
    "trainer.drop_last": _BOOLEAN,
    "trainer.accumulate": _whole(1),
    "trainer.max_steps": _or_null(_whole(1)),
    "trainer.max_seconds": _or_null(_number("above 0", lambda v: v > 0)),
    "trainer.clip_norm": _or_null(_number("above 0", lambda v: v > 0)),
    "trainer.clip_value": _or_null(_number("above 0", lambda v: v > 0)),
    "trainer.validate_every": _whole(1),
    "trainer.validate_with_gradients": _or_auto(_BOOLEAN),
    "trainer.monitor": _or_null(_TEXT),
    "trainer.monitor_mode": _among("auto", "min", "max"),
    "trainer.patience": _or_null(_whole(1)),
    "trainer.min_delta": _number("from 0", lambda v: v >= 0),
    "trainer.target": _or_null(_number("", lambda v: True)),
    "trainer.ema": _or_null(_number("in [0, 1)", lambda v: 0 <= v < 1)),
    "trainer.device": _TEXT,
    "trainer.threads": ("auto or a whole number from 1", lambda v: v == "auto" or _whole(1)[1](v)),
    "trainer.dtype": _among("float32", "float64", "bfloat16"),
    "trainer.autocast": _or_null(_among("bfloat16", "float16")),
    "trainer.compile": _BOOLEAN,
    "trainer.deterministic": _or_auto(_BOOLEAN),
    "trainer.workers": _whole(0),
    "trainer.log_every": _whole(1),
    "trainer.log_steps": _or_null(_whole(1)),
    "trainer.record": (
        f"a list of {', '.join(_MEASURES)}",
        lambda v: isinstance(v, list) and all(name in _MEASURES for name in v),
    ),
    "trainer.trajectory": _or_auto(_BOOLEAN),
    "trainer.divergence_factor": _or_null(_number("above 0", lambda v: v > 0)),
    "trainer.checkpoint_every": _or_null(_whole(1)),
    "trainer.checkpoint_minutes": _or_null(_number("above 0", lambda v: v > 0)),
    "trainer.on_epoch": _list_of_names("my_hooks.sample"),
    "tracking.uri": _or_null(_TEXT),
    "tracking.experiment": _or_null(_NAME),
    "tracking.writer": _among("auto", "client", "none"),
    "sweep.samples": _or_null(_whole(1)),
    "sweep.seed": _whole(0, 2**32),
    "sweep.each": ("a mapping of options to axes, or null", lambda v: v is None or isinstance(v, dict)),
    "sweep.plan": _BOOLEAN,
    "sweep.stack": _among("auto", "never"),
    "sweep.chunk": ("auto or a whole number from 2", lambda v: v == "auto" or _whole(2)[1](v)),
    "sweep.again": _BOOLEAN,
    "sweep.on_error": _among("continue", "stop"),
    "sweep.objective": _or_null(_TEXT),
    "sweep.objective_mode": _among("auto", "min", "max"),
    "sweep.objective_at": _among("last", "best"),
}

# keys of ours beside the arguments of a target, and what an option that doesn't name them gets
OWN: dict[str, dict[str, Any]] = {
    "data": {
        "val_fraction": 0,
        "test_fraction": 0,
        "split_seed": 0,
        "split": "random",
        "folds": None,
        "fold": None,
        "standardize": "none",
    },
    "model": {"inputs": "auto", "weights": None, "weights_partial": False},
    "optimizer": {"param_groups": None},
    "scheduler": {"interval": "epoch", "warmup": 0, "warmup_start_factor": 1 / 3},
}

_OF_GROUP = {g: [k.partition(".")[2] for k in RULES if k.startswith(f"{g}.")] for g in _NODES}

# keys that records of older versions lack, with the values that mean what was done before there were such keys
BEFORE: dict[str, Any] = {
    "trainer.checkpoint_every": None,
    "trainer.checkpoint_minutes": None,
    "trainer.drop_last": False,
    "trainer.validate_every": 1,
    "trainer.validate_with_gradients": "auto",
}

# of an optimizer's hyperparameters, beyond "finite and not negative"
RANGES = {
    "momentum": ("in [0, 1)", lambda v: 0 <= v < 1),
    "dampening": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "alpha": ("in [0, 1]", lambda v: 0 <= v <= 1),
}


Sound = dict[tuple[str, int], Any]  # nodes found sound, by the kind of check and their id


def check(config: dict[str, Any], sound: Sound | None = None) -> dict[str, Any]:
    """Refuse values that can't be trained with, and return the config with those keys of ours that it lacks.

    Nothing is imported here that a `_target_` names; that is `check_targets`.

    Args:
        config: one run's, as composed, in plain containers.
        sound: takes and gives what was found sound, so that nodes which jobs of a sweep share are checked once.

    Raises:
        Refusal: names the key as it is typed, the rule, the value and what is allowed.
    """
    _check_groups(config)
    whole = filled(config)
    for name in ("seed", "metrics"):
        _check_leaves({name: whole.get(name)})
        _check_rule(name, whole, name)
    for group in _NODES:
        if not _is_sound(sound, "rules", node := whole[group]):
            _check_leaves({group: node})
            check_own(group, node)
            _note(sound, "rules", node)
    return whole


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with those keys of ours that its options don't name."""
    lacking = {g: own for g, own in OWN.items() if not own.keys() <= config[g].keys()}
    return config | {group: {**config[group], **_lacking(config[group], own)} for group, own in lacking.items()}


def _lacking(node: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in defaults.items() if key not in node}


def check_targets(plain: Mapping[str, Any], sound: Sound | None = None) -> None:
    """Refuse targets that aren't there and arguments that they don't take.

    Args:
        plain: as `check` returned it.
        sound: likewise.

    Raises:
        Refusal: likewise. An exception of the user's own module passes.
    """
    for group in GROUPS:
        if group not in _UNTARGETED and not _is_sound(sound, "targets", plain[group]):
            _check_target(group, plain[group])
            _note(sound, "targets", plain[group])
    if plain["scheduler"]["interval"] == "step" and str(plain["scheduler"]["_target_"]).endswith(".ReduceLROnPlateau"):
        raise Refusal("`scheduler.interval` must be epoch: a plateau is seen in the metrics of epochs")
    for i, hook in enumerate(plain["trainer"]["on_epoch"]):
        targets.resolve(f"trainer.on_epoch[{i}]", hook)
    direction.check(plain)


def _check_target(group: str, node: Mapping[str, Any]) -> None:
    if node["_target_"] is not None:
        given = own(group, node)
        if group == "loss":  # weights that the data decide
            for key in ("weight", "pos_weight"):
                if isinstance(given.get(key), str) and given[key] != "balanced":
                    raise Refusal(f"`loss.{key}` must be a list of numbers, balanced or null, got {given[key]!r}")
            given = {k: None if v == "balanced" and k in ("weight", "pos_weight") else v for k, v in given.items()}
        targets.check_arguments(group, given, _supplied(group, node["_target_"]))
    elif group == "data":
        raise Refusal("`data._target_` must be a dotted name as my_module.load, got None")
    if group == "optimizer":
        _check_optimizer(node)


def own(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node without our keys: what its target takes."""
    ours = set(OWN.get(group, ()))
    if group == "model" and node.get("weights") is not None and takes_weights(node):
        ours -= {"weights"}
    return {k: v for k, v in node.items() if k not in ours}


def takes_weights(node: Mapping[str, Any]) -> bool:
    """Say whether a model's constructor has an argument `weights` of its own, which the key is then."""
    known = targets.parameters(targets.resolve("model._target_", node["_target_"])) if node["_target_"] else {}
    return "weights" in known


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf with its dotted name; a list is followed by its items, as `betas[0]`."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{key}.")
        else:
            yield key, value
            if isinstance(value, list):
                yield from leaves({f"{key}[{i}]": v for i, v in enumerate(value)})


def check_known(config: Mapping[str, Any], run_id: str) -> None:
    """Refuse a recorded config, or a part of one, that holds a value which was left out of the record.

    Args:
        config: as recorded.
        run_id: of the run, for the message.
    """
    for key, value in leaves(config):
        if isinstance(value, str) and HIDDEN in value:
            raise Refusal(
                f"run {run_id}: `{key}` holds a secret that was left out of the record (***): "
                f"given as {key}=${{oc.env:NAME}} it would be known again"
            )


def _is_sound(sound: Sound | None, kind: str, node: Any) -> bool:
    return sound is not None and sound.get((kind, id(node))) is node


def _note(sound: Sound | None, kind: str, node: Any) -> None:
    if sound is not None:
        sound[kind, id(node)] = node


def _check_leaves(node: Mapping[str, Any]) -> None:
    for key, value in leaves(node):
        if value == "???":
            raise Refusal(f"`{key}` is missing: add {key}=…")
        if isinstance(value, float) and not math.isfinite(value):
            raise Refusal(f"`{key}` must be finite, got {value}")


def _check_groups(config: Mapping[str, Any]) -> None:
    for group in _NODES:
        if not isinstance(node := config.get(group), dict):
            choices = f"one of {', '.join(options(group))}" if group in GROUPS else "a mapping"
            raise Refusal(f"`{group}` must be {choices}")
        if group not in _UNTARGETED and "_target_" not in node:
            raise Refusal(f"`{group}._target_` is missing: add +{group}._target_=my_module.name")
    for key in config:
        if key not in (*_NODES, "seed", "metrics"):
            raise Refusal(f"`{key}` is not a key{nearest(key, [*_NODES, 'seed', 'metrics'])}")


def check_own(group: str, node: Mapping[str, Any]) -> None:
    """Refuse keys of ours that are missing or break their rule and, in a group that has no others, any other key."""
    known = _OF_GROUP[group]
    for name in known:
        _check_rule(f"{group}.{name}", node, name)
    if group == "data":
        _check_fold(node["fold"], node["folds"])
        is_table = node.get("_target_") == "gdexp.data.table.table"
        if is_table and node.get("group") is not None and node["split"] != "grouped":
            raise Refusal(f"`data.group={node['group']}` needs data.split=grouped")
    for name in node if group in _UNTARGETED else ():
        if name not in known:
            raise Refusal(f"`{group}.{name}` is not a key{nearest(str(name), known)}")


def _check_fold(fold: int | None, folds: int | None) -> None:
    if folds is None and fold is not None:
        raise Refusal(f"`data.fold={fold}` needs the number of folds: data.folds=5")
    if fold is None and folds is not None:
        every = ",".join(map(str, range(folds))) if folds <= 10 else f"range({folds})"
        raise Refusal(
            f"`data.folds={folds}` needs the fold to validate on: data.fold=0, or all of them: -m data.fold={every}"
        )
    if fold is not None and folds is not None and fold >= folds:
        raise Refusal(f"`data.fold` must be a whole number from 0 below data.folds={folds}, got {fold}")


def _check_rule(key: str, node: Mapping[str, Any], name: str) -> None:
    rule, keeps = RULES[key]
    if name not in node:
        raise Refusal(f"`{key}` is missing: add {key}=…")
    if not keeps(node[name]):
        raise Refusal(f"`{key}` must be {rule}, got {node[name]!r}")


def _supplied(group: str, name: str) -> int:
    """Return how many leading arguments the program gives: parameters, an optimizer, (output, target[, weights])."""
    if group == "loss":
        loss = targets.resolve("loss._target_", name)
        if isinstance(loss, type):
            return 0
        return 3 if list(targets.parameters(loss))[2:3] == ["weights"] else 2
    return int(group in ("optimizer", "scheduler"))


def _check_optimizer(node: Mapping[str, Any]) -> None:
    if node["_target_"] is None:
        return
    arguments = own("optimizer", node)
    _check_hyperparameters("optimizer", node["_target_"], arguments)
    groups = node["param_groups"]
    if groups is not None and not (
        isinstance(groups, Mapping) and all(isinstance(g, Mapping) for g in groups.values())
    ):
        raise Refusal(f"`optimizer.param_groups` must be a mapping as {{bias: {{weight_decay: 0}}}}, got {groups!r}")
    for pattern, hyperparameters in (groups or {}).items():
        key = f"optimizer.param_groups.{pattern}"
        try:
            re.compile(str(pattern))
        except re.error as error:
            raise Refusal(f"`{key}` must be a regular expression: {error}") from error
        targets.check_arguments(key, {**hyperparameters, "_target_": node["_target_"]}, 1, whole=False)
        _check_hyperparameters(key, node["_target_"], hyperparameters)


def _check_hyperparameters(group: str, target: str, node: Mapping[str, Any]) -> None:
    known = targets.parameters(targets.resolve("optimizer._target_", target))
    for key, value in leaves(node):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        name = key.partition("[")[0]
        default = known[name].default if name in known else None
        defaults = default if isinstance(default, tuple) else (default,)
        may_be_negative = any(isinstance(d, (int, float)) and d < 0 for d in defaults)
        if value < 0 and not may_be_negative:  # as Adafactor's beta2_decay and Muon's ns_coefficients are
            raise Refusal(f"`{group}.{key}` must not be negative, got {value}")
        if key in RANGES and not RANGES[key][1](value):
            raise Refusal(f"`{group}.{key}` must be {RANGES[key][0]}, got {value}")
