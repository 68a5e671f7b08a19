"""One run against what it replaces, side by side: prints ratios, asserts nothing.

python tests/bench/one_run.py [--rounds 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gdexp import tracking
from gdexp.data import TensorData
from gdexp.data.bundled import digits
from gdexp.learner import OneRun
from gdexp.train import train

SCRIPT = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
y, model, loss_function = 2 * x, nn.Linear(1, 1), nn.MSELoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(100):
    loss = loss_function(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (epoch + 1) % 10 == 0:
        print(f"Epoch [{epoch + 1}/100], Loss: {loss.item():.4f}")
"""
COMMANDS = {
    "bare script, no record": ["-c", SCRIPT],
    'python -c "import torch"': ["-c", "import torch"],
    "gdexp.run, store there": ["-m", "gdexp.run"],
    "gdexp.run tracking=none": ["-m", "gdexp.run", "tracking=none"],
}


def start_up(rounds: int) -> None:
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        where = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}}
        subprocess.run([sys.executable, "-m", "gdexp.run"], **where, capture_output=True, check=True)  # makes the store
        for _ in range(rounds):
            for name, words in COMMANDS.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *words], **where, capture_output=True, check=True)
                walls[name].append(time.perf_counter() - began)
    bare = statistics.median(walls["bare script, no record"])
    for name, values in walls.items():
        wall = statistics.median(values)
        print(f"{name:28} {wall:6.2f} s  {wall / bare:5.2f} × bare script")


def bare_loop(model, loss_function, optimizer, x, y, epochs: int, batch_size: int) -> None:
    for _ in range(epochs):
        if batch_size >= len(x):
            loss = loss_function(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            continue
        total = torch.zeros(())
        for index in torch.randperm(len(x)).split(batch_size):
            loss = loss_function(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        (total / len(x)).item()


def tracked_loop(model, loss_function, optimizer, x, y, epochs: int, batch_size: int) -> None:
    learner = OneRun(model, loss_function, optimizer)
    config = {"writer": "client", "uri": None, "experiment": None}
    record = tracking.start(config, study=None, name="bench", params={}, tags={}, config_yaml="")
    with record:
        began = time.perf_counter()
        for epoch in train(learner, TensorData((x, y)), epochs=epochs, batch_size=batch_size):
            record.add(epoch.epoch, epoch.metrics)
        tracked_loop.wall = time.perf_counter() - began
        record.finish("completed", model.state_dict())


def per_epoch(name: str, make: Callable[[], nn.Module], loss, x, y, epochs: int, batch_size: int, rounds: int) -> None:
    walls: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        for which in walls:
            torch.manual_seed(0)
            model = make()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            began = time.perf_counter()
            if which == "bare":
                bare_loop(model, loss, optimizer, x, y, epochs, batch_size)
                walls[which].append(time.perf_counter() - began)
            else:
                tracked_loop(model, loss, optimizer, x, y, epochs, batch_size)
                walls[which].append(tracked_loop.wall)
    bare, ours = (statistics.median(v) / epochs for v in walls.values())
    print(f"{name:28} bare {bare * 1e6:9.0f} µs, ours {ours * 1e6:9.0f} µs an epoch: {ours / bare:.2f} ×")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    start_up(rounds)
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    pixels, labels = digits().train
    big, classes = torch.randn(60_000, 784), torch.randint(0, 10, (60_000,))
    cores = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.set_num_threads(1)
        per_epoch("tutorial", lambda: nn.Linear(1, 1), nn.MSELoss(), x, 2 * x, 3000, 4, rounds)
        small = lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))  # noqa: E731
        per_epoch("digits MLP", small, nn.CrossEntropyLoss(), pixels.float(), labels, 20, 64, rounds)
        torch.set_num_threads(cores)
        wide = lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))  # noqa: E731
        per_epoch("60,000 × 784 MLP", wide, nn.CrossEntropyLoss(), big, classes, 1, 128, rounds)
        os.chdir("/")


if __name__ == "__main__":
    main()
