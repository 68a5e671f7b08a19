"""One look before the start: model and loss tried on some rows, in copies, so that what can't train is refused.

What the trial may change is put back. An error in the user's own code is not ours to report: the
look ends, and training meets it again, with its traceback and a record.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gdexp.build import fit, names, rows, updates, weighting
from gdexp.build.broadcast import Crossing, NoCrossing
from gdexp.build.untouched import untouched
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.generators import put_back
from gdexp.data.nest import copied, moved, size
from gdexp.dtypes import move
from gdexp.learner import LOSS, OneRun, spreading
from gdexp.step import Step

_LARGEST_BACKWARD = 5e6  # parameters up to which a backward pass is tried, too
_KNOWN = {"torch", "gdexp", *sys.stdlib_module_names}


class Tried(NamedTuple):
    """What a run trains with.

    Args:
        model: as it was built, on the CPU.
        loss: likewise; None: the model has its own.
        config: that they were made from.
        options: the option chosen in each group, for messages.
        spread: whether the model gets the parts of its inputs one by one.
        rebuild: makes model and loss anew, where they can't be copied.
    """

    model: nn.Module
    loss: Any
    config: Mapping[str, Any]
    options: Mapping[str, str | None]
    spread: bool
    rebuild: Callable[[], tuple[Any, Any]]

    def copy(self) -> tuple[Any, Any]:
        """Return a copy of model and loss, or, where they hold a lock or the like, others that are made alike."""
        try:
            model, loss = copy.deepcopy((self.model, self.loss))
            if all(p.is_leaf for p in model.parameters()):  # those of a copied script aren't
                return model, loss
        except Exception:
            pass
        with put_back():
            return self.rebuild()


class _Theirs(Exception):
    """An error in the user's own code."""


def try_out(tried: Tried, data: TensorData, dtype: torch.dtype) -> tuple[TensorData, bool]:
    """Try a model and a loss on some training rows.

    Args:
        tried: model and loss as they were built, on the CPU.
        data: split.
        dtype: that they will have.

    Returns:
        the data, its target in the output's shape, and whether validation needs gradients.

    Raises:
        Refusal: they can't be trained; it names the key that cures it.
    """
    trial = _Trial(tried, data, dtype)
    error = trial.error()
    if error is not None and dtype != torch.get_default_dtype():
        reason, trial = error, _Trial(tried, data, torch.get_default_dtype())
        error = trial.error()
        if error is None:  # the fault is the dtype's
            name = tried.config["trainer"]["dtype"]
            raise Refusal(f"`trainer.dtype={name}`: the model can't be trained so: {_line(reason)}") from reason
    if isinstance(error, Refusal):
        raise error
    return trial.data, trial.with_gradients


class _Trial:
    """Copies of a model and a loss on the CPU, and what has been seen of them."""

    def __init__(self, tried: Tried, data: TensorData, dtype: torch.dtype) -> None:
        self.data = data
        self.with_gradients = tried.config["trainer"]["validate_with_gradients"] is True
        self._tried, self._dtype, self._trainer = tried, dtype, tried.config["trainer"]

    def error(self) -> Exception | None:
        """Return why the model can't be trained, if it can't: a Refusal, or an error in the user's own code."""
        try:
            with untouched(self._tried.model, self._tried.loss):
                self._copy()
                if self._loss is not None:
                    self._fit()
                if self._tried.config["learner"]["_target_"] is not None:
                    return None  # a learner of the user's own trains by itself
                self._train()
                if self.data.val is not None or self.data.test is not None:
                    self._validate()
        except Refusal as refusal:
            return refusal
        except _Theirs as theirs:
            return theirs.__cause__ if isinstance(theirs.__cause__, Exception) else theirs
        return None

    def _copy(self) -> None:
        try:
            self._model, self._loss = self._tried.copy()
        except Exception as error:
            raise _Theirs from error
        if self._dtype != torch.get_default_dtype():
            for part in (self._model, self._loss):
                if isinstance(part, nn.Module):
                    move(part, torch.device("cpu"), self._dtype)

    def _fit(self) -> None:
        """Give the target the output's shape; refuse an output that the loss can't take."""
        forward: Any = spreading(self._model) if self._tried.spread else self._model
        name = f"`model={self._tried.config['model']['_target_']}`"
        inputs = self._batch()[0]
        self._model.eval()
        try:
            with torch.no_grad():
                output = forward(inputs)
        except Exception:  # perhaps it takes gradients
            output = _guarded(f"{name} can't take this data", forward, self._batch()[0])
        own = self._tried.config["learner"]["_target_"] is not None
        if own and not (isinstance(output, Tensor) and output.dim() and len(output) == size(self._batch())):
            return  # a learner of the user's own may make something else of it
        self.data = fit.fitted(self.data, output, self._loss, self._tried.options)
        if fit.has_a_range(self._loss):
            for far in (1e3, -1e3):  # rows far away show what those near the middle may hide
                inputs = tree_map(lambda leaf, far=far: leaf * far if _is_floating(leaf) else leaf, self._batch()[0])
                output = _guarded(f"{name} can't take this data", forward, inputs)
                fit.check_range(output, self._loss, self._tried.options)
        self._model.train()

    def _train(self) -> None:
        """Refuse what a training step can't be made of."""
        loss, name = self._loss, f"`loss={self._tried.options.get('loss')}`"
        if loss is not None:
            loss = weighting.weighed(loss, self.data, name)
        step = Step(torch.optim.SGD([nn.Parameter(torch.zeros(()))]))  # none is taken
        self._learner = OneRun(self._model, loss, step, spread=self._tried.spread)
        if not _is_known(self._loss):
            self._check_crossing()
        try:
            measures = _guarded(self._name(), self._learner.measures_of, self._batch())
        except (Refusal, _Theirs) as error:
            self._check_only_row(error)
            raise
        if made := dict(self._model.named_parameters()).keys() - dict(self._tried.model.named_parameters()).keys():
            raise Refusal(
                f"`model`: {min(made)} is made by its first forward pass, when the optimizer has its parameters "
                "already: make it in __init__, or of a lazy module such as torch.nn.LazyLinear"
            )
        value = measures["train_loss"]
        self._check_form(value, measures)
        if any(True for _ in self._parameters()):
            self._check_gradients(value)
        self._check_batch_of_one()

    def _validate(self) -> None:
        """See whether validation needs gradients; refuse it where they are denied."""
        wanted = self._trainer["validate_with_gradients"]
        self._learner.validated_with_gradients = wanted is True
        try:
            self._learner.evaluate(self._batch())
            return
        except Exception as error:
            if wanted is True:
                raise _Theirs from error
        self._learner.validated_with_gradients = True
        _guarded(self._name(), self._learner.evaluate, self._batch())
        if wanted is False:
            raise Refusal("`trainer.validate_with_gradients` must be true or auto: without gradients the loss fails")
        self.with_gradients = True

    def _name(self) -> str:
        if self._loss is not None and _is_known(self._loss):
            return f"`loss={self._tried.options.get('loss')}` can't take the model's output"
        return f"`model={self._tried.config['model']['_target_']}` can't be trained on this data"

    def _batch(self, most: int | None = None) -> Any:
        """Return some rows that a model may write into."""
        return copied(moved(fit.sample(self.data, most), torch.device("cpu"), self._dtype))

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of model and loss by name."""
        yield from self._model.named_parameters()
        if isinstance(self._loss, nn.Module):
            yield from self._loss.named_parameters(LOSS.rstrip("."))

    def _check_form(self, value: Any, measures: Mapping[str, Any]) -> None:
        what = "the loss" if self._loss is not None else f"{type(self._model).__name__}.training_loss"
        if not isinstance(value, Tensor):
            raise Refusal(f"{what} must return a tensor, got {type(value).__name__}")
        if value.numel() != 1:
            cure = "; `loss.reduction` must be mean or sum" if _is_known(self._loss) and self._loss else ""
            raise Refusal(f"{what} must return one number, got the shape {list(value.shape)}{cure}")
        if self._loss is None:
            names.check_numbers(measures.keys() - {"train_loss"}, self._tried.config)
        for name, number in measures.items():
            if not isinstance(number, (Tensor, int, float)) or (isinstance(number, Tensor) and number.numel() != 1):
                raise Refusal(f"{what}: {name!r} must be one number, got {_described(number)}")

    def _check_gradients(self, value: Tensor) -> None:
        learning = {n: p for n, p in self._parameters() if p.requires_grad}
        if not learning:
            raise Refusal("`model`: none of its parameters can learn, requires_grad is false in each")
        if not value.requires_grad:
            raise Refusal(
                "no gradient gets from the loss to the model: something between them cuts it off, "
                "such as detach(), item(), argmax, no_grad or numpy"
            )
        if sum(p.numel() for p in learning.values()) > _LARGEST_BACKWARD:
            return
        _guarded("the gradient of the loss can't be taken", value.backward)
        if all(p.grad is None for p in learning.values()):
            raise Refusal("no gradient gets from the loss to the model's parameters: the loss doesn't depend on them")
        updates.check_step(self._tried.config, self._tried.options, dict(self._parameters()))

    def _check_crossing(self) -> None:
        """Refuse a loss that pairs every row with every row, whatever their number is: one alone may be chance."""
        number = size(self._batch())
        for most in (number, number - 1 if number > 2 else number + 1):
            batch = self._batch(most)
            try:
                with NoCrossing(batch):
                    self._learner.measures_of(batch)
            except Crossing:
                if most != number:
                    raise
            except Exception:  # met again where it is looked at
                return
            else:
                return

    def _check_only_row(self, error: Exception) -> None:
        """Refuse data of one row where the model needs more, as two of it show."""
        if rows.count(self.data) != 1:
            return
        twice = tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, self._batch())
        try:
            self._learner.measures_of(twice)
        except Exception:
            return
        reason = _line(error.__cause__ or error)
        raise Refusal(f"`data` has one training row, and the model needs more: {reason}") from error

    def _check_batch_of_one(self) -> None:
        """Refuse a lone row where the model needs more, as a batch norm does."""
        if rows.last_batch(self.data, self._trainer) != 1 or rows.count(self.data) == 1:
            return
        try:
            self._learner.measures_of(self._batch(most=1))
        except Exception as error:
            where = rows.lone_row(self.data, self._trainer)
            raise Refusal(f"{where}, which the model can't take: {_line(error)}") from error


def _guarded(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call gives; an error without a line of the user's own code in its traceback is refused."""
    try:
        return call(*arguments)
    except Refusal:
        raise
    except Exception as error:
        if _is_theirs(error):
            raise _Theirs from error
        raise Refusal(f"{what}: {_line(error)}") from error


def _is_theirs(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _KNOWN:
            return True
        trace = trace.tb_next
    return False


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _is_known(part: Any) -> bool:
    return part is not None and type(part).__module__.partition(".")[0] in ("torch", "gdexp")


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _described(value: Any) -> str:
    return f"the shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
