"""What the losses of torch mean: what a model's output is to each, and what target it takes."""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[..., Tensor]  # (output, target) -> scalar; with weights of the rows a third argument


class Output(Enum):
    """What a model's output is to a loss; the names may stand in the attribute `output` of a loss."""

    SCORES = auto()  # (rows, classes, …), log-odds over classes
    MARGINS = auto()  # (rows, classes), of which the highest wins
    LOG_PROBABILITIES = auto()  # (rows, classes, …)
    LOGITS = auto()  # of each label that it is there
    PROBABILITIES = auto()  # likewise
    NUMBERS = auto()  # of the target's shape
    LOG_NUMBERS = auto()  # their natural logarithm
    MOMENTS = auto()  # means, then log-variances, twice as many columns as the target
    LOG_SHARES = auto()  # (rows, classes, …), log-probabilities to compare with probabilities
    UNKNOWN = auto()


class Target(Enum):
    """What a loss takes as its target."""

    CLASSES = auto()  # an index a row, or for each pixel
    SHARES_OR_CLASSES = auto()  # or the probability of each class
    SHARES = auto()
    ZERO_ONE = auto()  # two values of the output's shape, or what lies between
    PLUS_MINUS = auto()  # -1 and 1, of the output's shape
    NUMBERS = auto()  # of the output's shape
    COUNTS = auto()  # numbers from 0
    ANY = auto()  # left alone


class Meaning(NamedTuple):
    """What a model's output is to a loss, and the target that it takes."""

    output: Output = Output.UNKNOWN
    target: Target = Target.ANY

    @property
    def columns(self) -> int:
        """How many columns the output has for each of the target."""
        return 2 if self.output is Output.MOMENTS else 1

    @property
    def of_classes(self) -> bool:
        """Whether the output has a score a class."""
        return self.output in (Output.SCORES, Output.MARGINS, Output.LOG_PROBABILITIES)

    @property
    def of_labels(self) -> bool:
        """Whether the output has a score a label, which is there or not."""
        return self.output in (Output.LOGITS, Output.PROBABILITIES)

    @property
    def of_numbers(self) -> bool:
        """Whether the output stands for numbers that the target has too."""
        return self.output in (Output.NUMBERS, Output.LOG_NUMBERS, Output.MOMENTS, Output.LOG_SHARES)


class GaussianNLLLoss(nn.GaussianNLLLoss):
    """torch's Gaussian negative log likelihood, of an output that holds mean and log-variance.

    ½·(log v + (y - m)²/v), with m the first half of the output's columns and log v the second.
    The output has twice as many columns as the target.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        mean, log_variance = output.chunk(2, dim=1)  # (batch, columns) each
        return super().forward(mean, target, log_variance.exp())


_MEANINGS: dict[type[nn.Module], Meaning] = {
    nn.CrossEntropyLoss: Meaning(Output.SCORES, Target.SHARES_OR_CLASSES),
    nn.NLLLoss: Meaning(Output.LOG_PROBABILITIES, Target.CLASSES),
    nn.MultiMarginLoss: Meaning(Output.MARGINS, Target.CLASSES),
    nn.BCEWithLogitsLoss: Meaning(Output.LOGITS, Target.ZERO_ONE),
    nn.MultiLabelSoftMarginLoss: Meaning(Output.LOGITS, Target.ZERO_ONE),
    nn.BCELoss: Meaning(Output.PROBABILITIES, Target.ZERO_ONE),
    nn.SoftMarginLoss: Meaning(Output.LOGITS, Target.PLUS_MINUS),
    nn.HingeEmbeddingLoss: Meaning(Output.UNKNOWN, Target.PLUS_MINUS),  # distances
    nn.MultiLabelMarginLoss: Meaning(),  # rows of class indices
    nn.MSELoss: Meaning(Output.NUMBERS, Target.NUMBERS),
    nn.L1Loss: Meaning(Output.NUMBERS, Target.NUMBERS),
    nn.HuberLoss: Meaning(Output.NUMBERS, Target.NUMBERS),
    nn.SmoothL1Loss: Meaning(Output.NUMBERS, Target.NUMBERS),
    nn.PoissonNLLLoss: Meaning(Output.LOG_NUMBERS, Target.COUNTS),  # numbers, without log_input
    nn.KLDivLoss: Meaning(Output.LOG_SHARES, Target.SHARES),
    GaussianNLLLoss: Meaning(Output.MOMENTS, Target.NUMBERS),
}

# functions that are their modules, with the same keys
MODULES: dict[Callable[..., Any], type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    F.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.huber_loss: nn.HuberLoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.kl_div: nn.KLDivLoss,
}


def meaning(loss: Any) -> Meaning:
    """Return what a loss means; one of the user's own may say it by an attribute, `output = "scores"`.

    Raises:
        ValueError: the attribute says no name of `Output`.
    """
    loss = loss.loss if isinstance(loss, (Quotient, OwnWeighted)) else getattr(loss, "func", loss)
    declared = getattr(loss, "output", None)
    if isinstance(declared, str):
        if declared.upper() not in Output.__members__:
            names = ", ".join(name.lower() for name in Output.__members__)
            raise ValueError(f"`loss`: its attribute `output` must be one of {names}, got {declared!r}")
        return Meaning(Output[declared.upper()])
    for kind in type(loss).__mro__:
        if kind in _MEANINGS:
            found = _MEANINGS[kind]
            if isinstance(loss, nn.PoissonNLLLoss) and not loss.log_input:
                return found._replace(output=Output.NUMBERS)
            return found
    return Meaning()


class Quotient(nn.Module):
    """A loss of torch's that says what it divides by: Σ w·l / Σ w·d over the rows of a batch.

    l is a row's loss and w its weight. d is 1, or the weight of the row's class, and 0 where the
    class is ignored; of rows with several numbers it is their sum. With `reduction: sum` nothing
    is divided. A batch of which nothing counts has the loss 0, where torch has NaN.

    Args:
        loss: of torch's, whose reduction is changed where that is needed, for it may change the last bit.
        weighted: whether rows have weights.
        ignores: whether there may be a batch of which nothing counts.
    """

    def __init__(self, loss: Any, weighted: bool, ignores: bool) -> None:
        super().__init__()
        self.loss, self._reduction = loss, loss.reduction
        if weighted:
            loss.reduction = "none"
        elif loss.reduction == "mean" and ignores:
            loss.reduction = "sum"

    @property
    def sums(self) -> bool:
        """Whether nothing is divided."""
        return self._reduction == "sum"

    def forward(self, output: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        losses = self.loss(output, target)
        if weights is not None:
            losses = (losses.reshape(len(losses), -1).sum(1) * weights).sum()
        elif self.loss.reduction == self._reduction:
            return losses
        if self.sums:
            return losses
        over = self.over(target, weights)
        return losses / torch.where(over > 0, over, 1.0).to(losses.dtype)

    def over(self, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return what the loss of a batch is divided by, 0 for a sum."""
        if self.sums:
            return torch.zeros((), dtype=torch.float64, device=target.device)
        counts = self._counts(target)
        return (counts if weights is None else counts * weights).sum()

    def _counts(self, target: Tensor) -> Tensor:
        """Return what each row adds to that, (rows,)."""
        if isinstance(self.loss, _OF_INDICES) and not target.is_floating_point():
            counted = target != self.loss.ignore_index
            each = counted.double()
            if self.loss.weight is not None:
                each = each * self.loss.weight.double()[torch.where(counted, target, 0)]
            return each.reshape(len(target), -1).sum(1)
        numbers = target.shape[1:].numel()
        if isinstance(self.loss, _OF_ROWS) or self._reduction == "batchmean":
            numbers = 1
        elif isinstance(self.loss, nn.CrossEntropyLoss):
            numbers //= target.shape[1]  # probabilities of each class
        return torch.full((len(target),), float(numbers), dtype=torch.float64, device=target.device)


class OwnWeighted(nn.Module):
    """A loss of the user's own that takes weights of the rows, and is taken to divide by their sum."""

    sums = False

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Any, target: Any, weights: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(output, target, weights)

    def over(self, target: Any, weights: Tensor) -> Tensor:
        """Return what the loss of a batch is divided by."""
        return weights.double().sum()


_OF_INDICES = (nn.CrossEntropyLoss, nn.NLLLoss)
_OF_ROWS = (nn.MultiMarginLoss, nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss)


def divides_by_more_than_rows(loss: Any, ignores: bool) -> bool:
    """Say whether the mean loss of a batch isn't over its rows alike.

    Args:
        loss: of torch's.
        ignores: whether there may be rows of the class that it ignores.
    """
    weighs = isinstance(loss, _OF_INDICES) and (ignores or loss.weight is not None)
    return weighs or loss.reduction == "sum"


def is_torchs(loss: Any) -> bool:
    """Say whether a loss computes what its class in torch does, which one derived from it need not."""
    known = next((kind for kind in type(loss).__mro__ if kind in _MEANINGS), None)
    return known is not None and type(loss).forward is known.forward
