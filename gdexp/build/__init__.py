"""The parts of one run, made from its config so that they fit each other.

Order matters: the data first, which draws nothing of the run's seed; then `torch.manual_seed(seed)`
and the model, so that a plain script with the same seed has the same weights.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gdexp.average import Average
from gdexp.build import finite, fit, inputs, lazy, look, measuring, rows, target, updates, weighting
from gdexp.build.start import Start, start_from
from gdexp.config import targets
from gdexp.config.check import own
from gdexp.config.refusal import Refusal
from gdexp.config.written import typed
from gdexp.data import TensorData
from gdexp.data.identity import Identity
from gdexp.data.nest import moved
from gdexp.data.split import standardize
from gdexp.dtypes import move
from gdexp.learner import LOSS, OneRun
from gdexp.losses import MODULES
from gdexp.objectives import Objective
from gdexp.reading import Metrics, Reading
from gdexp.train import Learner, Run

SMALL_WORK = 1e6  # parameters × rows a step, below which one CPU thread is quickest
_LONGEST_POINT = 1000  # numbers in the largest model whose path is kept

# trainer keys that a learner of the user's own doesn't know, and what leaves them alone
_OF_ONE_RUN = {
    "accumulate": 1,
    "clip_norm": None,
    "clip_value": None,
    "autocast": None,
    "compile": False,
    "validate_with_gradients": "auto",
}


class Parts(NamedTuple):
    """All that one run trains with, or several that train as one."""

    config: dict[str, Any]  # resolved, the model's sizes filled in
    data: TensorData  # on the device
    identity: Identity
    learner: Learner
    model: Any  # what hooks are shown
    loss: Any
    runs: list[Run]  # one, or several that train as one
    average: Average | None
    reading: Reading | None  # of a classifier's outputs
    metrics: Metrics
    hooks: list[Callable[..., object]]
    threads: int
    deterministic: bool
    trajectory: bool
    start: Start | None = None  # from other weights


Loaded = tuple[TensorData, Identity]


def build(config: dict[str, Any], options: Mapping[str, str | None], loaded: Loaded | None = None) -> Parts:
    """Make the parts of a run.

    Args:
        config: checked and resolved.
        options: the option chosen in each group, for messages.
        loaded: what `rows.load` gave for this config before; None: it is loaded here.

    Raises:
        Refusal: the parts don't fit each other. An exception of the user's own code passes.
    """
    trainer = config["trainer"]
    loss = _loss(config["loss"])
    data, identity = loaded or rows.load(config["data"], options)
    rows.prepare_loaders(data, trainer, config["seed"])
    rows.seed_everything(config["seed"])  # the first batch of a stream may be drawn
    data = finite.check_known(data, loss)
    data = target.settle(data, loss, options, config["model"].get("out_features"))
    identity = identity._replace(about=data.about)
    if (which := config["data"]["standardize"]) != "none":
        data = standardize(data, "inputs" if which == "both" and not target.may_be_scaled(loss) else which)
    for group in ("model", "learner"):
        if config[group]["_target_"] is not None:
            config = config | {group: fit.sized(group, config[group], data, loss)}
    rows.seed_everything(config["seed"])
    model = make_model(config, loss, options)
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        loss = _loss(config["loss"])  # what it draws, it draws after the model, as in a plain script
    spread = model is not None and inputs.spreads(model, config["model"]["inputs"], data, loss)
    if model is not None:
        made_from = config

        def rebuild() -> tuple[Any, Any]:
            return make_model(made_from, loss, options), _loss(made_from["loss"])

        tried = look.Tried(model, loss, config, options, spread, rebuild)
        lazy.initialize(tried, data)
        finite.check_own(data, model, loss)
    work = sum(p.numel() for p in model.parameters()) if model is not None else 0
    work *= trainer["batch_size"] or rows.count(data) or 1
    device, dtype = _device(trainer["device"], work), getattr(torch, trainer["dtype"])
    with_gradients = False
    if model is not None:
        data, with_gradients = look.try_out(tried, data, dtype if device.type == "cpu" else torch.get_default_dtype())
    reading = measuring.make_reading(loss, data)
    bare = loss
    if loss is not None:
        weighting.balance(config["loss"], loss, data)
        loss = weighting.weighed(loss, data, f"`loss={options.get('loss')}`")
    if model is not None:
        move(model, device, dtype)
    start = start_from(model, config)
    if isinstance(bare, nn.Module):
        move(bare, device, dtype)
    optimizer = None
    if config["optimizer"]["_target_"] is not None and model is not None:
        optimizer = updates.make_optimizer(config["optimizer"], trainable(model, bare))
    data = fit.each(data, lambda batch: moved(batch, device, dtype))
    finite.check_size(data, dtype)
    rows.pin(data, device)
    metrics = measuring.make_metrics(config["metrics"], loss, data, reading)
    if reading is not None and reading.meaning.of_numbers:
        reading = None
    learner: Learner
    if config["learner"]["_target_"] is None:
        assert model is not None  # make_model refused
        step = updates.make_step(optimizer, trainer, device)
        autocast = trainer["autocast"] and getattr(torch, trainer["autocast"])
        learner = OneRun(
            model,
            loss,
            step,
            trained_loss=bare if isinstance(bare, nn.Module) else None,
            reading=reading,
            autocast=autocast,
            compiled=trainer["compile"],
            spread=spread,
            validated_with_gradients=with_gradients,
        )
    else:
        parts = {"model": model, "loss": loss, "optimizer": optimizer, "device": device, "dtype": dtype}
        learner = _own_learner(config, parts)
    follow = learner.weights if isinstance(learner, OneRun) else None
    return Parts(
        config,
        data,
        identity,
        learner,
        learner if model is None else model,
        loss,
        [updates.make_run(config, data, loss, metrics, optimizer)],
        None if trainer["ema"] is None else Average(learner.weights(), trainer["ema"], follow),
        reading,
        metrics,
        [targets.resolve(f"trainer.on_epoch[{i}]", name) for i, name in enumerate(trainer["on_epoch"])],
        _threads(trainer["threads"], work),
        device.type == "cpu" if trainer["deterministic"] == "auto" else trainer["deterministic"],
        _keeps_trajectory(trainer["trajectory"], learner, model),
        start,
    )


def _loss(node: dict[str, Any]) -> Callable[..., Tensor] | None:
    """Return the loss: a class is built, and so is the module that a function of torch is; others are used as is."""
    if node["_target_"] is None:
        return None
    found = targets.resolve("loss._target_", node["_target_"])
    node = weighting.without_balanced(node)
    arguments = {k: v for k, v in node.items() if k != "_target_"}
    module = MODULES.get(found)
    if module is not None and arguments.keys() <= targets.parameters(module).keys():
        return targets.build("loss", {"_target_": f"torch.nn.{module.__name__}", **arguments})
    if isinstance(found, type):
        return targets.build("loss", node)
    return functools.partial(found, **arguments) if arguments else found


def trainable(model: nn.Module, loss: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of a model, and those of a loss under the prefix that they have in the weights."""
    found = dict(model.named_parameters())
    if not isinstance(loss, nn.Module) or not (own := dict(loss.named_parameters(LOSS.rstrip(".")))):
        return found
    if both := sorted(own.keys() & model.state_dict().keys()):
        raise Refusal(f"`loss`: its parameters are kept as {LOSS}…, but the model has a {both[0]}: rename that")
    return found | own


def make_model(config: Mapping[str, Any], loss: Any, options: Mapping[str, str | None]) -> nn.Module | None:
    """Return the model, None where a learner of the user's own needs none."""
    own_learner = config["learner"]["_target_"] is not None
    if config["model"]["_target_"] is None:
        if not own_learner:
            raise Refusal(f"`model={options.get('model')}` needs a learner of your own: learner=custom")
        return None
    model = targets.build("model", own("model", config["model"]))
    if not isinstance(model, nn.Module):
        raise Refusal(f"`model._target_` must make a torch.nn.Module, got {type(model).__name__}")
    if odd := [k for k, v in model.state_dict().items() if not isinstance(v, Tensor)]:
        raise Refusal(f"`model`: {odd[0]} in the state dict is no tensor and can't be recorded")
    kind, has_own = type(model).__name__, callable(getattr(model, "training_loss", None))
    if loss is None and not has_own and not own_learner:
        raise Refusal(f"`loss=none` needs a model with training_loss(batch), {kind} has none")
    if loss is not None and has_own:
        raise Refusal(f"`loss={options.get('loss')}`: {kind} has its own training_loss; use loss=none")
    return model


def _own_learner(config: Mapping[str, Any], parts: Mapping[str, Any]) -> Learner:
    """Build a learner of the user's own, with those parts that its constructor has."""
    node, trainer = config["learner"], config["trainer"]
    for key, default in _OF_ONE_RUN.items():
        if trainer[key] != default:
            raise Refusal(f"`trainer.{key}` must be {typed(default)}: a learner of your own makes its own steps")
    if unknown := sorted({"grad_norm", "update_norm"} & set(trainer["record"])):
        raise Refusal(f"`trainer.record`: {unknown[0]} isn't known of a learner of your own")
    if config["metrics"]:
        raise Refusal("`metrics` must be []: a learner of your own measures in its evaluate(batch)")
    takes = targets.parameters(targets.resolve("learner._target_", node["_target_"]))
    learner: Any = targets.build("learner", node, **{k: v for k, v in parts.items() if k in takes and k not in node})
    for method in ("train_step", "evaluate", "weights"):
        if not callable(getattr(learner, method, None)):
            raise Refusal(f"`learner._target_` must have {method}(…), {type(learner).__name__} has none")
    if isinstance(learner, nn.Module):
        move(learner, parts["device"], parts["dtype"])
    return learner


def _keeps_trajectory(wanted: bool | str, learner: Learner, model: nn.Module | None) -> bool:
    if wanted == "auto":
        return isinstance(model, Objective)
    numbers = sum(t.numel() for t in learner.weights().values())
    if wanted and numbers > _LONGEST_POINT:
        raise Refusal(f"`trainer.trajectory` is for models of at most {_LONGEST_POINT} numbers, this has {numbers}")
    return bool(wanted)


def _device(name: str, work: float) -> torch.device:
    """Return the device that a config names; `auto` takes an accelerator only for work that is worth it."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if work >= SMALL_WORK else None
        return found if found is not None and torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Refusal(f"`trainer.device`: {name!r} can't be used here: {str(error).splitlines()[0]}") from error
    if device.type == "meta":
        raise Refusal("`trainer.device`: 'meta' holds no numbers")
    return device


def _threads(wanted: str | int, work: float) -> int:
    if isinstance(wanted, int):
        return wanted
    return 1 if work < SMALL_WORK else torch.get_num_threads()
