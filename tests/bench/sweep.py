"""What a sweep costs, whole processes side by side: prints ratios, asserts nothing.

python tests/bench/sweep.py [--rounds 3] [tutorial digits many grid]

Against a plain script whose every run is an MLflow run (one log_batch, one file), swept by Hydra's
basic launcher, by its joblib launcher with 2 workers, and by a loop in one process. These take so
long that they sweep 32 values only; what they take for more is in proportion.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, tempfile, time, torch
from pathlib import Path
from torch import nn
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

def train(lr, digits):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if digits:
        import numpy
        from importlib.util import find_spec
        file = Path(find_spec("sklearn").origin).parent / "datasets/data/digits.csv.gz"
        table = numpy.loadtxt(file, delimiter=",")
        x, y = torch.from_numpy(table[:, :-1]).float(), torch.from_numpy(table[:, -1]).long()
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        loss_function, size, epochs = nn.CrossEntropyLoss(), 64, 20
    else:
        x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        y, model, loss_function, size, epochs = 2 * x, nn.Linear(1, 1), nn.MSELoss(), 4, 100
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x)).split(size):
            loss = loss_function(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        losses.append(total / len(x))
    client, now = MlflowClient(), int(time.time() * 1000)
    run = client.create_run("0").info.run_id
    metrics = [Metric("train_loss", min(max(v, -1e30), 1e30), now, i) for i, v in enumerate(losses)]
    client.log_batch(run, metrics, [Param("lr", str(lr))])
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), folder + "/weights.pt")
        client.log_artifact(run, folder + "/weights.pt")
    client.set_terminated(run)
"""
LOOP = "\nfor i in range(32):\n    train(10 ** (-4 + i * 3 / 31), DIGITS)\n"
APP = """
import hydra
from hydra.core.config_store import ConfigStore
ConfigStore.instance().store("config", {"lr": 0.01})
@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config):
    train(config.lr, DIGITS)
if __name__ == "__main__":
    MlflowClient().get_experiment("0")  # two workers that make the store at once break it
    main()
"""
RATES = ",".join(f"{10 ** (-4 + i * 3 / 31):.6g}" for i in range(32))
DIGITS = "data=digits data.val_fraction=0 model=mlp loss=cross_entropy trainer.batch_size=64 trainer.epochs=20"


def wall(*words: str) -> tuple[float, float]:
    """Return the seconds and the peak MiB of a Python process in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, **quiet)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, words
        return time.perf_counter() - began, usage.ru_maxrss / 1024


def ours(count: int, *words: str) -> list[str]:
    return ["-m", "gdexp.run", "-m", f"optimizer.lr=logspace(1e-4,0.1,{count})", *words]


def compare(ways: dict[str, list[str]], rounds: int, base: str) -> None:
    """Print the median wall of each way, in turn, against one of them."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, words in ways.items():
            found[name].append(wall(*words))
    medians = {name: statistics.median(w for w, _ in walls) for name, walls in found.items()}
    for name, walls in found.items():
        peak = statistics.median(p for _, p in walls)
        print(f"{name:40} {medians[name]:7.2f} s  {medians[name] / medians[base]:6.3f} × {base}, {peak:4.0f} MiB")


def against_others(problem: str, rounds: int) -> None:
    digits, words = problem == "digits", DIGITS.split() if problem == "digits" else []
    with tempfile.TemporaryDirectory() as folder:
        app, loop = Path(folder) / "app.py", Path(folder) / "loop.py"
        app.write_text((SCRIPT + APP).replace("DIGITS", str(digits)))
        loop.write_text((SCRIPT + LOOP).replace("DIGITS", str(digits)))
        joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        ways = {
            "Hydra's basic launcher, 32": [str(app), "-m", f"lr={RATES}"],
            "Hydra's joblib launcher, 32": [str(app), "-m", f"lr={RATES}", *joblib],
            "a loop with MLflow, 32": [str(loop)],
            "gdexp, 32": ours(32, *words),
            "gdexp, 32, one after another": ours(32, *words, "sweep.stack=never"),
        }
        compare(ways, rounds, "Hydra's basic launcher, 32")


def many(rounds: int) -> None:
    """Growth with the number of runs."""
    ways = {'python -c "import torch"': ["-c", "import torch"]}
    ways |= {f"gdexp, tutorial, {n}": ours(n) for n in (32, 100, 256, 1000, 10_000)}
    ways |= {f"gdexp, digits MLP, {n}": ours(n, *DIGITS.split()) for n in (8, 32, 64)}
    compare(ways, rounds, 'python -c "import torch"')


def grid(rounds: int) -> None:
    """Jobs composed and checked."""
    code = (
        "import sys, time, gdexp.sweep\nfrom gdexp.config.compose import compose\n"
        "gdexp.sweep.check_all(compose([]))\n"  # imports
        "began = time.perf_counter()\n"
        "gdexp.sweep.check_all(compose([f'optimizer.lr=logspace(1e-4,1,{sys.argv[1]})'], True))\n"
        "print(time.perf_counter() - began)\n"
    )
    for count in (100, 1000, 10_000):
        command = [sys.executable, "-c", code, str(count)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        runs = [subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(rounds)]
        print(f"{count} jobs composed and checked: {statistics.median(float(r.stdout) for r in runs):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("what", nargs="*", default=["grid", "many", "tutorial", "digits"])
    words = parser.parse_args()
    for name in words.what:
        if name in ("tutorial", "digits"):
            against_others(name, words.rounds)
        else:
            {"many": many, "grid": grid}[name](words.rounds)


if __name__ == "__main__":
    main()
