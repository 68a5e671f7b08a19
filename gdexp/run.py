"""The command line: Hydra composes, `execute` trains and records.

One value's way: `optimizer.lr=0.01` → Hydra in `main` → `execute` builds the parts → `train` →
`learner.train_step`; each `Epoch` goes to `tracking`.
"""

import gc
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gdexp.config.refusal import Refusal
from gdexp.terminal import divergence_line, epoch_line, report, say

if TYPE_CHECKING:
    import pandas as pd

    from gdexp.build import Parts
    from gdexp.config.compose import Job
    from gdexp.tracking import Record
    from gdexp.train import Epoch

_ONE_AT_A_TIME = threading.RLock()  # torch's random generator is one per process


class Result(NamedTuple):
    """What became of one run."""

    run_id: str | None
    name: str
    status: str
    outcome: str
    params: dict[str, str]
    metrics: dict[str, float]  # the last of each


def execute(jobs: Sequence["Job"]) -> list[Result]:
    """Train and record jobs; one that fails doesn't stop the others.

    Raises:
        Refusal: the job was neither trained nor recorded.
        Exception: the first one of the user's own code, when all jobs are done.
    """
    results: list[Result] = []
    failures: list[Exception] = []
    for job in jobs:
        try:
            results.append(_execute_one(job))
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return results


def launch(overrides: Sequence[str] = (), multirun: bool = False) -> "pd.DataFrame":
    """Do what the command line does, from Python, and leave the host process as it was.

    Calls from several threads run one after another.

    Args:
        overrides: as typed after `python -m gdexp.run`.
        multirun: the flag `-m`.

    Returns:
        one row a run: run_id, name, status, outcome, params, final metrics.

    Raises:
        ValueError: with the line that the command prints.
    """
    from gdexp.config.compose import compose

    with _ONE_AT_A_TIME, _host_as_it_was():
        results = execute(compose(list(overrides), multirun))
    from gdexp.tracking.record import frame, row

    return frame(row(*result) for result in results)


def main() -> None:
    """The command line of `python -m gdexp.run`."""
    gc.disable()  # a collection while importing torch finds nothing to free and takes half a second
    sys.path.append(str(Path.cwd()))
    _on_signals(_interrupt)
    try:
        failures = _run_hydra(sys.argv[1:])
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        print("interrupted", file=sys.stderr)
        sys.exit(128 + number)
    sys.exit(1 if failures else 0)


def _run_hydra(argv: list[str]) -> list[Exception]:
    """Hand the command line to Hydra and return the errors of the jobs that failed."""
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from gdexp.config import compose, sources

    sources.register()
    for path in sources.unused():
        print(f"gdexp: {path} is not used: gdexp has an option of that name", file=sys.stderr)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises, and we print one line
    typed = get_args_parser().parse_known_args(argv)[0].overrides
    failures = _Failures()
    sweeps: dict[str, str] = {}

    def task(config: DictConfig) -> float | None:
        node = HydraConfig.get()
        multirun = node.mode is not None and node.mode.name == "MULTIRUN"
        parsed = compose.parse([f"{k}={v}" for k, v in (node.sweeper.params or {}).items()] + typed)
        varied = compose.sweep_keys(parsed) if multirun else [o.get_key_element() for o in parsed]
        sweep = sweeps.setdefault("id", os.urandom(16).hex()) if multirun else None
        try:
            _prepare_process()
            [result] = execute([compose.job(config, node, varied, sweep)])
            return result.metrics.get("val_loss", result.metrics.get("train_loss"))
        except Exception as error:
            failures.append(error)
            return None

    try:
        compose.parse(typed)
        hydra.main(version_base="1.3", config_path=str(sources.conf_dir()), config_name="config")(task)()
    except Refusal as error:
        failures.append(error)
    except (HydraException, OmegaConfBaseException) as error:
        failures.append(compose.explain(error, typed))
    return failures


def _execute_one(job: "Job") -> Result:
    from gdexp import tracking
    from gdexp.build import build
    from gdexp.config import written
    from gdexp.config.check import check, check_targets
    from gdexp.config.targets import local_modules
    from gdexp.tracking.provenance import Provenance

    provenance = Provenance()
    with local_modules():
        config = check(job.config)
        parts, failure = None, None
        try:
            check_targets(config)
            parts = build(config, job.options)
        except Refusal:
            raise
        except Exception as error:  # the user's own code; the record says so
            failure = error
        config = parts.config if parts else config
        shown = written.without_secrets(config, job.config)
        params = written.as_params(shown, job.options)
        tags = provenance.tags() | {"gdexp.trained_as": "plain"} | ({"gdexp.sweep": job.sweep} if job.sweep else {})
        name = job.name or "-".join(str(job.options.get(g)) for g in ("model", "data", "optimizer"))
        with tracking.start(
            config["tracking"],
            study=job.options.get("experiments"),
            name=name,
            params=params,
            tags=tags,
            config_yaml=written.as_yaml(shown),
        ) as record:
            if failure is not None:
                raise failure
            assert parts is not None
            if job.sweep:
                say(f"\n{name}")
            outcome, metrics = _train_and_record(parts, record)
        say(report(outcome, metrics, parts, record))
    return Result(record.run_id, name, record.status, outcome, params, {k: v[-1] for k, v in metrics.items()})


def _train_and_record(parts: "Parts", record: "Record") -> tuple[str, dict[str, tuple[float, ...]]]:
    """Train; return the outcome and the first and last value of each metric."""
    import torch

    from gdexp.train import evaluate, train

    trainer, learner = parts.config["trainer"], parts.learner
    record.keep(learner.model.state_dict())
    metrics: dict[str, tuple[float, ...]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(parts.threads)
    try:
        epoch: Epoch | None = None
        for epoch in train(
            learner,
            parts.data,
            epochs=trainer["epochs"],
            batch_size=trainer["batch_size"],
            seed=parts.config["seed"],
            divergence_factor=trainer["divergence_factor"],
        ):
            record.add(epoch.epoch, epoch.metrics)
            for hook in parts.hooks:
                hook(epoch, learner.model)
            if epoch.epoch == 1:
                first = epoch.metrics
            if epoch.epoch % trainer["log_every"] == 0:
                say(epoch_line(epoch, trainer["epochs"]))
        assert epoch is not None
        last = dict(epoch.metrics)
        if parts.data.test is not None:
            test = {f"test_{k}": v for k, v in evaluate(learner, parts.data.test, trainer["batch_size"]).items()}
            record.add(epoch.epoch, test)
            last |= test
        metrics = {k: (first.get(k, v), v) for k, v in last.items()}
        outcome = "diverged" if epoch.diverged else "completed"
        tags = {"gdexp.diverged_at": epoch.epoch} if epoch.diverged else {}
        if epoch.diverged:
            say(divergence_line(epoch, parts.config))
        record.finish(outcome, learner.model.state_dict(), tags)
    finally:
        torch.set_num_threads(threads)
    return outcome, metrics


def _prepare_process() -> None:
    """Make this process start quickly; what is imported now lives as long as it does."""
    import torch

    from gdexp import build, tracking  # noqa: F401
    from gdexp.learner import spare_dynamo

    assert torch
    spare_dynamo()
    gc.freeze()
    gc.enable()


def _interrupt(number: int, frame: object) -> None:
    """Stop at the first signal; a second one must not cut the record that is being finished."""
    _on_signals(signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _on_signals(handler: Callable[[int, Any], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)


class _Failures(list[Exception]):
    """The errors of the jobs that failed, each shown when it happens: a refusal as its line, else the traceback."""

    def append(self, error: Exception) -> None:
        super().append(error)
        if isinstance(error, Refusal):
            print(f"gdexp: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)


@contextmanager
def _host_as_it_was() -> Iterator[None]:
    """Restore the random states of the process on leaving."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


if __name__ == "__main__":
    main()
