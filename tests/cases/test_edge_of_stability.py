"""Polyak 1964: heavy ball with momentum m is stable up to lr = 2(1 + m)/λ; λ = (17 + √269)/2 for the tutorial."""

import math

import pytest

import gdexp

BOUND = 2 / ((17 + math.sqrt(269)) / 2)


@pytest.mark.parametrize(("momentum", "diverged_at"), [(0, 468), (0.5, 151), (0.9, 51)])
def test_edge_of_stability_lies_where_the_closed_form_says(stocked, momentum, diverged_at):
    common = [f"optimizer.momentum={momentum}", "trainer.epochs=5000", "trainer.log_every=5000"]
    below = gdexp.launch([f"optimizer.lr={0.99 * (1 + momentum) * BOUND}", *common])
    above = gdexp.launch([f"optimizer.lr={1.01 * (1 + momentum) * BOUND}", *common])
    assert below.outcome[0] == "completed" and below.train_loss[0] < 1e-6
    assert above.outcome[0] == "diverged" and above.status[0] == "FINISHED"
    from mlflow.tracking import MlflowClient

    tags = MlflowClient(f"sqlite:///{stocked}/mlflow.db").get_run(above.run_id[0]).data.tags
    assert tags["gdexp.diverged_at"] == str(diverged_at)
