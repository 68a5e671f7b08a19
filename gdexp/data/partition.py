"""Which rows are held apart: by chance, by class or by group, a share of them or one of k folds."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gdexp.config.refusal import Refusal
from gdexp.data import TensorData


class Plan(NamedTuple):
    """The keys of `data` that say which rows are held apart.

    Args:
        val_fraction: share of all rows below 1, or a number of rows; with a fold it doesn't count.
        test_fraction: share of all rows below 1, or a number of rows.
        split_seed: which shuffle; None leaves the rows in their order.
        split: random; stratified: each part has the classes of the whole; grouped: no group is in two parts.
        fold: which of the folds is the validation split, from 0; None: none is.
        folds: how many there are.
    """

    val_fraction: float = 0
    test_fraction: float = 0
    split_seed: int | None = 0
    split: Literal["random", "stratified", "grouped"] = "random"
    fold: int | None = None
    folds: int | None = None


def partition(data: TensorData, total: int, plan: Plan) -> tuple[Tensor, list[int]]:
    """Return the rows in the order that the splits take them, and how many are train, val and test.

    The last rows are test, those before them validation; which rows come last is a function of
    `plan.split_seed` only. The folds are those of the rows that aren't test.

    Args:
        data: as loaded.
        total: number of its training rows.
        plan: how they are split.

    Raises:
        Refusal: the rows can't be split so.
    """
    n_val = 0 if plan.folds else _count("val_fraction", plan.val_fraction, total)
    n_test = _count("test_fraction", plan.test_fraction, total)
    _check_own_splits(data, n_val, n_test, plan)
    if n_val + n_test >= total:
        raise Refusal(f"`data.val_fraction` and `data.test_fraction` leave no training rows of {total}")
    order = torch.arange(total)
    if plan.split_seed is not None:
        order = torch.randperm(total, generator=_generator(plan.split_seed))
    labels = _labels(data, plan)
    if labels is not None and len(labels) != total:
        raise Refusal(f"`data`: there are {len(labels)} groups for {total} rows: TensorData.groups holds one for each")
    rest, test = _held_apart(order, labels, n_test, plan, "test_fraction")
    if plan.folds:
        fold_of = _folds(rest, labels, plan)
        train, val = rest[fold_of != plan.fold], rest[fold_of == plan.fold]
    else:
        train, val = _held_apart(rest, labels, n_val, plan, "val_fraction")
    return torch.cat([train, val, test]), [len(train), len(val), len(test)]


def _check_own_splits(data: TensorData, n_val: int, n_test: int, plan: Plan) -> None:
    if plan.folds and data.val is not None:
        raise Refusal("`data.fold` must be null: the data brings its own val rows")
    for name, wanted, there in (("val", n_val, data.val), ("test", n_test, data.test)):
        if wanted and there is not None:
            raise Refusal(f"`data.{name}_fraction` must be 0: the data brings its own {name} rows")


def _labels(data: TensorData, plan: Plan) -> Tensor | None:
    """Return the class or the group of each row as numbers from 0 on, None where neither counts."""
    if plan.split == "random":
        return None
    if plan.split == "grouped":
        if data.groups is None:
            raise Refusal(
                "`data.split=grouped` needs a group for each row: data.group=COLUMN of a table, or TensorData.groups"
            )
        return _codes(data.groups)
    batch = data.train
    target = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(target, Tensor) or target.numel() != len(target):
        raise Refusal("`data.split=stratified` needs a target with one class for each row")
    target = target.flatten()
    if target.is_floating_point() and not torch.equal(target, target.round()):
        raise Refusal("`data.split=stratified` needs classes, but the target is continuous")
    codes = _codes(target)
    sizes = codes.bincount()
    if sizes.min() < 2:
        odd = target[codes == sizes.argmin()][0].item()
        raise Refusal(f"`data.split=stratified` needs two rows of each class, but {odd:g} has one row only")
    return codes


def _codes(values: Tensor) -> Tensor:
    return values.unique(return_inverse=True)[1]


def _held_apart(order: Tensor, labels: Tensor | None, count: int, plan: Plan, key: str) -> tuple[Tensor, Tensor]:
    """Return the rows that stay, and about `count` that are held apart, both in their order."""
    if not count:
        return order, order[:0]
    if labels is None:
        return order[:-count], order[-count:]
    own = labels[order]
    if plan.split == "stratified":
        held = _last_of_each_class(own, count, key)
    else:
        held = torch.isin(own, _some_groups(own, count, plan, key))
    return order[~held], order[held]


def _last_of_each_class(labels: Tensor, count: int, key: str) -> Tensor:
    """Mark `count` rows, of each class its share (the largest remainders are rounded up, as scikit-learn does)."""
    sizes = labels.bincount()
    classes = int((sizes > 0).sum())
    if min(count, len(labels) - count) < classes:
        raise Refusal(f"`data.{key}`: {count} of {len(labels)} rows can't hold each of {classes} classes on both sides")
    shares = sizes.double() / len(labels) * (len(labels) - count)
    stay = shares.floor().long()
    lacking = len(labels) - count - int(stay.sum())
    stay[(shares - stay).sort(descending=True, stable=True).indices[:lacking]] += 1
    return _place_in_class(labels) >= stay[labels]


def _place_in_class(labels: Tensor) -> Tensor:
    """Return how many rows of the same class come before each row."""
    by_class = labels.argsort(stable=True)
    sizes = labels.bincount()
    places = torch.empty_like(labels)
    places[by_class] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    return places


def _some_groups(labels: Tensor, count: int, plan: Plan, key: str) -> Tensor:
    """Return groups that have about `count` rows together: each that brings the number of rows nearer to it."""
    groups, counts = labels.unique(return_counts=True)
    shuffled, sizes = torch.arange(len(groups)), counts.tolist()
    if plan.split_seed is not None:
        shuffled = torch.randperm(len(groups), generator=_generator(plan.split_seed))
    chosen: list[int] = []
    rows = 0
    for place in reversed(shuffled.tolist()):
        if abs(rows + sizes[place] - count) < abs(rows - count):
            chosen.append(place)
            rows += sizes[place]
    if not 0 < len(chosen) < len(groups):
        raise Refusal(
            f"`data.{key}`: {count} of {len(labels)} rows can't be made of whole groups: there are {len(groups)}, "
            f"of {min(sizes)} to {max(sizes)} rows"
        )
    return groups[chosen]


def _folds(order: Tensor, labels: Tensor | None, plan: Plan) -> Tensor:
    """Return the fold of each row of an order; their sizes are scikit-learn's."""
    folds = plan.folds or 0
    if labels is None:
        if folds > len(order):
            raise Refusal(f"`data.folds` must be at most {len(order)}, the number of rows, got {folds}")
        sizes = [len(order) // folds + (fold < len(order) % folds) for fold in range(folds)]
        return torch.repeat_interleave(torch.tensor(sizes))
    if plan.split == "stratified":
        return _folds_of_classes(order, labels, folds)
    return _folds_of_groups(labels[order], folds, plan.split_seed)


def _folds_of_classes(order: Tensor, labels: Tensor, folds: int) -> Tensor:
    """Deal the rows of all classes out to the folds in turn, class by class, as StratifiedKFold does."""
    in_file = labels[order.sort().values]
    codes, sizes = in_file.unique(return_counts=True)
    if folds > sizes.max():
        raise Refusal(f"`data.folds={folds}` is more than the {int(sizes.max())} rows of the largest class")
    first = torch.stack([(in_file == code).nonzero()[0, 0] for code in codes])
    by_appearance = codes[first.argsort()]  # classes are numbered so in scikit-learn, which decides who gets one more
    rank = torch.empty(int(codes.max()) + 1, dtype=torch.long)
    rank[by_appearance] = torch.arange(len(codes))
    dealt = rank[in_file].sort().values
    own, fold_of = labels[order], torch.empty(len(order), dtype=torch.long)
    counts = torch.stack([dealt[fold::folds].bincount(minlength=len(codes)) for fold in range(folds)])
    for code in codes:
        fold_of[own == code] = torch.repeat_interleave(counts[:, rank[code]])
    return fold_of


def _folds_of_groups(labels: Tensor, folds: int, seed: int | None) -> Tensor:
    """Give the largest group that is left to the smallest fold, as GroupKFold does."""
    groups, codes, sizes = labels.unique(return_inverse=True, return_counts=True)
    if folds > len(groups):
        raise Refusal(f"`data.folds` must be at most {len(groups)}, the number of groups, got {folds}")
    shuffled = torch.arange(len(groups))
    if seed is not None:
        shuffled = torch.randperm(len(groups), generator=_generator(seed))
    largest_first = shuffled[sizes[shuffled].argsort(stable=True).flip(0)]
    fold_of, rows = torch.empty(len(groups), dtype=torch.long), torch.zeros(folds)
    for group in largest_first:
        smallest = rows.argmin()
        fold_of[group] = smallest
        rows[smallest] += sizes[group]
    return fold_of[codes]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _count(name: str, fraction: float, total: int) -> int:
    count = round(fraction * total) if fraction < 1 else int(fraction)
    if fraction and not 0 < count < total:
        raise Refusal(f"`data.{name}={fraction}` is {count} of {total} rows: it must leave some on both sides")
    return count
