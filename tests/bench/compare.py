"""What reading and comparing many runs costs, beside MLflow's own search on the same store.

    python tests/bench/compare.py [--runs 10000] [--rounds 3]

Each figure is a process of its own, in turn; medians of wall time.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAYS = {
    "gdexp.runs()": ["-c", "import gdexp; assert len(gdexp.runs()) == RUNS"],
    "gdexp.runs(curves=True)": ["-c", "import gdexp; assert len(gdexp.runs(curves=True)) > 10 * RUNS"],
    "python -m gdexp.compare": ["-m", "gdexp.compare"],
    "mlflow.search_runs": [
        "-c",
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        " assert len(mlflow.search_runs(search_all_experiments=True, max_results=2 * RUNS)) >= RUNS",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryDirectory() as folder:
        sweep = ["-m", f"optimizer.lr=logspace(1e-4,1,{words.runs // 10})", "seed=range(10)"]
        quiet = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "check": True}
        subprocess.run([sys.executable, "-m", "gdexp.run", *sweep], **quiet)
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(words.rounds):
            for name, way in WAYS.items():
                began = time.perf_counter()
                command = [word.replace("RUNS", str(words.runs)) for word in way]
                subprocess.run([sys.executable, *command], **quiet)
                found[name].append(time.perf_counter() - began)
    own = statistics.median(found["mlflow.search_runs"])
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{name:26} {middle:6.2f} s  1/{own / middle:.1f} of mlflow.search_runs")
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
