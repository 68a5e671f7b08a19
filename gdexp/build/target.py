"""What the target of a run is, settled together with its loss before anything is scaled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gdexp.build.fit import is_pair, sample, with_target
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.loading import Loader
from gdexp.data.split import few_classes, too_many_classes
from gdexp.losses import Target, meaning

_FEWEST_A_CLASS = 5  # rows on average, below which floating whole numbers with gaps are a quantity


class _Case(NamedTuple):
    """Data and loss, as messages name them, and what is known before all rows are looked at."""

    data: TensorData
    loss: Any
    name: str  # `loss=…`
    source: str  # data=…
    first: Tensor  # the target of two rows
    outputs: int | None  # how many the config gives the model, or how many class weights there are

    @property
    def targets(self) -> list[Tensor]:
        """The targets that can be looked at before training."""
        return [split[1] for split in self.data[:3] if split is not None and not isinstance(split, Loader)]

    @property
    def counted(self) -> list[Tensor]:
        """Their numbers, without those that the loss ignores."""
        ignored = getattr(self.loss, "ignore_index", None)
        return [t.flatten() if ignored is None else t[t != ignored] for t in self.targets]

    def with_target(self, change: Callable[[Tensor], Tensor], classes: int | None = None) -> TensorData:
        """Return the data with each target changed."""
        return with_target(self.data, change)._replace(classes=classes)


def settle(data: TensorData, loss: Any, options: Mapping[str, str | None], outputs: int | None = None) -> TensorData:
    """Refuse a target that the loss can't take; read it the way that the loss does.

    Args:
        data: split, not scaled.
        loss: of torch, or anything else, whose target is left alone.
        options: the option chosen in each group, for messages.
        outputs: how many the config gives the model; None: it doesn't.
    """
    if loss is None:
        return data
    name, source, first = f"`loss={options.get('loss')}`", f"data={options.get('data')}", sample(data)
    if not is_pair(first):
        raise Refusal(f"{name} needs data of the form (inputs, target); loss=none takes any")
    kind = meaning(loss).target
    if kind is Target.ANY:
        return data
    if not isinstance(first[1], Tensor):
        raise Refusal(f"{name} needs one tensor as the target; a loss of your own (loss=custom) takes a nest of them")
    if not first[1].is_floating_point() and not first[1].is_complex():  # any whole numbers, and true and false
        data = with_target(data, Tensor.long)
    weight = getattr(loss, "weight", None)
    if outputs is None and isinstance(weight, Tensor) and weight.dim() == 1:
        outputs = len(weight)
    settled = _KINDS[kind](_Case(data, loss, name, source, first[1], outputs))
    if data.classes is not None:  # it has been said
        return settled
    classes = 2 if kind in (Target.ZERO_ONE, Target.PLUS_MINUS) else settled.classes
    for word in few_classes(settled, classes, getattr(loss, "ignore_index", None)):
        settled = _with_word(settled, word)
    return settled


def _classes(case: _Case) -> TensorData:
    if case.first.shape[1:].numel() == 1:
        return _labels(case)
    shares = case.first.is_floating_point() and meaning(case.loss).target is Target.SHARES_OR_CLASSES
    if shares:
        _check_shares(case, case.targets)
        return case.data._replace(classes=None)
    if _are_one_hot(case.targets):
        return case.with_target(lambda t: t.argmax(1), case.first.shape[1])
    if case.first.is_floating_point():
        raise Refusal(f"{case.name} needs an index a row as its target, but {case.source} has several numbers")
    least, highest = _range(case)  # an index for each pixel or word, which keeps its number
    if least < 0:
        raise Refusal(f"{case.name} needs classes from 0 on, but the target of {case.source} has negative numbers")
    return case.with_target(lambda t: t.long(), case.data.classes or (1 + int(highest) if case.targets else None))


def _labels(case: _Case) -> TensorData:
    """Make an index a row of the labels that occur."""
    known = case.data.classes
    if case.first.is_floating_point() and not _are_labels(case):
        raise Refusal(f"{case.name} needs classes, but the target of {case.source} is continuous")
    least, highest = _range(case)
    if known is not None and (least < 0 or highest >= known):
        odd = least if least < 0 else highest
        raise Refusal(f"{case.source} says that it has {known} classes, but its target holds {odd:g}")
    if known is not None or not case.targets:
        return case.with_target(lambda t: _index_below(case, t), known)
    if case.outputs is not None and least >= 0 and highest < case.outputs:
        return case.with_target(_index, case.outputs)  # some of the outputs that are given don't occur
    labels = torch.cat(case.counted).unique()
    if len(labels) < 2:
        raise Refusal(f"{case.name} needs at least two classes, but the target of {case.source} has {len(labels)}")
    ignored, number = getattr(case.loss, "ignore_index", None), len(labels)
    rows = sum(map(len, case.counted))
    has_gaps = number < highest - least + 1
    if has_gaps and too_many_classes(number, rows):
        raise Refusal(
            f"{case.name} needs classes, but the target of {case.source} has {number} different numbers in {rows} "
            "rows: take a loss for numbers, such as mse; data.categories of a table makes classes of any"
        )
    if least == 0 and highest == number - 1:
        return case.with_target(_index, number)
    kept = ignored
    if ignored is not None and 0 <= ignored < number:  # its number becomes that of a class
        kept = case.loss.ignore_index = -100
    data = case.with_target(lambda t: _numbered(t, labels, ignored, kept), number)
    return _with_word(data, f"the classes 0 to {number - 1} are {_listed(labels.tolist())}")


def _are_labels(case: _Case) -> bool:
    """Say whether floating numbers are labels: whole, and without gaps or with enough rows a class."""
    values = torch.cat([*case.counted, case.first.flatten()])
    labels = values.unique()
    if (labels != labels.round()).any():
        return False
    gaps = labels[-1] - labels[0] + 1 > len(labels)
    return bool(case.targets) and not (gaps and len(values) < _FEWEST_A_CLASS * len(labels))


def _range(case: _Case) -> tuple[float, float]:
    """Return the least and the highest label, (0, 0) where none can be seen."""
    ends = [t.aminmax() for t in case.counted if len(t)]
    return min((low.item() for low, _ in ends), default=0), max((high.item() for _, high in ends), default=0)


def _index_below(case: _Case, target: Tensor) -> Tensor:
    """Return the classes of some rows; those of a Dataset are looked at as they come."""
    index, known = _index(target), case.data.classes
    if known is not None and not case.targets:
        odd = index[((index < 0) | (index >= known)) & (index != getattr(case.loss, "ignore_index", known))]
        if len(odd):
            raise Refusal(f"{case.source} says that it has {known} classes, but its target holds {int(odd[0])}")
    return index


def _index(target: Tensor) -> Tensor:
    return target.flatten().long()


def _numbered(target: Tensor, labels: Tensor, ignored: int | None, kept: int | None) -> Tensor:
    """Return the place of each row's label among those that occur; rows that are ignored get the number `kept`."""
    target = target.flatten()
    index = torch.searchsorted(labels, target.contiguous())
    return index if ignored is None or kept is None else torch.where(target == ignored, kept, index)


def _are_one_hot(targets: Sequence[Tensor]) -> bool:
    """Say whether the rows of (rows, classes) each have a single one among zeros."""
    return bool(targets) and all(
        t.dim() == 2 and bool(((t == 0) | (t == 1)).all()) and bool((t.sum(1) == 1).all()) for t in targets
    )


def _numbers(case: _Case) -> TensorData:
    if case.first.is_floating_point() or case.first.is_complex():
        return case.data
    if case.data.classes is not None:
        raise Refusal(f"{case.name} needs a continuous target, but {case.source} has classes")
    return case.with_target(lambda t: t.double())


def _counts(case: _Case) -> TensorData:
    if any(t.min() < 0 for t in case.targets):
        raise Refusal(f"{case.name} needs counts, but the target of {case.source} has negative numbers")
    return _numbers(case)


def _shares(case: _Case) -> TensorData:
    data = _numbers(case)
    targets = case._replace(data=data).targets
    _check_shares(case, [t.double().exp() if case.loss.log_target else t for t in targets])
    return data


def _check_shares(case: _Case, targets: Sequence[Tensor]) -> None:
    for p in map(Tensor.double, targets):
        if p.dim() < 2 or p.min() < 0 or (p.sum(1) - 1).abs().max() > 1e-3:
            raise Refusal(f"{case.name} needs rows of probabilities that sum to 1 as the target of {case.source}")


def _two_values(case: _Case) -> TensorData:
    low = -1 if meaning(case.loss).target is Target.PLUS_MINUS else 0
    soft = case.first.is_floating_point()
    if case.data.classes not in (2, None):
        raise Refusal(f"{case.name} needs two classes, but {case.source} has {case.data.classes} classes")
    if not case.targets:  # a Dataset, of which no more is known
        return case.data if soft else case.with_target(lambda t: _two(t, 1, low))
    least, highest = _range(case)
    if soft and low == 0 and least >= 0 and highest <= 1:
        return case.data._replace(classes=None)  # what lies between is a share
    if any(((t != least) & (t != highest)).any() or (t != t.round()).any() for t in case.targets):
        raise Refusal(
            f"{case.name} needs targets of {low} and 1, or of two other whole numbers, but the target of "
            f"{case.source} has more"
        )
    second = 1 if least == highest and least in (-1, 0, 1) else highest  # one of them may not occur
    data = case.with_target(lambda t: _two(t, second, low))
    if least == highest or (least in (-1, 0) and highest == 1):
        return data
    return _with_word(data, f"the target's {least:g} is read as {low}, {highest:g} as 1")


def _with_word(data: TensorData, word: str) -> TensorData:
    """Return the data with a further word on what became of them."""
    return data._replace(about=f"{data.about}; {word}" if data.about else word)


def _listed(labels: Sequence[float]) -> str:
    shown = [f"{label:.10g}" for label in labels]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "…", *shown[-2:]])


def _two(target: Tensor, second: float, low: int) -> Tensor:
    return torch.where(target == second, 1.0, float(low)).double()


_KINDS: dict[Target, Callable[[_Case], TensorData]] = {
    Target.CLASSES: _classes,
    Target.SHARES_OR_CLASSES: _classes,
    Target.SHARES: _shares,
    Target.ZERO_ONE: _two_values,
    Target.PLUS_MINUS: _two_values,
    Target.NUMBERS: _numbers,
    Target.COUNTS: _counts,
}


def may_be_scaled(loss: Any) -> bool:
    """Say whether `data.standardize=both` scales the target; classes and the like are left as they are.

    Raises:
        Refusal: scaled, it would no longer be what the loss takes.
    """
    kind = Target.ANY if loss is None else meaning(loss).target
    if kind in (Target.COUNTS, Target.SHARES):
        raise Refusal("`data.standardize=both` would make other numbers of counts or probabilities; use inputs")
    return kind in (Target.NUMBERS, Target.ANY)
