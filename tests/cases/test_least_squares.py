"""scikit-learn's example "Ordinary Least Squares": 938.24, 2548.07, 0.47."""

import pytest
import torch

import gdexp
from gdexp.data.bundled import diabetes


@pytest.mark.slow
def test_least_squares_reaches_the_published_numbers(stocked):
    words = "data=diabetes data.features=[bmi] data.split_seed=null data.test_fraction=20 data.val_fraction=0"
    table = gdexp.launch(
        [*words.split(), "trainer.dtype=float64", "trainer.epochs=20000", "trainer.log_every=20000"]
        + ["optimizer.lr=0.3", "optimizer.momentum=0.95"]
    )
    [run] = table.to_dict("records")
    model = gdexp.load(run["run_id"])
    assert model.linear.weight.item() == pytest.approx(938.23786125, abs=1e-6)
    assert model.linear.bias.item() == pytest.approx(152.91886183, abs=1e-6)
    assert run["test_loss"] == pytest.approx(2548.07239873, abs=1e-6)
    x, y = (t[-20:] for t in diabetes(["bmi"]).train)
    with torch.no_grad():
        r2 = 1 - ((model(x) - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert r2.item() == pytest.approx(0.47257545, abs=1e-8)
