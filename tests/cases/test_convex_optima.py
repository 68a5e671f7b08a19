"""Convex problems on bundled data: every optimizer that should reach the optimum does."""

import numpy as np
import pytest
import sklearn.datasets
import sklearn.linear_model
import sklearn.preprocessing

import gdexp

# least squares on all ten features: Efron, Hastie, Johnstone and Tibshirani 2004 (lars), as scikit-learn's
# load_diabetes gives the data: R² 0.5177, mean squared error 2859.70
ROUTES = {
    "sgd": ["optimizer.lr=0.2", "trainer.epochs=8000"],
    "momentum": ["optimizer.lr=0.2", "trainer.epochs=3000"],
    "nesterov": ["optimizer.lr=0.1", "optimizer.momentum=0.98", "trainer.epochs=1500"],
    "adam": ["optimizer.lr=1", "scheduler=cosine", "trainer.epochs=5000"],
    "amsgrad": ["optimizer.lr=1", "trainer.epochs=8000"],
    "rprop": ["optimizer.lr=1", "trainer.epochs=3000"],
    "lbfgs": ["optimizer.line_search_fn=strong_wolfe", "trainer.epochs=20"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTES)
def test_least_squares_on_all_features_of_the_diabetes_data(stocked, name):
    words = ["data=diabetes", "data.val_fraction=0", "data.standardize=inputs", "trainer.dtype=float64"]
    [run] = gdexp.launch([*words, f"optimizer={name}", *ROUTES[name], "trainer.log_every=100000"]).to_dict("records")
    assert run["train_loss"] == pytest.approx(2859.69634759, rel=1e-8)
    x, y = sklearn.datasets.load_diabetes(return_X_y=True)
    fit = sklearn.linear_model.LinearRegression().fit(sklearn.preprocessing.scale(x), y)
    model = gdexp.load(run["run_id"]).linear
    np.testing.assert_allclose(model.weight.detach().numpy()[0], fit.coef_, rtol=0, atol=0.05)
    assert model.bias.item() == pytest.approx(fit.intercept_)


PENALISED = {
    "sgd": ["optimizer.lr=0.5", "trainer.epochs=3000"],
    "momentum": ["optimizer.lr=0.3", "trainer.epochs=500"],
    "nesterov": ["optimizer.lr=0.3", "trainer.epochs=500"],
    "adam": ["optimizer.lr=0.05", "scheduler=cosine", "trainer.epochs=2000"],
    "adagrad": ["optimizer.lr=0.5", "trainer.epochs=4000"],
    "lbfgs": ["optimizer.line_search_fn=strong_wolfe", "trainer.epochs=10"],
}


@pytest.mark.parametrize("name", PENALISED)
def test_penalised_logistic_regression_on_wine_is_scikit_learns(stocked, name):
    """C·Σ loss + ½|w|² over n rows is mean loss + ½·weight_decay·|w|², with weight_decay = 1/(C·n), none on biases."""
    x, y = sklearn.datasets.load_wine(return_X_y=True)
    x = sklearn.preprocessing.scale(x)
    fit = sklearn.linear_model.LogisticRegression(C=0.1, tol=1e-12, max_iter=10_000).fit(x, y)
    decay = 1 / (0.1 * len(y))
    words = ["data=wine", "data.val_fraction=0", "data.standardize=inputs", "model=logistic", "trainer.dtype=float64"]
    if name == "lbfgs":  # has neither groups nor weight decay: the unpenalised optimum of separable data is 0
        [run] = gdexp.launch([*words, "optimizer=lbfgs", *PENALISED[name]]).to_dict("records")
        assert run["train_loss"] < 1e-6
        return
    groups = [f"optimizer.weight_decay={decay!r}", "optimizer.param_groups={bias: {weight_decay: 0}}"]
    [run] = gdexp.launch([*words, f"optimizer={name}", *PENALISED[name], *groups]).to_dict("records")
    assert run["optimizer.param_groups.bias.weight_decay"] == 0
    model = gdexp.load(run["run_id"]).linear
    np.testing.assert_allclose(model.weight.detach().numpy(), fit.coef_, rtol=0, atol=1e-5)
    bias = model.bias.detach().numpy()
    np.testing.assert_allclose(bias - bias.mean(), fit.intercept_ - fit.intercept_.mean(), rtol=0, atol=1e-5)
