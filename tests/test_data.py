"""Data against scikit-learn, pandas and the words of its own keys."""

import numpy as np
import pytest
import sklearn.datasets
import sklearn.preprocessing
import torch

import gdexp
from gdexp.data import TensorData, bundled, synthetic
from gdexp.data.split import split, standardize
from gdexp.data.table import table


@pytest.mark.parametrize("name", ["diabetes", "digits", "breast_cancer", "iris", "wine"])
def test_bundled_data_are_scikit_learns(name):
    theirs, ours = getattr(sklearn.datasets, f"load_{name}")(), getattr(bundled, name)()
    x, y = ours.train
    np.testing.assert_allclose(x.numpy(), theirs.data, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(y.numpy().ravel(), theirs.target)
    assert x.dtype == torch.float64 and len(bundled.NAMES[name]) == x.shape[1]
    if name == "diabetes":
        assert y.shape == (442, 1) and ours.classes is None
    else:
        assert y.dtype == torch.int64 and ours.classes == len(theirs.target_names)
    first, last = bundled.NAMES[name][0], bundled.NAMES[name][-1]
    two = getattr(bundled, name)([last, first]).train[0]
    assert torch.equal(two, x[:, [-1, 0]])


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_bundled_names_are_scikit_learns_in_order(name):
    theirs = getattr(sklearn.datasets, f"load_{name}")().feature_names
    assert [str(n).replace(" ", "_").replace("/", "_") for n in theirs] == bundled.NAMES[name]


def test_split_without_shuffling_takes_the_last_rows():
    x = torch.arange(10.0)[:, None]
    data = split(TensorData((x, 2 * x)), val_fraction=0.2, test_fraction=3, split_seed=None)
    assert [s[0].ravel().tolist() for s in (data.train, data.val, data.test)] == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]


def test_split_by_seed_is_a_partition_that_the_run_seed_does_not_touch():
    x = torch.arange(100.0)[:, None]
    parts = [split(TensorData((x, x)), val_fraction=0.25, test_fraction=10, split_seed=s) for s in (0, 0, 1)]
    rows = [torch.cat([p[0] for p in (d.train, d.val, d.test)]).ravel() for d in parts]
    assert [len(p[0]) for p in (parts[0].train, parts[0].val, parts[0].test)] == [65, 25, 10]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0].sort().values, x.ravel())


def test_standardize_is_scikit_learns_scaler_on_the_training_rows():
    whole = bundled.wine().train
    data = split(TensorData(whole, classes=3), val_fraction=0.3, test_fraction=0, split_seed=0)
    scaler = sklearn.preprocessing.StandardScaler().fit(data.train[0].numpy())
    scaled = standardize(data, "both")
    np.testing.assert_allclose(scaled.val[0].numpy(), scaler.transform(data.val[0].numpy()), atol=1e-12)
    assert torch.equal(scaled.val[1], data.val[1])  # classes stay
    both = standardize(bundled.diabetes(), "both").train[1]
    assert both.mean().item() == pytest.approx(0, abs=1e-12) and both.std(correction=0).item() == pytest.approx(1)


def test_synthetic_data_depend_on_their_seed_and_hold_their_formula():
    x, y = synthetic.linear_regression(rows=500, features=3, noise=0, seed=4).train
    design = torch.cat([x, torch.ones(500, 1, dtype=x.dtype)], 1)
    torch.testing.assert_close(design @ torch.linalg.lstsq(design, y).solution, y, rtol=0, atol=1e-12)
    assert torch.equal(synthetic.linear_regression(seed=4).train[0], synthetic.linear_regression(seed=4).train[0])
    data = synthetic.classification(rows=31, features=2, classes=4, seed=1)
    assert sorted(data.train[1].bincount().tolist()) == [7, 8, 8, 8] and data.classes == 4


CSV = "a,b,kind,y\n1,2,red,1.5\n3,4,blue,2.5\n5,6,red,3.5\n"


def test_table_reads_numbers_and_one_hot_text(here):
    (here / "t.csv").write_text(CSV)
    dropped = table("t.csv", "y", text="drop").train
    assert dropped[0].tolist() == [[1, 2], [3, 4], [5, 6]] and dropped[1].tolist() == [[1.5], [2.5], [3.5]]
    hot = table("t.csv", "y", text="one_hot").train[0]
    assert hot.tolist() == [[1, 2, 0, 1], [3, 4, 1, 0], [5, 6, 0, 1]]
    kinds = table("t.csv", "kind", features=["b"])
    assert kinds.train[1].tolist() == [1, 0, 1] and kinds.classes == 2


def test_table_reads_parquet(here):
    import pandas as pd

    pd.read_csv(__import__("io").StringIO(CSV)).to_parquet(here / "t.parquet")
    assert table("t.parquet", "y", text="drop").train[0].shape == (3, 2)


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        (CSV, "data.target=y", "text"),
        (CSV, "data.target=z", "no column 'z'"),
        (CSV, "data.target=y data.features=[aa]", "did you mean `a`?"),
        (CSV, "data.target=y data.features=[y]", "`data.features`"),
        ("a,y\n1,2\n,3\n", "data.target=y", "row 2"),
        ("", "data.target=y", "empty"),
        ("a,y\n", "data.target=y", "no rows"),
        ("y\n1\n2\n", "data.target=y", "no column is left"),
        ("a,y\n1,inf\n2,1\n", "data.target=y", "infinite"),
        ("a,a,y\n1,1,1\n", "data.target=a.1", "continuous"),
        ("\x00\x01PK", "data.target=y", "`data."),
    ],
)
def test_table_refuses_in_one_line(here, text, words, line):
    (here / "t.csv").write_text(text)
    loss = "loss=cross_entropy" if line == "continuous" else "loss=mse"
    if line == "continuous":
        (here / "t.csv").write_text("a,y\n1,1.5\n2,2.5\n")
        words = "data.target=y"
    with pytest.raises(ValueError) as refusal:
        gdexp.launch(["data=table", "data.path=t.csv", "data.val_fraction=0", loss, *words.split()])
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (here / "mlflow.db").exists()


def test_table_of_whole_numbers_serves_both_losses(stocked):
    (stocked / "t.csv").write_text("a,y\n" + "".join(f"{i},{i % 3}\n" for i in range(30)))
    words = ["data=table", "data.path=t.csv", "data.target=y", "trainer.epochs=2", "optimizer.lr=0.001"]
    for loss in ("mse", "cross_entropy"):
        [run] = gdexp.launch([*words, f"loss={loss}"]).to_dict("records")
        assert run["status"] == "FINISHED" and run["model.out_features"] == (1 if loss == "mse" else 3)
        assert ("val_accuracy" in run) == (loss == "cross_entropy")


def test_scikit_learn_is_not_imported_to_read_its_files(here):
    import subprocess
    import sys

    code = "import sys; from gdexp.data.bundled import digits; digits(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_shapes_are_scikit_learns(name):
    kwargs = {"factor": 0.3} if name == "circles" else {}
    theirs_x, theirs_y = getattr(sklearn.datasets, f"make_{name}")(101, shuffle=False, noise=None, **kwargs)
    x, y = getattr(synthetic, name)(101, noise=0, **kwargs).train
    np.testing.assert_allclose(x.numpy(), theirs_x, atol=1e-12)
    np.testing.assert_array_equal(y.numpy(), theirs_y)


def test_spirals_sine_and_xor_hold_their_formulas():
    x, y = synthetic.spirals(90, classes=3, turns=0.5, noise=0).train
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    expected = 2 * torch.pi * (0.5 * radius + y / 3)
    there = radius > 0
    assert torch.allclose(((angle - expected + torch.pi) % (2 * torch.pi))[there], torch.tensor(torch.pi).double())
    x, y = synthetic.sine(50).train
    assert torch.equal(y, x.sin()) and x[0].item() == -torch.pi and x[-1].item() == torch.pi
    x, y = synthetic.xor(40, noise=0).train
    assert torch.equal(y, (x[:, 0] != x[:, 1]).long()) and y.double().mean() == 0.5


@pytest.mark.parametrize("name", ["moons", "circles", "spirals", "sine", "xor"])
def test_noise_has_its_deviation_and_its_seed(name):
    make = getattr(synthetic, name)
    which = 1 if name == "sine" else 0
    clean, noisy = make(rows=4000, noise=0).train[which], make(rows=4000, noise=0.25, seed=1).train[which]
    assert (noisy - clean).std().item() == pytest.approx(0.25, rel=0.03)
    assert torch.equal(noisy, make(rows=4000, noise=0.25, seed=1).train[which])
    assert not torch.equal(noisy, make(rows=4000, noise=0.25, seed=2).train[which])


def test_images_stay_in_single_precision():
    from gdexp.data.split import standardize as scaled

    x = torch.rand(50, 1, 4, 4)
    out = scaled(TensorData((x, torch.zeros(50).long())), "inputs").train[0]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (x - x.mean(0)) / x.std(0, correction=0))
