"""What the record costs, side by side with doing without: prints ratios, asserts nothing.

python tests/bench/record.py [--rounds 9] [cold sweep loop]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
TUTORIAL = """
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
DIGITS = """
import numpy, torch
from importlib.util import find_spec
from pathlib import Path
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
table = numpy.loadtxt(Path(find_spec("sklearn").origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
x, y = torch.from_numpy(table[:, :-1]).float(), torch.from_numpy(table[:, -1]).long()
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
loss_function, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(20):
    total = 0.0
    for index in torch.randperm(len(x)).split(64):
        loss = loss_function(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(index)
    print(f"Epoch [{epoch + 1}/20], Loss: {total / len(x):.4f}")
"""
DIGITS_WORDS = "data=digits data.val_fraction=0 model=mlp loss=cross_entropy trainer.batch_size=64 trainer.epochs=20"
COMMANDS = {
    "tutorial, bare script": ["-c", TUTORIAL],
    'python -c "import torch"': ["-c", "import torch"],
    "tutorial, gdexp, fresh folder": ["-m", "gdexp.run"],
    "tutorial, gdexp, tracking=none": ["-m", "gdexp.run", "tracking=none"],
    "digits MLP, bare script": ["-c", DIGITS],
    "digits MLP, gdexp, fresh folder": ["-m", "gdexp.run", *DIGITS_WORDS.split()],
}


def cold(rounds: int) -> None:
    """Whole processes, each in a folder of its own; wall seconds and peak memory."""
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    peaks: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # the first warms the caches
        for name, words in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, *words],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    stdout=subprocess.DEVNULL,
                )
                _, status, usage = os.wait4(process.pid, 0)
                walls[name].append(time.perf_counter() - began)
                peaks[name].append(usage.ru_maxrss / 1024)
                assert status == 0, name
    for name in COMMANDS:
        bare = "digits MLP, bare script" if name.startswith("digits") else "tutorial, bare script"
        wall, base = statistics.median(walls[name][1:]), statistics.median(walls[bare][1:])
        peak = statistics.median(peaks[name][1:])
        print(f"{name:32} {wall:6.2f} s  {wall / base:5.2f} × {bare}, {peak:4.0f} MiB")


def sweep(rounds: int) -> None:
    """1,000 runs of 100 epochs with their params, tags, config and weights, directly and by MLflow's client."""
    import torch
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    from gdexp.config import written
    from gdexp.config.check import check
    from gdexp.config.compose import compose
    from gdexp.tracking import store
    from gdexp.tracking.provenance import Provenance
    from gdexp.tracking.sqlite import Number, Run, Tables
    from gdexp.tracking.weights import save_weights

    [job] = compose([])
    config = check(job.config)
    [(params, text)], tags = written.pages([config], [job.options]), Provenance().tags()
    weights = {"linear.weight": torch.ones(1, 1), "linear.bias": torch.ones(1)}
    print(f"a run has {len(params)} params, {len(tags)} tags, 100 losses, 2 files")

    def directly(db: Path, runs: int) -> None:
        def files(run_id: str) -> None:
            folder = store.artifact_root(db) / "bench" / run_id / "artifacts"
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(text)
            save_weights(folder / "weights.safetensors", weights)

        tables, ids = Tables(db), sorted(uuid4().hex for _ in range(runs))
        with ThreadPoolExecutor(2) as pool, tables.transaction():
            written = pool.map(files, ids)
            experiment, location = tables.experiment("bench", store.artifact_location(db, "bench"))
            for i, run_id in enumerate(ids):
                uri = f"{location}/{run_id}/artifacts"
                tables.add_run(Run(run_id, f"lr={i}", "me", 1, uri, experiment))
                tables.add_tags(run_id, tags)
                tables.add_params(run_id, params)
            for i, run_id in enumerate(ids):
                tables.add_metrics(run_id, [Number("train_loss", 1 / (s + 1), 1000 + i, s) for s in range(100)])
            for run_id in ids:
                tables.end(run_id, "FINISHED", 2)
            list(written)
        tables.close()
        store.fold_in(db)

    def by_client(db: Path, runs: int) -> None:
        client = MlflowClient(f"sqlite:///{db}")
        experiment = client.create_experiment(f"bench {uuid4().hex}", store.artifact_location(db, "bench"))
        files = Path(tempfile.mkdtemp(dir=db.parent))
        (files / "config.yaml").write_text(text)
        save_weights(files / "weights.safetensors", weights)
        for i in range(runs):
            run_id = client.create_run(experiment, tags=tags, run_name=f"lr={i}").info.run_id
            losses = [Metric("train_loss", 1 / (s + 1), 1000 + i, s) for s in range(100)]
            client.log_batch(run_id, losses, [Param(k, v) for k, v in params.items()], [RunTag("a", "b")])
            client.log_artifacts(run_id, str(files))
            client.set_terminated(run_id)

    walls: dict[str, list[float]] = {"directly": [], "by client": []}
    for _ in range(rounds):
        for name, way, runs in (("directly", directly, 1000), ("by client", by_client, 20)):
            with tempfile.TemporaryDirectory() as folder:
                db = Path(folder) / "mlflow.db"
                store.ensure(db)
                if name == "by client":
                    way(db, 1)  # imports and first queries
                began = time.perf_counter()
                way(db, runs)
                walls[name].append(1000 * (time.perf_counter() - began) / runs)
    ours, theirs = (statistics.median(v) for v in walls.values())
    print(
        f"{ours:.2f} ms a run directly, {theirs:.1f} ms by MLflow's client (WAL, one log_batch): 1/{theirs / ours:.0f}"
    )


def loop(rounds: int) -> None:
    """100,000 epochs of the tutorial problem, with the record and without it."""
    code = (
        "import resource, sys, time, gdexp\n"
        "from gdexp.run import prepare_process\n"
        "prepare_process()\n"
        "words = ['trainer.log_every=100000', *sys.argv[1:]]\n"
        "gdexp.launch(['trainer.epochs=10', *words])\n"
        "before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()\n"
        "gdexp.launch(['trainer.epochs=100000', *words])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(time.perf_counter() - began, (after - before) / 1024)\n"
    )
    walls: dict[str, list[float]] = {"none": [], "local": []}
    grown: dict[str, list[float]] = {"none": [], "local": []}
    for _ in range(rounds):
        for tracking in walls:
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [sys.executable, "-c", code, f"tracking={tracking}"],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                wall, memory = map(float, done.stdout.splitlines()[-1].split())
                walls[tracking].append(wall)
                grown[tracking].append(memory)
    none, local = statistics.median(walls["none"]), statistics.median(walls["local"])
    print(f"100,000 epochs: {none:.1f} s without a record, {local:.1f} s with it: {local / none:.2f} ×", end="")
    print(f"; memory grows by {statistics.median(grown['none']):.0f} and {statistics.median(grown['local']):.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("what", nargs="*", default=["cold", "sweep", "loop"])
    words = parser.parse_args()
    for name in words.what:
        {"cold": cold, "sweep": sweep, "loop": loop}[name](words.rounds if name == "cold" else min(words.rounds, 3))


if __name__ == "__main__":
    main()
