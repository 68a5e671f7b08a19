"""A diverged run is a recorded outcome, the same whether it trained alone or among others."""

import pytest
import torch
from recorded import query

import gdexp

SIGMOID = """
import torch
from torch import nn

class Sigmoid(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
    def forward(self, x):
        return self.linear(x).sigmoid()

def rows():
    from gdexp.data import TensorData
    x = torch.linspace(-3, 3, 40)[:, None]
    return TensorData((x, (x > 0).float()))
"""
OF_SIGMOID = ["data=custom", "data._target_=sigmoid.rows", "model=custom", "model._target_=sigmoid.Sigmoid"]


def record_of(run_id):
    """Return the values of every metric in order, and the tags that say how the run ended."""
    curves: dict[str, list[float]] = {}
    for key, value in query("SELECT key, value FROM metrics WHERE run_uuid=? ORDER BY key, step", run_id):
        curves.setdefault(key, []).append(value)
    tags = dict(query("SELECT key, value FROM tags WHERE run_uuid=?", run_id))
    kept = ("gdexp.outcome", "gdexp.diverged_at", "gdexp.best_epoch")
    return curves, {k: tags.get(k) for k in kept}


def test_loss_that_raises_on_nan_is_divergence_at_that_epoch(stocked):
    (stocked / "sigmoid.py").write_text(SIGMOID)
    momentum = ["optimizer=momentum", "optimizer.momentum=0.9", "optimizer.lr=3e38"]
    [run] = gdexp.launch([*OF_SIGMOID, *momentum, "loss=bce", "trainer.epochs=30"]).to_dict("records")

    torch.manual_seed(0)
    linear = torch.nn.Linear(1, 1)
    x = torch.linspace(-3, 3, 40)[:, None]
    optimizer = torch.optim.SGD(linear.parameters(), lr=3e38, momentum=0.9)
    sound = 0  # epochs that the plain loop gets through
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        while sound < 30:
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy(linear(x).sigmoid(), (x > 0).float()).backward()
            optimizer.step()
            sound += 1
    curves, ended = record_of(run["run_id"])
    assert run["status"] == "FINISHED" and ended["gdexp.outcome"] == "diverged"
    assert int(ended["gdexp.diverged_at"]) == sound + 1
    assert len(curves["train_loss"]) == sound


def test_validation_that_raises_on_nan_is_divergence_too(stocked):
    (stocked / "sigmoid.py").write_text(SIGMOID)
    words = [*OF_SIGMOID, "data.val_fraction=0.25", "loss=bce", "trainer.epochs=3"]
    words += ["optimizer=momentum", "optimizer.lr=3e38", "trainer.batch_size=1"]
    [run] = gdexp.launch(words).to_dict("records")
    curves, ended = record_of(run["run_id"])
    assert (run["status"], ended["gdexp.diverged_at"]) == ("FINISHED", "1")
    assert "val_loss" not in curves


def test_error_of_a_sound_run_stays_an_error(stocked):
    (stocked / "own.py").write_text("import torch\ndef failing(output, target):\n    raise RuntimeError('of my own')\n")
    with pytest.raises(RuntimeError, match="of my own"):
        gdexp.launch(["loss=custom", "loss._target_=own.failing"])
    assert set(gdexp.runs().status) == {"FAILED"}


WATCHED = [
    ["data.val_fraction=0.25"],
    ["data.val_fraction=0.25", "trainer.patience=3"],
    ["data.val_fraction=0.25", "trainer.monitor=val_loss"],
    ["data.val_fraction=0.25", "trainer.ema=0.9", "trainer.monitor=val_loss_ema"],
    ["data.val_fraction=0.25", "trainer.divergence_factor=10", "trainer.record=[weight_norm]"],
]


@pytest.mark.parametrize("words", WATCHED)
def test_diverged_run_of_a_stack_has_the_record_of_the_run_alone(stocked, words):
    base = ["data=diabetes", "data.standardize=both", "loss=mse", "trainer.batch_size=100"]
    base += ["trainer.epochs=40", *words]
    rates = ["0.001", "0.01", "0.3", "0.7", "3", "40"]
    sweep = ["sweep.chunk=64", f"optimizer.lr={','.join(rates)}"]
    table = gdexp.launch([*base, *sweep], multirun=True)
    assert "diverged" in set(table.outcome) and len(set(table.outcome)) > 1
    for rate in rates:
        [own] = table[table["optimizer.lr"] == float(rate)].to_dict("records")
        [alone] = gdexp.launch([*base, f"optimizer.lr={rate}"]).to_dict("records")
        curves, ended = record_of(own["run_id"])
        curves_alone, ended_alone = record_of(alone["run_id"])
        assert ended == ended_alone
        assert {k: len(v) for k, v in curves.items()} == {k: len(v) for k, v in curves_alone.items()}
