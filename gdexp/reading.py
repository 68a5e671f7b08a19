"""What model and data give, read the way that metrics take it: ignored rows left out, one form for each kind."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gdexp.config.refusal import Refusal
from gdexp.losses import Meaning, Output
from gdexp.measures import over
from gdexp.metrics import Metric, accuracy, hits

Pair = tuple[Any, Any]  # output and target of some rows


class Reading:
    """Reads outputs and targets by what they mean to the loss.

    Args:
        meaning: of the loss.
        ignore_index: the class of rows that count nowhere; None: all count.
        log_target: whether the target of probabilities holds their logarithms.
    """

    def __init__(self, meaning: Meaning, ignore_index: int | None = None, log_target: bool = False) -> None:
        self.meaning = meaning
        self._ignored, self._log_target = ignore_index, log_target

    def __call__(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and target as `gdexp.metrics` describes them."""
        if self.meaning.of_classes:
            output, target = self._of_classes(output, target)
            if self._ignored is None:
                return output, target
            counted = self._counted(target)
            return output[counted], target[counted]
        if self.meaning.of_labels:
            if self.meaning.output is Output.PROBABILITIES:
                output = output.double().logit()
            return _columns(output), (_columns(target) > 0.5).long()  # the middle of 0 and 1, as of -1 and 1
        return self._of_numbers(output, target)

    def accuracy(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the accuracy of a batch, and where rows may be ignored, how many count.

        No shape in it depends on numbers, as `vmap` must have it.
        """
        if self._ignored is None or not self.meaning.of_classes:
            return {"accuracy": accuracy(*self(output, target))}
        output, target = self._of_classes(output, target)
        counted = self._counted(target)
        number = counted.double().sum()
        share = (hits(output, target) & counted).double().sum() / number.clamp(min=1)
        return {"accuracy": share, over("accuracy"): number}

    def _of_classes(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if target.dim() == output.dim() and target.shape == output.shape and target.is_floating_point():
            target = target.argmax(1)  # probabilities
        scores = output.movedim(1, -1).reshape(-1, output.shape[1])  # (rows · pixels, classes)
        return scores, target.flatten()

    def _counted(self, target: Tensor) -> Tensor:
        assert self._ignored is not None
        return target.ne(self._ignored)

    def _of_numbers(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.meaning.output is Output.MOMENTS:
            output = output.chunk(2, dim=1)[0]
        elif self.meaning.output in (Output.LOG_NUMBERS, Output.LOG_SHARES):
            output = output.double().exp()
        if self._log_target:
            target = target.double().exp()
        return output.flatten(1), target.reshape(output.shape).flatten(1)


class Metrics:
    """The metrics of a whole split.

    Args:
        known: functions of `gdexp.metrics`, and others that take what it describes.
        own: functions of the user's own, which take output and target as they are.
        reading: for the known ones.
        train: those of the training rows.
    """

    def __init__(
        self,
        known: Mapping[str, Metric],
        own: Mapping[str, Metric],
        reading: Reading | None,
        train: "Metrics | None" = None,
    ) -> None:
        self._known, self._own, self._reading = known, own, reading
        self.names = [*known, *own]
        self.train = train

    @property
    def of_train(self) -> list[str]:
        """The names by which metrics of the training rows are recorded."""
        return [f"train_{name}" for name in self.train.names] if self.train is not None else []

    def __call__(self, outputs: Sequence[Pair]) -> dict[str, float]:
        """Return each metric of the rows of all batches."""
        found: dict[str, float] = {}
        if self._known:
            assert self._reading is not None
            output, target = _joined([self._reading(*pair) for pair in outputs], flat=True)
            found |= {name: float(metric(output, target)) for name, metric in self._known.items()}
        if self._own:
            output, target = _joined(outputs)
            found |= {name: float(metric(output, target)) for name, metric in self._own.items()}
        return found


def _joined(pairs: Sequence[Pair], flat: bool = False) -> Pair:
    """Return the rows of all batches together.

    Args:
        pairs: output and target of each batch.
        flat: whether rows of other shapes may become numbers one below the other.
    """
    if len(pairs) == 1:
        return pairs[0]
    if flat and len({output.shape[1:] for output, _ in pairs}) > 1:
        pairs = [(output.reshape(-1, 1), target.reshape(-1, 1)) for output, target in pairs]
    try:
        output, target = tree_map(lambda *parts: torch.cat(parts), *pairs)
    except (RuntimeError, ValueError) as error:
        raise Refusal(f"`metrics`: a function of your own needs batches of one shape: {error}") from error
    return output, target


def _columns(t: Tensor) -> Tensor:
    """Return (rows, labels); of (rows, labels, …) each pixel is a row."""
    if t.dim() == 1:
        return t[:, None]
    return t if t.dim() == 2 else t.movedim(1, -1).reshape(-1, t.shape[1])
