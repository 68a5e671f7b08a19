"""The named studies give what their files state."""

import pytest

import gdexp

BOUND = 0.119756106628655  # 2 / the largest eigenvalue of the tutorial's Hessian


def test_lr_sweep(stocked):
    table = gdexp.launch(["experiments=lr_sweep"]).sort_values("optimizer.lr")
    small, large = table[table["optimizer.lr"] <= 0.1], table[table["optimizer.lr"] > BOUND]
    assert (len(table), len(small), len(large)) == (25, 19, 6)
    assert list(small.train_loss) == sorted(small.train_loss, reverse=True) and set(small.outcome) == {"completed"}
    assert all((large.outcome == "diverged") | (large.train_loss > 60))


@pytest.mark.slow
def test_edge_of_stability(stocked):
    table = gdexp.launch(["experiments=edge_of_stability"])
    assert len(table) == 18
    for run in table.to_dict("records"):
        stable = run["optimizer.lr"] < (1 + run["optimizer.momentum"]) * BOUND
        assert run["outcome"] == ("completed" if stable else "diverged")
        assert not stable or run["train_loss"] < 1e-8


@pytest.mark.slow
def test_digits_lr_sweep(stocked):
    table = gdexp.launch(["experiments=digits_lr_sweep"])
    mean = table.groupby("optimizer.lr").val_accuracy.mean()
    diverged = table[table.outcome == "diverged"]["optimizer.lr"]
    assert len(table) == 34 and diverged.min() > 2 and set(diverged) == set(mean.index[mean.index > 3])
    assert mean[(mean.index > 0.05) & (mean.index < 2)].min() > 0.95
    assert mean[mean.index <= 0.01].max() < 0.9


@pytest.mark.slow
def test_optimizers_on_digits(stocked):
    table = gdexp.launch(["experiments=optimizers_on_digits"])
    mean = table.groupby(["optimizer", "optimizer.lr"]).val_accuracy.mean()
    assert len(table) == 75 and set(table.groupby("optimizer")["optimizer.lr"].nunique()) == {5}
    best, worst = mean.groupby("optimizer").max(), mean.groupby("optimizer").min()
    assert best.between(0.96, 0.98).all() and worst.between(0.77, 0.87).all()


@pytest.mark.slow
def test_rosenbrock(stocked):
    table = gdexp.launch(["experiments=rosenbrock"]).set_index("optimizer")
    assert len(table) == 10 and set(table.outcome) == {"completed"}
    assert (table.distance.drop("adadelta") < 0.03).all() and 0.03 < table.distance["adadelta"] < 0.05
