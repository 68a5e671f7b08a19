"""What a checkpoint every epoch costs, side by side with none: prints ratios, asserts nothing.

python tests/bench/checkpoint.py [--rounds 9]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
MLP = ["data=digits", "data.val_fraction=0", "model=mlp", "loss=cross_entropy", "trainer.batch_size=64"]
WAYS = {
    "no checkpoints": ["trainer.checkpoint_minutes=null"],
    "the default: after a minute": [],
    "every epoch": ["trainer.checkpoint_every=1"],
}


def main() -> None:
    import gdexp
    from gdexp.run import prepare_process

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    prepare_process()
    walls: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        gdexp.launch(["trainer.epochs=1"])
        for _ in range(rounds):
            for optimizer in ("sgd", "adam"):
                for name, words in WAYS.items():
                    began = time.perf_counter()
                    gdexp.launch(
                        [*MLP, f"optimizer={optimizer}", "trainer.epochs=100", "trainer.log_every=1000", *words]
                    )
                    walls.setdefault((optimizer, name), []).append(time.perf_counter() - began)
        sys.stdout = sys.__stdout__
    for (optimizer, name), found in walls.items():
        epoch, base = statistics.median(found), statistics.median(walls[optimizer, "no checkpoints"])
        print(f"{optimizer:5} {name:28} {10 * epoch:6.2f} ms an epoch, {epoch / base:.2f} ×")


if __name__ == "__main__":
    main()
