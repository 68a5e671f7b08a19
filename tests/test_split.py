"""Which rows are held apart, against scikit-learn's splitters."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, train_test_split

import gdexp
from gdexp.data import TensorData, Weighted, bundled
from gdexp.data.split import split

ROWS = 103
X = torch.arange(float(ROWS))[:, None]
Y = torch.from_numpy(np.random.default_rng(0).choice(3, ROWS, p=[0.7, 0.2, 0.1]))
GROUPS = torch.from_numpy(np.random.default_rng(1).choice(11, ROWS, p=[0.4, *[0.06] * 10]))  # the first is large
DATA = TensorData((X, Y), classes=3, groups=GROUPS)


def rows(part):
    return part[0].ravel().long()


def parts(**keys):
    data = split(DATA, **keys)
    return [rows(part) for part in data[:3] if part is not None]


SPLITTERS = {"random": KFold, "stratified": StratifiedKFold, "grouped": GroupKFold}


def scikit_learns(kind, folds):
    groups = {"groups": GROUPS} if kind == "grouped" else {}
    return list(SPLITTERS[kind](folds).split(X, Y, **groups))


@pytest.mark.parametrize("kind", SPLITTERS)
@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_in_file_order_are_scikit_learns(kind, folds):
    for fold, (train, val) in enumerate(scikit_learns(kind, folds)):
        ours = parts(split=kind, split_seed=None, fold=fold, folds=folds)
        assert ours[0].tolist() == train.tolist() and ours[1].tolist() == val.tolist()


@pytest.mark.parametrize("kind", SPLITTERS)
def test_shuffled_folds_are_a_partition_with_scikit_learns_counts(kind):
    theirs = [np.bincount(Y[val], minlength=3) for _, val in scikit_learns(kind, 5)]
    folds = [parts(split=kind, split_seed=3, fold=fold, folds=5) for fold in range(5)]
    for (train, val), counts in zip(folds, theirs, strict=True):
        assert len(val) == counts.sum() and sorted([*train.tolist(), *val.tolist()]) == list(range(ROWS))
        if kind == "stratified":
            assert Y[val].bincount(minlength=3).tolist() == counts.tolist()
        if kind == "grouped":
            assert not set(GROUPS[train].tolist()) & set(GROUPS[val].tolist())
    assert sorted(torch.cat([val for _, val in folds]).tolist()) == list(range(ROWS))
    if kind != "grouped":  # which are dealt out by size
        other = parts(split=kind, split_seed=4, fold=0, folds=5)[1]
        assert sorted(other.tolist()) != sorted(folds[0][1].tolist())


@pytest.mark.parametrize("count", [3, 20, 21, 40])
def test_stratified_split_has_scikit_learns_counts(count):
    theirs = train_test_split(np.arange(ROWS), test_size=count, stratify=Y, random_state=0)
    ours = parts(split="stratified", val_fraction=count)
    assert [Y[part].bincount(minlength=3).tolist() for part in ours] == [
        np.bincount(Y[part], minlength=3).tolist() for part in theirs
    ]


@pytest.mark.parametrize("kind", SPLITTERS)
def test_test_rows_are_the_same_for_every_fold(kind):
    found = [parts(split=kind, test_fraction=0.2, fold=fold, folds=4) for fold in range(4)]
    assert len({tuple(test.tolist()) for _, _, test in found}) == 1
    for train, val, test in found:
        assert sorted(torch.cat([train, val, test]).tolist()) == list(range(ROWS))


def test_grouped_split_keeps_groups_whole_and_comes_near_the_share():
    for seed in (None, *range(10)):
        train, val, test = parts(split="grouped", split_seed=seed, val_fraction=0.2, test_fraction=0.1)
        groups = [set(GROUPS[part].tolist()) for part in (train, val, test)]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert abs(len(val) - 21) <= 6 and abs(len(test) - 10) <= 6


def test_weights_stay_beside_their_rows():
    data = split(TensorData(Weighted(X, 2 * X, 3 * X.ravel())), val_fraction=0.3, test_fraction=5)
    for part in data[:3]:
        assert isinstance(part, Weighted)
        assert torch.equal(part.target, 2 * part.inputs) and torch.equal(part.weights, 3 * part.inputs.ravel())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("data.split=grouped", "needs a group for each row"),
        ("data.split=sorted", "one of random, stratified, grouped"),
        ("data.fold=0", "needs the number of folds: data.folds=5"),
        ("data.folds=3", "-m data.fold=0,1,2"),
        ("data.fold=5 data.folds=5", "below data.folds=5, got 5"),
        ("data.fold=0 data.folds=151", "at most 150, the number of rows"),
        ("data.fold=0 data.folds=51 data.split=stratified", "50 rows of the largest class"),
        ("data.split=stratified data.val_fraction=2", "can't hold each of 3 classes"),
        ("data=diabetes data.split=stratified loss=mse", "two rows of each class"),
        ("data=sine data.split=stratified loss=mse", "the target is continuous"),
    ],
)
def test_splits_that_cannot_be_are_refused(here, words, line):
    with pytest.raises(ValueError) as refusal:
        gdexp.launch(["data=iris", "loss=cross_entropy", *words.split()])
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (here / "mlflow.db").exists()


def test_a_class_that_no_training_row_has_is_told(stocked, capsys):
    words = ["data=iris", "loss=cross_entropy", "trainer.epochs=1", "data.split_seed=null"]
    gdexp.launch([*words, "data.val_fraction=50"])  # the rows are sorted by class
    line = "Data: the training rows hold 2 of 3 classes; the validation rows hold 1 of 3 classes\n"
    assert line in capsys.readouterr().out
    gdexp.launch([*words, "data.val_fraction=50", "data.split=stratified"])
    assert "Data:" not in capsys.readouterr().out


def test_groups_of_ones_own_data_keep_together(stocked):
    (stocked / "my_data.py").write_text(
        "import torch\nfrom gdexp.data import TensorData\n\n\ndef load(whole=True):\n"
        "    x = torch.arange(20.0)[:, None]\n    groups = torch.arange(20) // 5\n"
        "    return TensorData((x, x), groups=groups if whole else groups.double())\n"
    )
    words = [
        "data=custom",
        "data._target_=my_data.load",
        "data.split=grouped",
        "trainer.epochs=1",
        "optimizer.lr=1e-30",
    ]
    run = gdexp.launch([*words, "data.folds=4", "data.fold=1", "data.split_seed=null"]).iloc[0]
    with torch.no_grad():
        outputs = gdexp.load(run.run_id)(X[:20])
    errors = ((outputs - X[:20]) ** 2).ravel().reshape(4, 5).mean(1)
    _, val = list(GroupKFold(4).split(X[:20], groups=np.arange(20) // 5))[1]
    assert run.val_loss == pytest.approx(errors[val[0] // 5].item(), rel=1e-6)
    with pytest.raises(ValueError, match="TensorData.groups must be a tensor of whole numbers"):
        gdexp.launch([*words, "+data.whole=false", "data.val_fraction=0.2"])


def test_folds_are_an_axis_of_a_sweep(stocked):
    words = ["data=iris", "loss=cross_entropy", "trainer.epochs=1", "data.folds=5", "data.split=stratified"]
    table = gdexp.launch([*words, "data.fold=0,1,2,3,4"], multirun=True)
    assert sorted(table["data.fold"]) == [0, 1, 2, 3, 4] and table.val_loss.nunique() == 5
    x, y = bundled.iris().train
    for _, run in table.iterrows():
        val = split(TensorData((x, y)), split="stratified", fold=run["data.fold"], folds=5).val
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(gdexp.load(run.run_id)(val[0].float()), val[1])
        assert run.val_loss == pytest.approx(loss.item(), rel=1e-6)
