"""What is measured on validation and test rows beside the loss, by scikit-learn's definitions.

Each is a function (output, target) -> number of a whole split. A classifier's output is one score
a class, (rows, classes), with target (rows,); for two classes it may be one logit, (rows, 1), with a
target that is above zero for the second class.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(output: Tensor, target: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the share of rows whose class is right."""
    predicted, target = classes(output, target, threshold)
    return (predicted == target).double().mean()


def top_k(output: Tensor, target: Tensor, k: int) -> Tensor:
    """Return the share of rows whose class is among the k highest scores."""
    return (output.topk(k, dim=1).indices == target[:, None]).any(1).double().mean()


def f1(output: Tensor, target: Tensor, threshold: float = 0.0) -> Tensor:
    """Return 2·tp / (2·tp + fp + fn): of the second of two classes, of more the mean over the classes that occur."""
    predicted, target = classes(output, target, threshold)
    count = max(output.shape[1] if output.dim() > 1 else 1, 2)
    hits = torch.bincount(target[predicted == target], minlength=count).double()
    sizes = (torch.bincount(predicted, minlength=count) + torch.bincount(target, minlength=count)).double()
    scores = 2 * hits / sizes.clamp(min=1)  # (classes,); 0 for a class that has no hits
    return scores[1] if count == 2 else scores[sizes > 0].mean()


def auroc(output: Tensor, target: Tensor) -> Tensor:
    """Return the area under the ROC curve: of more than two classes, the mean of each against the rest.

    It is the share of pairs (one row of the class, one of the rest) that the score puts in the
    right order, ties counting half; NaN where a class has no rows or all of them.
    """
    if output.dim() == 1 or output.shape[1] == 1:
        return _area(output.flatten(), target.flatten() > 0)
    scores = output.double().softmax(1)  # (rows, classes)
    if scores.shape[1] == 2:
        return _area(scores[:, 1], target == 1)
    return torch.stack([_area(scores[:, c], target == c) for c in range(scores.shape[1])]).mean()


def r2(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Σ(y - f)² / Σ(y - ȳ)², the mean over the columns."""
    y, residual = target.double().flatten(1), (target - output).double().flatten(1)
    return (1 - (residual**2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)).mean()


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean of |y - f|."""
    return (target - output).double().abs().mean()


def rmse(output: Tensor, target: Tensor) -> Tensor:
    """Return √(mean (y - f)²), the mean over the columns."""
    return ((target - output).double().flatten(1) ** 2).mean(0).sqrt().mean()


CLASSIFICATION: dict[str, Metric] = {"accuracy": accuracy, "f1": f1, "auroc": auroc}
REGRESSION: dict[str, Metric] = {"r2": r2, "mae": mae, "rmse": rmse}


def top(name: str) -> Metric | None:
    """Return the metric that a name such as `top_3` means, else None."""
    k = name.removeprefix("top_")
    return partial(top_k, k=int(k)) if name.startswith("top_") and k.isdigit() and int(k) > 0 else None


def classes(output: Tensor, target: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return predicted and true class of each row."""
    if output.dim() == 1 or output.shape == target.shape:  # one score a label
        return (output > threshold).long().flatten(), (target > 0).long().flatten()
    return output.argmax(1), target


def _area(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the area under the ROC curve by ranks (Mann and Whitney 1947)."""
    scores = scores.double()
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]  # ties share their mean rank
    there, rest = positive.sum().double(), (~positive).sum().double()
    return (ranks[positive].sum() - there * (there + 1) / 2) / (there * rest)
