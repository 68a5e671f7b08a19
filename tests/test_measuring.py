"""What a run measures against scikit-learn's value of its own model's output, read as the loss means it."""

import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch

import gdexp
from gdexp import metrics

PARTS = """
import torch
from torch.utils.data import DataLoader
from gdexp.data import TensorData


def rows(kind):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(120, 4, generator=g)
    score = x @ torch.randn(4, 3, generator=g)
    y = {"classes": score.argmax(1), "two": (score[:, 0] > 0).long(), "labels": (score > 0.5).double(),
         "signs": score.sign(), "numbers": score, "counts": torch.poisson(score.clamp(max=3).exp(), generator=g),
         "constant": torch.full((120, 1), 0.1), "soft": score.softmax(1), "positive": score.exp()}[kind]
    return TensorData((x[:80], y[:80]), (x[80:], y[80:]))


def pixels():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(40, 3, 5, 5, generator=g)
    y = x.argmax(1)
    y[:, 0] = 255
    return TensorData((x[:20], y[:20]), (x[20:], y[20:]))


def ragged():
    g = torch.Generator().manual_seed(5)
    def batches(seed):
        for steps in (3, 5, 4):
            x = torch.randn(6, 3, steps, generator=g)
            yield x, x.argmax(1)
    return DataLoader(list(batches(0)), batch_size=None), DataLoader(list(batches(1)), batch_size=None)


def ragged_numbers():
    first, second = ragged()
    return (DataLoader([(x, x.sum(1, keepdim=True)) for x, _ in part.dataset], batch_size=None) for part in
            (first, second))


def tuple_of(*parts):
    return tuple(parts)


def sequences():
    return tuple(ragged_numbers())


class Conv(torch.nn.Conv1d):
    def __init__(self, out_features=3):
        super().__init__(3, out_features, 1)


class Pixels(torch.nn.Conv2d):
    def __init__(self, out_features):
        super().__init__(3, out_features, 1)


def spread(output, target):
    return output.max() - output.min()
"""


@pytest.fixture
def parts(stocked):
    (stocked / "parts.py").write_text(PARTS)
    return stocked


def measured(here, kind, *words):
    """Train a few epochs; return the run, and what its model makes of the validation rows, with their target."""
    base = ["data=custom", "data._target_=parts.rows", f"+data.kind={kind}", "trainer.epochs=4", "optimizer=adam"]
    [run] = gdexp.launch([*base, *words, "optimizer.lr=0.05"]).to_dict("records")
    space: dict = {}
    exec((here / "parts.py").read_text(), space)
    x, y = space["rows"](kind).val
    with torch.no_grad():
        return run, gdexp.load(run["run_id"])(x.float()).double().numpy(), y.numpy()


ALL = "metrics=[f1,f1_micro,f1_macro,precision,recall,precision_micro,recall_macro,auroc,auroc_micro]"


@pytest.mark.parametrize(("kind", "loss"), [("labels", "bce_with_logits"), ("labels", "multilabel_soft_margin")])
def test_labels_are_measured_on_their_matrix(parts, kind, loss):
    run, output, y = measured(parts, kind, f"loss={loss}", ALL)
    there = output > 0
    for name in ("f1", "precision", "recall"):
        theirs = getattr(sklearn.metrics, f"{name}_score")
        assert run[f"val_{name}"] == pytest.approx(theirs(y, there, average="macro"))
        for average in ("micro", "macro"):
            if f"val_{name}_{average}" in run:
                assert run[f"val_{name}_{average}"] == pytest.approx(theirs(y, there, average=average))
    assert run["val_auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, output, average="macro"))
    assert run["val_auroc_micro"] == pytest.approx(sklearn.metrics.roc_auc_score(y, output, average="micro"))
    assert run["val_accuracy"] == pytest.approx((there == y).mean())


@pytest.mark.parametrize("loss", ["bce", "soft_margin", "bce_with_logits"])
def test_one_label_is_two_classes(parts, loss):
    words = [f"loss={loss}", "metrics=[f1,auroc,log_loss,balanced_accuracy,precision]", "model.out_features=1"]
    if loss == "bce":
        words.append("model.output_activation=sigmoid")
    run, output, y = measured(parts, "two", *words)
    p = output.ravel() if loss == "bce" else 1 / (1 + np.exp(-output.ravel()))
    assert run["val_accuracy"] == pytest.approx(((p > 0.5) == y).mean())
    assert run["val_f1"] == pytest.approx(sklearn.metrics.f1_score(y, p > 0.5))
    assert run["val_precision"] == pytest.approx(sklearn.metrics.precision_score(y, p > 0.5))
    assert run["val_auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, p))
    assert run["val_log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, p), rel=1e-5)
    assert run["val_balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(y, p > 0.5))


@pytest.mark.parametrize("log_input", ["true", "false"])
def test_counts_are_measured_by_their_rate(parts, log_input):
    words = ["loss=poisson_nll", f"loss.log_input={log_input}", "metrics=[r2,mae,rmse]"]
    if log_input == "false":
        words.append("model.output_activation=softplus")
    run, output, y = measured(parts, "counts", *words)
    rate = np.exp(output) if log_input == "true" else output
    assert run["val_mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(y, rate), rel=1e-5)
    assert run["val_r2"] == pytest.approx(sklearn.metrics.r2_score(y, rate), rel=1e-4)


def test_numbers_with_a_variance_are_measured_by_their_mean(parts):
    run, output, y = measured(parts, "numbers", "loss=gaussian_nll", "metrics=[mae,r2]")
    assert run["val_mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(y, output[:, :3]), rel=1e-5)
    assert run["val_r2"] == pytest.approx(sklearn.metrics.r2_score(y, output[:, :3]), rel=1e-4)


def test_r2_of_a_constant_target_is_scikit_learns(parts):
    run, output, y = measured(parts, "constant", "loss=mse", "metrics=[r2]")
    assert run["val_r2"] == sklearn.metrics.r2_score(y[:1].repeat(40, 0).round(1), output) == 0.0


def test_probabilities_of_classes_are_measured_by_the_likeliest(parts):
    run, output, y = measured(parts, "soft", "loss=cross_entropy", "metrics=[f1]")
    assert run["val_accuracy"] == pytest.approx((output.argmax(1) == y.argmax(1)).mean())
    assert run["val_f1"] == pytest.approx(sklearn.metrics.f1_score(y.argmax(1), output.argmax(1), average="macro"))


def test_pixels_are_rows_and_ignored_ones_are_none(parts):
    words = ["data=custom", "data._target_=parts.pixels", "model=custom", "model._target_=parts.Pixels"]
    words += ["loss=cross_entropy", "loss.ignore_index=255", "metrics=[f1,log_loss,top_2]", "trainer.epochs=3"]
    [whole] = gdexp.launch(words).to_dict("records")
    space: dict = {}
    exec((parts / "parts.py").read_text(), space)
    x, y = space["pixels"]().val
    with torch.no_grad():
        output = gdexp.load(whole["run_id"])(x).movedim(1, -1)[:, 1:].reshape(-1, 3)
    y = y[:, 1:].flatten()
    assert whole["val_accuracy"] == pytest.approx((output.argmax(1) == y).double().mean().item())
    assert whole["val_f1"] == pytest.approx(sklearn.metrics.f1_score(y, output.argmax(1), average="macro"))
    shares = output.double().softmax(1).numpy()
    assert whole["val_log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, shares), rel=1e-6)
    assert whole["val_top_2"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(y, shares, k=2))


def test_batches_of_other_shapes_are_measured_together(parts):
    base = ["data=custom", "model=custom", "model._target_=parts.Conv", "trainer.epochs=2"]
    words = ["data._target_=parts.ragged", "loss=cross_entropy", "metrics=[f1]", "+model.out_features=3"]
    [run] = gdexp.launch([*base, *words]).to_dict("records")
    space: dict = {}
    exec((parts / "parts.py").read_text(), space)
    batches = list(space["ragged"]()[1].dataset)
    model = gdexp.load(run["run_id"])
    with torch.no_grad():
        output = torch.cat([model(x).movedim(1, -1).reshape(-1, 3) for x, _ in batches])
    y = torch.cat([y.flatten() for _, y in batches])
    assert run["val_accuracy"] == pytest.approx((output.argmax(1) == y).double().mean().item())
    assert run["val_f1"] == pytest.approx(sklearn.metrics.f1_score(y, output.argmax(1), average="macro"))
    assert run["val_loss"] == pytest.approx(torch.nn.functional.cross_entropy(output, y).item(), rel=1e-6)
    words = ["data._target_=parts.sequences", "loss=mse", "metrics=[mae]", "+model.out_features=1"]
    [run] = gdexp.launch([*base, *words]).to_dict("records")
    model = gdexp.load(run["run_id"])
    with torch.no_grad():
        errors = torch.cat([(model(x) - x.sum(1, keepdim=True)).flatten() for x, _ in batches])
    assert run["val_mae"] == pytest.approx(errors.abs().mean().item(), rel=1e-6)


def test_training_rows_are_measured_on_request(parts):
    words = ["data=iris", "model=logistic", "metrics=[train_accuracy,train_f1,f1]", "trainer.epochs=5"]
    runs = [gdexp.launch([*words, "trainer.batch_size=30", *more]) for more in ([], ["metrics=[]"])]
    [run], [bare] = (table.to_dict("records") for table in runs)
    assert run["train_loss"] == bare["train_loss"] and "train_accuracy" not in bare
    from gdexp.data import bundled
    from gdexp.data.split import split

    plan = {"val_fraction": 0.2, "test_fraction": 0, "split_seed": 0}
    x, y = split(bundled.iris(), **plan).train
    with torch.no_grad():
        predicted = gdexp.load(run["run_id"])(x.float()).argmax(1)
    assert run["train_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, predicted))
    assert run["train_f1"] == pytest.approx(sklearn.metrics.f1_score(y, predicted, average="macro"))
    monitor = ["trainer.monitor=train_accuracy", "trainer.validate_every=2", "data.val_fraction=0"]
    [run] = gdexp.launch([*words[:2], "metrics=[train_accuracy]", *monitor, "trainer.epochs=5"]).to_dict("records")
    assert "train_accuracy" in run and "val_loss" not in run


def test_a_sweep_measures_training_rows_alike(parts, capsys):
    words = [
        "data=iris",
        "model=logistic",
        "metrics=[train_accuracy]",
        "trainer.epochs=3",
        "trainer.batch_size=30",
        "tracking=none",
    ]
    axes = ["optimizer.lr=0.001,0.01,0.1,1", "seed=0,1"]
    one, other = (gdexp.launch([*words, *axes, f"sweep.stack={how}"], multirun=True) for how in ("never", "auto"))
    assert "8 of them as one program" in capsys.readouterr().out
    one, other = (table.sort_values(["optimizer.lr", "seed"]) for table in (one, other))
    assert one.train_accuracy.tolist() == other.train_accuracy.tolist()


SKLEARN = {
    "classes": "f1_score,matthews_corrcoef,roc_auc_score,log_loss,balanced_accuracy_score,cohen_kappa_score",
    "two": "f1_score,roc_auc_score,average_precision_score,brier_score_loss,jaccard_score",
    "labels": "f1_score,roc_auc_score,accuracy_score,hamming_loss,label_ranking_loss",
    "positive": "r2_score,mean_absolute_percentage_error,explained_variance_score,mean_squared_error",
}


@pytest.mark.parametrize("kind", SKLEARN)
def test_functions_of_scikit_learn(parts, kind):
    names = SKLEARN[kind].split(",")
    loss = {"classes": "cross_entropy", "two": "bce_with_logits", "labels": "bce_with_logits", "positive": "mse"}[kind]
    words = [f"metrics=[{','.join(f'sklearn.metrics.{name}' for name in names)}]"]
    run, output, y = measured(parts, kind, f"loss={loss}", *words, *(["model.out_features=1"] if kind == "two" else []))
    if kind == "classes":
        scores, predicted = torch.from_numpy(output).softmax(1).numpy(), output.argmax(1)
    else:
        scores = 1 / (1 + np.exp(-output)) if kind != "positive" else output
        predicted = output > 0 if kind != "positive" else output
    if kind == "two":
        scores, predicted = scores.ravel(), predicted.ravel()
    further = {"f1_score": {"average": "macro"}} if kind in ("classes", "labels") else {}
    if kind == "classes":
        further["roc_auc_score"] = {"multi_class": "ovr"}
    ofscores = ("roc_auc", "log_loss", "average_precision", "brier", "label_ranking")
    for name in names:
        given = scores if name.startswith(ofscores) else predicted
        theirs = getattr(sklearn.metrics, name)(y, given, **further.get(name, {}))
        assert run[f"val_{name}"] == pytest.approx(theirs, rel=1e-4), name


def test_a_function_of_scikit_learn_is_rerun_from_its_record(parts):
    words = ["data=iris", "model=logistic", "metrics=[sklearn.metrics.matthews_corrcoef]", "trainer.epochs=2"]
    [run] = gdexp.launch(words).to_dict("records")
    from gdexp.config.trust import check_trusted

    check_trusted({"metrics": ["sklearn.metrics.matthews_corrcoef"]})
    for name in ("sklearn.utils.os.system", "sklearn.metrics._ranking.np.save"):
        with pytest.raises(ValueError, match="GDEXP_ALLOW"):
            check_trusted({"metrics": [name]})
    assert "val_matthews_corrcoef" in run


TORCHMETRICS = """
import torch


def multiclass_accuracy(preds, target, num_classes):
    assert preds.shape == (len(target), num_classes) and abs(preds.sum(1) - 1).max() < 1e-6
    return (preds.argmax(1) == target).float().mean()


multiclass_accuracy.__module__ = "torchmetrics.functional.classification.accuracy"


class Accuracy:
    higher_is_better = True

    def __new__(cls, task, num_classes=None, num_labels=None):
        self = object.__new__(cls)
        self.right, self.task, self.num_classes = [], task, num_classes
        return self

    def update(self, preds, target):
        assert self.task == "multiclass" and self.num_classes == 3
        self.right.append(preds.argmax(1) == target)

    def compute(self):
        return torch.cat(self.right).float().mean()


Accuracy.__module__ = "torchmetrics.classification.accuracy"


class MeanSquaredError(Accuracy):
    pass


MeanSquaredError.__module__ = "torchmetrics.regression.mse"
"""


@pytest.fixture
def torchmetrics(parts, monkeypatch):
    """A module of that name with the same calls; the true one is no dependency."""
    import sys

    (parts / "torchmetrics.py").write_text(TORCHMETRICS)
    yield
    sys.modules.pop("torchmetrics", None)


def test_functions_and_classes_of_torchmetrics(torchmetrics, parts):
    names = "metrics=[torchmetrics.multiclass_accuracy,torchmetrics.Accuracy]"
    run, output, y = measured(parts, "classes", "loss=cross_entropy", names)
    assert run["val_multiclass_accuracy"] == pytest.approx(run["val_accuracy"]) == pytest.approx(run["val_Accuracy"])
    with pytest.raises(ValueError, match="MeanSquaredError needs a continuous target"):
        measured(parts, "classes", "loss=cross_entropy", "metrics=[torchmetrics.MeanSquaredError]")


@pytest.mark.parametrize(
    ("kind", "loss", "name", "line"),
    [
        ("classes", "hinge", "log_loss", "log_loss needs probabilities"),
        ("classes", "hinge", "sklearn.metrics.log_loss", "log_loss needs probabilities"),
        ("classes", "cross_entropy", "sklearn.metrics.mean_squared_error", "continuous target"),
        ("classes", "cross_entropy", "sklearn.metrics.confusion_matrix", "no single number"),
        ("classes", "cross_entropy", "sklearn.metrics.silhouette_score", "no metric of predictions"),
        ("numbers", "mse", "sklearn.metrics.f1_score", "needs classes"),
        ("numbers", "mse", "f1", "f1 needs classes"),
        ("labels", "bce_with_logits", "balanced_accuracy", "needs classes"),
        ("labels", "bce_with_logits", "log_loss", "needs probabilities"),
        ("labels", "bce_with_logits", "top_2", "needs classes"),
        ("signs", "hinge_embedding", "f1", "f1 needs to know"),
        ("signs", "hinge_embedding", "accuracy", "accuracy needs to know"),
        ("classes", "cross_entropy", "train_top_4", "at least 4 classes"),
        ("classes", "cross_entropy", "train_acuracy", "no metric"),
    ],
)
def test_metrics_that_do_not_measure_what_the_loss_means_are_refused(parts, kind, loss, name, line):
    with pytest.raises(ValueError, match=line) as refusal:
        measured(parts, kind, f"loss={loss}", f"metrics=[{name}]")
    assert "\n" not in str(refusal.value) and "`metrics" in str(refusal.value)


def drawn(seed):
    """Return scores with ties, of a few rows at times, and classes of which some don't occur."""
    draw = np.random.default_rng(seed)
    count, rows = int(draw.integers(2, 8)), int(draw.integers(2, 60))
    occur = draw.choice(count, int(draw.integers(1, count + 1)), replace=False)
    output = torch.from_numpy(draw.normal(size=(rows, count)).round(int(draw.integers(0, 3)))).float()
    return output, torch.from_numpy(draw.choice(occur, rows)), count


def theirs(name, output, y, count):
    """Return scikit-learn's value, of all classes whether they occur or not."""
    predicted, shares = output.argmax(1).numpy(), output.double().softmax(1).numpy()
    score, y, every = getattr(sklearn.metrics, f"{name}_score", None), y.numpy(), list(range(count))
    if name in ("f1", "precision", "recall"):
        return score(y, predicted, average="binary" if count == 2 else "macro", zero_division=0)
    if name == "auroc" and count == 2:
        return sklearn.metrics.roc_auc_score(y, shares[:, 1]) if len(set(y)) == 2 else np.nan
    if name == "auroc":
        areas = [sklearn.metrics.roc_auc_score(y == c, shares[:, c]) for c in every]
        return np.mean(areas)
    if name == "log_loss":
        return sklearn.metrics.log_loss(y, shares, labels=every)
    if name == "top_2":
        return sklearn.metrics.top_k_accuracy_score(y, output.numpy(), k=2, labels=every) if count > 2 else 1.0
    return score(y, predicted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["accuracy", "balanced_accuracy", "f1", "precision", "recall", "auroc", "log_loss", "top_2"]
)
def test_classes_on_random_cases(name):
    for seed in range(200):
        output, y, count = drawn(seed)
        ours = metrics.known(name).function(output, y).item()
        with warnings.catch_warnings(action="ignore"):
            assert ours == pytest.approx(theirs(name, output, y, count), nan_ok=True, rel=1e-9, abs=1e-12), seed


@pytest.mark.slow
@pytest.mark.parametrize("average", [None, "micro", "macro"])
@pytest.mark.parametrize("name", ["f1", "precision", "recall", "auroc"])
def test_labels_on_random_cases(name, average):
    for seed in range(200):
        draw = np.random.default_rng(seed)
        rows, count = int(draw.integers(2, 50)), int(draw.integers(2, 6))
        output = torch.from_numpy(draw.normal(size=(rows, count)).round(1))
        y = torch.from_numpy((draw.random((rows, count)) < draw.random(count)).astype(int))
        ours = metrics.known(f"{name}_{average}" if average else name).function(output, y).item()
        with warnings.catch_warnings(action="ignore"):
            if name == "auroc":
                wanted = sklearn.metrics.roc_auc_score(y.numpy(), output.numpy(), average=average or "macro")
            else:
                score = getattr(sklearn.metrics, f"{name}_score")
                wanted = score(y.numpy(), output.numpy() > 0, average=average or "macro", zero_division=0)
        assert ours == pytest.approx(wanted, nan_ok=True), seed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r2", "mae", "rmse"])
def test_numbers_on_random_cases(name):
    score = {"r2": "r2_score", "mae": "mean_absolute_error", "rmse": "root_mean_squared_error"}[name]
    for seed in range(200):
        draw = np.random.default_rng(seed)
        shape = int(draw.integers(2, 50)), int(draw.integers(1, 4))
        y = draw.normal(size=shape).round(1)
        if seed % 3 == 0:
            y[:, 0] = 2.0
        output = y.copy() if seed % 7 == 0 else draw.normal(size=shape)
        ours = metrics.known(name).function(torch.from_numpy(output), torch.from_numpy(y)).item()
        assert ours == pytest.approx(getattr(sklearn.metrics, score)(y, output), abs=1e-12), seed
