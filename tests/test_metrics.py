"""Metrics against scikit-learn's, on outputs with ties and classes that don't occur."""

import numpy as np
import pytest
import sklearn.metrics
import torch

import gdexp
from gdexp import metrics


def scores(rows, classes, seed):
    g = torch.Generator().manual_seed(seed)
    output = torch.randn(rows, classes, generator=g).mul(2).round() / 2  # with ties
    return output, torch.randint(0, classes, (rows,), generator=g)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification(seed, classes):
    output, y = scores(60, classes, seed)
    predicted, true = output.argmax(1).numpy(), y.numpy()
    average = "binary" if classes == 2 else "macro"
    assert metrics.accuracy(output, y).item() == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    assert metrics.f1(output, y).item() == pytest.approx(sklearn.metrics.f1_score(true, predicted, average=average))
    shares = output.double().softmax(1).numpy()
    theirs = sklearn.metrics.roc_auc_score(true, shares[:, 1] if classes == 2 else shares, multi_class="ovr")
    assert metrics.auroc(output, y).item() == pytest.approx(theirs)
    distinct = output + 1e-3 * torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    for k in range(1, classes):
        ours = metrics.top_k(distinct, y, k).item()
        assert ours == pytest.approx(
            np.mean([t in np.argsort(-r)[:k] for r, t in zip(distinct.numpy(), true, strict=True)])
        )


def test_f1_of_classes_that_do_not_occur_is_scikit_learns():
    output, y = torch.eye(5)[[0, 1, 1, 3, 3, 0]], torch.tensor([0, 1, 2, 3, 2, 1])
    assert metrics.f1(output, y).item() == pytest.approx(
        sklearn.metrics.f1_score(y.numpy(), output.argmax(1).numpy(), average="macro", zero_division=0)
    )


@pytest.mark.parametrize("seed", range(3))
def test_one_logit_for_two_classes(seed):
    output, y = scores(50, 2, seed)
    logit = output[:, :1]
    true, predicted = y.numpy(), (logit[:, 0] > 0).numpy()
    for target in (y[:, None].float(), 2 * y[:, None].float() - 1):
        assert metrics.accuracy(logit, target).item() == pytest.approx((true == predicted).mean())
        assert metrics.f1(logit, target).item() == pytest.approx(sklearn.metrics.f1_score(true, predicted))
        assert metrics.auroc(logit, target).item() == pytest.approx(sklearn.metrics.roc_auc_score(true, logit[:, 0]))


@pytest.mark.parametrize("columns", [1, 3])
def test_regression(columns):
    g = torch.Generator().manual_seed(0)
    output, y = torch.randn(40, columns, generator=g), torch.randn(40, columns, generator=g)
    a, b = y.numpy(), output.numpy()
    assert metrics.r2(output, y).item() == pytest.approx(sklearn.metrics.r2_score(a, b))
    assert metrics.mae(output, y).item() == pytest.approx(sklearn.metrics.mean_absolute_error(a, b))
    assert metrics.rmse(output, y).item() == pytest.approx(sklearn.metrics.root_mean_squared_error(a, b))


def test_metrics_of_a_run_are_those_of_its_model(stocked):
    (stocked / "my_metrics.py").write_text("def spread(output, target):\n    return output.max() - output.min()\n")
    words = (
        "data=digits data.val_fraction=0.3 data.test_fraction=0.2 model=logistic optimizer=adam trainer.batch_size=100"
    )
    [run] = gdexp.launch([*words.split(), "trainer.epochs=5", "metrics=[f1,auroc,top_3,my_metrics.spread]"]).to_dict(
        "records"
    )
    from gdexp.data import bundled
    from gdexp.data.split import split

    data = split(bundled.digits(), val_fraction=0.3, test_fraction=0.2, split_seed=0)
    for name, (x, y) in (("val", data.val), ("test", data.test)):
        output = gdexp.load(run["run_id"])(x.float()).detach()
        predicted, shares = output.argmax(1).numpy(), output.double().softmax(1).numpy()
        assert run[f"{name}_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, predicted))
        assert run[f"{name}_f1"] == pytest.approx(sklearn.metrics.f1_score(y, predicted, average="macro"))
        assert run[f"{name}_auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, shares, multi_class="ovr"))
        assert run[f"{name}_top_3"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(y, output.numpy(), k=3))
        assert run[f"{name}_spread"] == pytest.approx((output.max() - output.min()).item())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("data=diabetes metrics=[f1]", "f1 needs classes"),
        ("data=iris model=logistic metrics=[r2]", "r2 needs a continuous target"),
        ("data=iris model=logistic metrics=[top_4]", "top_4 needs at least 4 classes"),
        ("data=iris model=logistic metrics=[acuracy]", "did you mean `accuracy`"),
        ("data=line metrics=[r2]", "validation or test rows"),
        ("data=diabetes metrics=f1", "`metrics` must be a list"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(here, words, line):
    with pytest.raises(ValueError, match=line):
        gdexp.launch([*words.split(), "tracking=none"])
