"""What is measured on validation and test rows beside the loss, by scikit-learn's definitions.

Each is a function (output, target) -> number of a whole split, which `gdexp.reading` made out of
what model and data give:

- of classes: output (rows, classes), log-odds, and target (rows,), an index;
- of labels: output (rows, labels), a logit each, and target (rows, labels), 1 where the label is there;
- of numbers: output and target (rows, columns).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Metric = Callable[..., Tensor]

_EPSILON = torch.finfo(torch.float64).eps  # the least probability in a logarithm, as scikit-learn's


def hits(output: Tensor, target: Tensor) -> Tensor:
    """Return whether each row's class, or each label, is right."""
    predicted, true = classes(output, target)
    return predicted == true


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the share of rows whose class is right, or of labels that are."""
    return hits(output, target).double().mean()


def balanced_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean recall of the classes that occur in the target."""
    counts = _Counts.of_classes(output, target)
    return counts.recall()[counts.true > 0].mean()


def top_k(output: Tensor, target: Tensor, k: int) -> Tensor:
    """Return the share of rows whose class is among the k highest scores; of equal ones the later class is higher."""
    highest = output.argsort(dim=1, stable=True).flip(1)[:, :k]
    return (highest == target[:, None]).any(1).double().mean()


def f1(output: Tensor, target: Tensor, average: str | None = None) -> Tensor:
    """Return 2·tp / (2·tp + fp + fn), averaged as in `_averaged`."""
    return _averaged(_Counts.f1, output, target, average)


def precision(output: Tensor, target: Tensor, average: str | None = None) -> Tensor:
    """Return tp / (tp + fp), likewise."""
    return _averaged(_Counts.precision, output, target, average)


def recall(output: Tensor, target: Tensor, average: str | None = None) -> Tensor:
    """Return tp / (tp + fn), likewise."""
    return _averaged(_Counts.recall, output, target, average)


def auroc(output: Tensor, target: Tensor, average: str | None = None) -> Tensor:
    """Return the area under the ROC curve; of more than two classes or labels the mean of each against the rest.

    It is the share of pairs (one row of the class, one of the rest) that the score puts in the
    right order, ties counting half; NaN where a class has no rows or all of them. With `micro`
    the pairs are those of all columns together.
    """
    if output.shape == target.shape:
        scores, positive = output.double(), target > 0  # (rows, labels)
    else:
        scores = output.double().softmax(1)  # (rows, classes)
        positive = target[:, None] == torch.arange(output.shape[1], device=target.device)
        if scores.shape[1] == 2:
            scores, positive = scores[:, 1:], positive[:, 1:]
    if average == "micro":
        return _area(scores.flatten(), positive.flatten())
    areas = [_area(s, p) for s, p in zip(scores.unbind(1), positive.unbind(1), strict=True)]
    return torch.stack(areas).mean()


def log_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean of -log p of the class that is right."""
    if output.shape == target.shape:  # one label
        signed = torch.where(target > 0, output.double(), -output.double())
        p = signed.sigmoid()
    else:
        p = output.double().softmax(1).gather(1, target[:, None])
    return -p.clamp(_EPSILON, 1 - _EPSILON).log().mean()


def r2(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Σ(y - f)² / Σ(y - ȳ)², the mean over the columns.

    A column that is constant counts 1 where it is met exactly, else 0; one row alone has no r2.
    """
    y = target.double().flatten(1)
    if len(y) < 2:
        return y.new_tensor(float("nan"))
    residual = ((y - output.double().flatten(1)) ** 2).sum(0)  # (columns,)
    constant = y.amax(0) == y.amin(0)
    total = ((y - y.mean(0)) ** 2).sum(0)
    share = torch.where(constant, (residual > 0).double(), residual / torch.where(constant, 1.0, total))
    return (1 - share).mean()


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean of |y - f|."""
    return (target.double() - output.double()).abs().mean()


def rmse(output: Tensor, target: Tensor) -> Tensor:
    """Return √(mean (y - f)²), the mean over the columns."""
    return ((target.double() - output.double()).flatten(1) ** 2).mean(0).sqrt().mean()


class Known(NamedTuple):
    """A metric, and the kinds of output that it takes: `classes`, one `label`, `labels`, `numbers`, `likelihood`."""

    function: Metric
    takes: frozenset[str]


_EITHER = frozenset({"classes", "label", "labels"})

KNOWN: dict[str, Known] = {
    "accuracy": Known(accuracy, _EITHER),
    "balanced_accuracy": Known(balanced_accuracy, frozenset({"classes", "label"})),
    "log_loss": Known(log_loss, frozenset({"likelihood"})),
    "r2": Known(r2, frozenset({"numbers"})),
    "mae": Known(mae, frozenset({"numbers"})),
    "rmse": Known(rmse, frozenset({"numbers"})),
}
for _name, _function in (("f1", f1), ("precision", precision), ("recall", recall), ("auroc", auroc)):
    KNOWN[_name] = Known(_function, _EITHER)
    for _average in ("micro", "macro"):
        KNOWN[f"{_name}_{_average}"] = Known(partial(_function, average=_average), _EITHER)


def known(name: str) -> Known | None:
    """Return the metric of a name; `top_3` and the like are made."""
    k = name.removeprefix("top_")
    if name.startswith("top_") and k.isdigit() and int(k) > 0:
        return Known(partial(top_k, k=int(k)), frozenset({"classes"}))
    return KNOWN.get(name)


def classes(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return predicted and true class of each row, or of each label whether it is there."""
    if output.shape == target.shape:
        return (output > 0).long(), (target > 0).long()
    return output.argmax(1), target.long()


class _Counts(NamedTuple):
    """How often each class, or each label, is right, predicted and true, (classes,)."""

    right: Tensor
    predicted: Tensor
    true: Tensor

    @classmethod
    def of_classes(cls, output: Tensor, target: Tensor) -> "_Counts":
        """Count classes; a single label is two of them."""
        predicted, true = (t.flatten() for t in classes(output, target))
        count = 2 if output.shape == target.shape else output.shape[1]
        parts = predicted[predicted == true], predicted, true
        return cls(*(torch.bincount(t, minlength=count).double() for t in parts))

    @classmethod
    def of_labels(cls, output: Tensor, target: Tensor) -> "_Counts":
        predicted, true = classes(output, target)
        return cls(*(t.double().sum(0) for t in (predicted * true, predicted, true)))

    def f1(self) -> Tensor:
        return _share(2 * self.right, self.predicted + self.true)

    def precision(self) -> Tensor:
        return _share(self.right, self.predicted)

    def recall(self) -> Tensor:
        return _share(self.right, self.true)


def _averaged(score: Callable[[_Counts], Tensor], output: Tensor, target: Tensor, average: str | None) -> Tensor:
    """Return a score: of the second of two classes, of more the mean over those that occur, of labels over all.

    With an average it is the mean (`macro`) or that of all counts together (`micro`), of two classes too.
    """
    labels = output.shape == target.shape and output.shape[1] > 1
    counts = _Counts.of_labels(output, target) if labels else _Counts.of_classes(output, target)
    if average == "micro":
        return score(_Counts(*(t.sum()[None] for t in counts)))[0]
    scores = score(counts)
    if labels:
        return scores.mean()
    if average is None and len(scores) == 2:
        return scores[1]
    return scores[counts.predicted + counts.true > 0].mean()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, 0 where there is nothing."""
    return part / whole.clamp(min=1)


def _area(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the area under the ROC curve by ranks (Mann and Whitney 1947)."""
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]  # ties share their mean rank
    there, rest = positive.sum().double(), (~positive).sum().double()
    return (ranks[positive].sum() - there * (there + 1) / 2) / (there * rest)
