"""The tutorial this project starts from, against ten lines of plain PyTorch."""

import torch
from mlflow.tracking import MlflowClient
from torch import nn

import gdexp


def plain_loop() -> tuple[list[float], nn.Linear]:
    torch.manual_seed(0)
    x, y = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([[2.0], [4.0], [6.0], [8.0]])
    model, loss_function = nn.Linear(1, 1), nn.MSELoss()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.01), []
    for _ in range(100):
        loss = loss_function(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def test_tutorial_has_every_bit_of_the_plain_loop(gdexp_run, stocked):
    done = gdexp_run()
    losses, model = plain_loop()
    assert done.returncode == 0 and done.stderr == ""
    lines = [f"Epoch [{e}/100], Loss: {losses[e - 1]:.4f}" for e in range(10, 101, 10)]
    assert done.stdout.splitlines()[:10] == lines
    assert sorted(p.name for p in stocked.iterdir()) == ["mlflow.db", "mlruns"]
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    experiment = client.get_experiment_by_name("gdexp")
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == list(enumerate(losses, start=1))
    loaded = gdexp.load(run.info.run_id)
    assert torch.equal(loaded.linear.weight, model.weight) and torch.equal(loaded.linear.bias, model.bias)
    assert run.info.status == "FINISHED" and run.info.run_name == "linear-line-sgd"
    assert run.data.tags["gdexp.outcome"] == "completed" and run.data.params["optimizer.lr"] == "0.01"
