"""What an epoch takes of the training rows, and when the validation rows are measured."""

import re

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

import gdexp
from gdexp.data.bundled import iris

SMALL = ["data=iris", "data.val_fraction=0", "model=logistic", "optimizer.lr=0.1", "seed=3", "trainer.epochs=3"]
DATASET = """
from torch.utils.data import DataLoader, TensorDataset
from gdexp.data.bundled import iris

def rows():
    return TensorDataset(*iris().train)

def loader():
    return DataLoader(rows(), batch_size=40)
"""


def only(table):
    [run] = table.to_dict("records")
    return run


def curve(folder, run_id, name):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return {m.step: m.value for m in client.get_metric_history(run_id, name)}


def whole_batches():
    """Return the weights of a plain script that leaves out the last 30 of 150 rows, in batches of 40."""
    x, y = iris().train
    torch.manual_seed(3)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in (1, 2, 3):
        order = torch.randperm(150, generator=torch.Generator().manual_seed(1_000_003 * 3 + epoch))
        for index in order[:120].split(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[index].float()), y[index]).backward()
            optimizer.step()
    return model.weight


@pytest.mark.parametrize("data", ["data=iris", "data=custom data._target_=mine.rows model.out_features=3"])
def test_drop_last_leaves_out_the_smaller_batch(stocked, data):
    (stocked / "mine.py").write_text(DATASET)
    run = only(gdexp.launch([*SMALL, *data.split(), "trainer.batch_size=40", "trainer.drop_last=true"]))
    assert torch.equal(gdexp.load(run["run_id"]).linear.weight, whole_batches())


def test_drop_last_in_a_stack(stocked):
    words = [*SMALL, "trainer.batch_size=40", "trainer.drop_last=true", "sweep.chunk=2"]
    table = gdexp.launch([*words, "optimizer.lr=0.1,0.2"], multirun=True)
    run_id = table[table["optimizer.lr"] == 0.1].run_id.iloc[0]
    assert MlflowClient(f"sqlite:///{stocked}/mlflow.db").get_run(run_id).data.tags["gdexp.trained_as"][:5] == "stack"
    torch.testing.assert_close(gdexp.load(run_id).linear.weight, whole_batches(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("trainer.batch_size=200", "`trainer.drop_last`: 150 rows are less than one batch"),
        ("data=custom data._target_=mine.loader model.out_features=3", "`trainer.drop_last` must be false"),
    ],
)
def test_drop_last_refuses_what_it_can_not_do(here, words, line):
    (here / "mine.py").write_text(DATASET)
    with pytest.raises(ValueError, match=line):
        gdexp.launch([*SMALL, "trainer.drop_last=true", *words.split()])
    assert not (here / "mlflow.db").exists()


def test_validation_rows_are_measured_every_so_many_epochs_and_at_the_end(stocked):
    words = ["data=iris", "model=logistic", "optimizer.lr=0.5", "trainer.epochs=8", "trainer.ema=0.5"]
    each, some = (only(gdexp.launch([*words, f"trainer.validate_every={n}"])) for n in (1, 3))
    for name in ("val_loss", "val_accuracy", "val_loss_ema"):
        all_of_them = curve(stocked, each["run_id"], name)
        assert curve(stocked, some["run_id"], name) == {epoch: all_of_them[epoch] for epoch in (3, 6, 8)}
    assert curve(stocked, each["run_id"], "train_loss") == curve(stocked, some["run_id"], "train_loss")


def test_patience_is_counted_in_epochs_where_not_each_is_validated(stocked):
    words = ["data=iris", "model=logistic", "optimizer.lr=0.05", "trainer.min_delta=10", "trainer.epochs=100"]
    run = only(gdexp.launch([*words, "trainer.validate_every=4", "trainer.patience=6"]))
    assert list(curve(stocked, run["run_id"], "val_loss")) == [4, 8, 12] and run["outcome"] == "stopped"


def test_a_run_that_is_stopped_is_validated_in_its_last_epoch(stocked):
    words = ["data=iris", "model=logistic", "optimizer.lr=0.05", "trainer.monitor=train_loss", "trainer.target=0.9"]
    each, some = (only(gdexp.launch([*words, f"trainer.validate_every={n}"])) for n in (1, 1000))
    last = len(curve(stocked, each["run_id"], "train_loss"))
    assert 1 < last < 100 and each["val_loss"] == some["val_loss"]
    assert list(curve(stocked, some["run_id"], "val_loss")) == [last]


def test_a_plateau_is_seen_in_the_epochs_that_are_validated(stocked):
    words = ["data=iris", "model=logistic", "scheduler=reduce_on_plateau", "scheduler.patience=0"]
    words += ["scheduler.threshold=10", "scheduler.threshold_mode=abs", "trainer.epochs=9", "optimizer.lr=1.0"]
    run = only(gdexp.launch([*words, "trainer.validate_every=3"]))
    rates = curve(stocked, run["run_id"], "lr")
    assert [rates[e] for e in range(1, 10)] == pytest.approx([1.0] * 6 + [0.1] * 3)


def test_the_best_of_a_sweep_is_among_what_was_validated(stocked, capsys):
    words = ["data=iris", "model=logistic", "trainer.epochs=5", "trainer.validate_every=2", "sweep.objective_at=best"]
    gdexp.launch([*words, "optimizer.lr=0.1,1.5"], multirun=True)
    lines = re.findall(r"^lr=\S+ +val_loss (\S+) +([0-9a-f]{32})$", capsys.readouterr().out, re.MULTILINE)
    assert len(lines) == 2
    for value, run_id in lines:
        assert float(value) == pytest.approx(min(curve(stocked, run_id, "val_loss").values()), rel=1e-5)
