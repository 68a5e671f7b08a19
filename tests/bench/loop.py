"""The training loop against what it replaces, side by side: prints ratios, asserts nothing.

python tests/bench/loop.py [--rounds 5]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdexp import tracking
from gdexp.data import TensorData
from gdexp.data.bundled import digits
from gdexp.learner import OneRun
from gdexp.models import CNN, MLP
from gdexp.step import Step
from gdexp.train import train


def slices(x, y, batch_size: int):
    """Yield batches of tensors in memory, as a careful script does."""
    if batch_size >= len(x):
        yield x, y
        return
    for index in torch.randperm(len(x)).split(batch_size):
        yield x[index], y[index]


def loader(x, y, batch_size: int):
    """Yield batches of a DataLoader, as most scripts do."""
    yield from DataLoader(TensorDataset(x, y), batch_size, shuffle=batch_size < len(x))


def bare_loop(batches, model, loss_function, optimizer, x, y, epochs: int, batch_size: int) -> float:
    began = time.perf_counter()
    for _ in range(epochs):
        total = torch.zeros(())
        for inputs, target in batches(x, y, batch_size):
            loss = loss_function(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(inputs)
        (total / len(x)).item()
    return time.perf_counter() - began


def tracked_loop(model, loss_function, optimizer, x, y, epochs: int, batch_size: int) -> float:
    learner = OneRun(model, loss_function, Step(optimizer))
    config = {"writer": "auto", "uri": None, "experiment": None}
    with tracking.start(config, [tracking.Description("bench", {}, {}, {})]) as record:
        began = time.perf_counter()
        for epoch in train(learner, TensorData((x, y)), epochs=epochs, batch_size=batch_size):
            record.add(epoch.epoch, epoch.metrics)
        wall = time.perf_counter() - began
        record.finish("completed", {"weights": learner.weights()})
    return wall


def per_epoch(name: str, make: Callable[[], nn.Module], loss, x, y, epochs: int, batch_size: int, rounds: int) -> None:
    ways = {"ours": tracked_loop, "slices": partial(bare_loop, slices), "DataLoader": partial(bare_loop, loader)}
    walls: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, loop in ways.items():
            torch.manual_seed(0)
            model = make()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            walls[way].append(loop(model, loss, optimizer, x, y, epochs, batch_size))
    rates = {way: epochs * len(x) / statistics.median(values) for way, values in walls.items()}
    against = ", ".join(f"{rates['ours'] / rate:.2f} × {way}" for way, rate in rates.items() if way != "ours")
    print(f"{name:28} {rates['ours']:12.0f} rows/s: {against}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    pixels, labels = digits().train
    big, classes = torch.randn(60_000, 784), torch.randint(0, 10, (60_000,))
    cores = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.set_num_threads(1)
        per_epoch("tutorial", lambda: nn.Linear(1, 1), nn.MSELoss(), x, 2 * x, 3000, 4, rounds)
        small = partial(MLP, 64, 10, [128])
        per_epoch("digits MLP", small, nn.CrossEntropyLoss(), pixels.float(), labels, 20, 64, rounds)
        per_epoch("digits CNN", partial(CNN, [64], 10), nn.CrossEntropyLoss(), pixels.float(), labels, 3, 64, rounds)
        torch.set_num_threads(cores)
        wide = partial(MLP, 784, 10, [128])
        per_epoch("60,000 × 784 MLP", wide, nn.CrossEntropyLoss(), big, classes, 1, 128, rounds)
        os.chdir("/")


if __name__ == "__main__":
    main()
