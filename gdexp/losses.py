"""What the losses of torch mean: what a model's output is to each, and what target it takes."""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NamedTuple

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


def is_torchs(loss: Any) -> bool:
    """Say whether a loss computes what its class in torch does."""
    return type(loss) in _MEANINGS
