"""The command line: Hydra composes, `execute` trains and records.

One value's way: `optimizer.lr=0.01` → Hydra in `main` → `execute` builds the parts → `train` →
`learner.train_step`; each `Epoch` goes to `tracking`.
"""

import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdexp import host, lines, stop
from gdexp.config.refusal import Refusal
from gdexp.execute import execute
from gdexp.failure import line_of, show, told
from gdexp.lines import warn

if TYPE_CHECKING:
    import pandas as pd
    from hydra.plugins.launcher import Launcher

    from gdexp.config.compose import Job
    from gdexp.sweep import Train
    from gdexp.tracking.frame import Result
    from gdexp.workers import Share

_ONE_AT_A_TIME = threading.RLock()  # torch's random generator is one per process


def launch(overrides: Sequence[str] = (), multirun: bool = False) -> "pd.DataFrame":
    """Do what the command line does, from Python, and leave the host process as it was.

    Calls from several threads run one after another.

    Args:
        overrides: as typed after `python -m gdexp.run`; of its flags and Hydra's settings those are refused that
            are for a process of its own, such as `--config-dir` and `hydra/launcher`.
        multirun: the flag `-m`, which may also stand among the words.

    Returns:
        one row a run: run_id, name, status, outcome, params, final metrics; of a sweep also the runs that failed.

    Raises:
        ValueError: with the line that the command prints. An error in the user's own code ends a single run so, too.
    """
    from gdexp.config import modules
    from gdexp.config.compose import compose

    interruptions = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
    with _ONE_AT_A_TIME, host.as_it_was(), stop.handled(interruptions):
        modules.forget_changed()
        try:
            words = _without_flags(overrides)
            multirun = multirun or len(words) < len(overrides)
            found = train(compose(words, multirun, hosted=True), words)
        except Exception as error:
            if isinstance(error, Refusal) or (line := line_of(error)) is None:
                raise
            raise Refusal(line) from error
    from gdexp.tracking.frame import frame, row

    for result in found:
        if result.error is not None and (len(found) == 1 or isinstance(result.error, Refusal)):
            raise result.error
    return frame(row(*result[:6]) for result in found)


def _without_flags(overrides: Sequence[str]) -> list[str]:
    """Return the words of a launch that are no `-m`; refuse other flags, and what is no list of words."""
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise Refusal(f"launch takes a list of words, as ['optimizer.lr=0.1'], got {overrides!r}")
    words = [word for word in overrides if word not in ("-m", "--multirun")]
    if flags := [word for word in words if word.startswith("-")]:
        raise Refusal(f"`{flags[0]}` is for the command line: launch takes overrides; start python -m gdexp.run for it")
    return words


def train(
    jobs: "Sequence[Job]", words: Sequence[str], by: "Train | None" = None, *, alone: bool = False
) -> "list[Result]":
    """Train and record the jobs of a command line; return what became of each, in order.

    Args:
        jobs: one, or those of a sweep.
        words: of the command line.
        by: how the packs of a sweep are trained; None: here, one after the other.
        alone: the job belongs to a sweep that somebody else makes.

    Raises:
        Refusal: nothing was trained.
    """
    _check_ranks()
    if jobs[0].sweep and not alone:
        from gdexp.sweep import sweep

        found = sweep(jobs, words, by)
        return [found[number] for number in sorted(found)]
    from gdexp.tracking.provenance import Provenance

    return [result for _, result in execute(jobs, Provenance())]


def _check_ranks() -> None:
    """Refuse to be one of several processes of torchrun's, each of which would record the run."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and ranks.isdigit() and int(ranks) > 1:
        raise Refusal(f"torchrun started {ranks} processes, and a run is trained by one: torchrun --nproc-per-node=1")


def main() -> None:
    """The command line of `python -m gdexp.run`."""
    as_command(_run)


def as_command(do: "Callable[[list[str]], Sequence[Exception] | None]") -> None:
    """Do what the words of the command line say, and exit with its code: errors are one line, or a traceback.

    Args:
        do: takes the words, returns the errors that it has shown.
    """
    gc.disable()  # a collection while importing torch finds nothing to free and takes half a second
    try:
        with told(), stop.handled():
            sys.path.append(str(Path.cwd()))
            failures = do(sys.argv[1:])
    finally:
        lines.finish()
    sys.exit(1 if failures else 0)


def _run(argv: list[str]) -> list[Exception]:
    """Run a command line and return the errors of the jobs that failed."""
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from gdexp.config import compose, sources

    sources.register()
    for path in sources.unused():
        warn(f"{path} is not used: gdexp has an option of that name")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises, and we print one line
    words, unknown = get_args_parser().parse_known_args(argv)
    flags = {name for name, value in vars(words).items() if value and name != "overrides"}
    if len(alone := sorted(flags & {"run", "multirun", "cfg", "info", "shell_completion"})) > 1:
        raise Refusal(f"`--{alone[0]}` and `--{alone[1]}` can't go together; a sweep is shown by sweep.plan=true")
    failures = _Failures()
    try:
        foreign = bool(flags - {"multirun"} or unknown)
        jobs = [] if foreign else compose.compose(words.overrides, words.multirun, defer=True)
        if jobs:
            prepare_process()
            found = train(jobs, words.overrides)
            failures.take(found, shown=jobs[0].sweep is not None)
        else:
            _run_hydra(words.overrides, failures)
    except (HydraException, OmegaConfBaseException) as error:
        failures.append(compose.explain(error, words.overrides))
    except Exception as error:
        failures.append(error)
    return failures


def _run_hydra(typed: list[str], failures: "_Failures") -> None:
    """Hand the command line to Hydra's main: for its flags, its launchers, other sweepers and settings of its own."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from gdexp.config import compose, folders, grid, sources
    from gdexp.config.home import Home

    sweeps: dict[str, str] = {}
    home = Home.here()

    def task(config: DictConfig) -> float | None:
        """Train one job, and return its objective for a sweeper that looks for the best."""
        node = HydraConfig.get()
        multirun = node.mode is not None and node.mode.name == "MULTIRUN"
        parsed = compose.parse([f"{k}={v}" for k, v in (node.sweeper.get("params") or {}).items()] + typed)
        varied = grid.sweep_keys(parsed) if multirun else [o.get_key_element() for o in parsed]
        sweep = sweeps.setdefault("id", os.urandom(16).hex()) if multirun else None
        try:
            compose.check_axes(varied if multirun else ())
            prepare_process()
            with home.entered() if multirun and not node.job.chdir else nullcontext():
                [result] = train([compose.job(config, node, varied, sweep)], typed, alone=True)
        except Exception as error:
            failures.append(error)
            return None
        failures.take([result], shown=False)
        return _bounded(result)

    def sweep(launcher: "Callable[[Share], Launcher]", settings: Any) -> None:
        """Train a sweep whose packs go to a launcher."""
        from gdexp.workers import through

        prepare_process()
        failures.take(train(compose.compose(typed, True), typed, through(launcher, settings)), shown=True)

    task.sweep = sweep  # type: ignore[attr-defined]
    sources.register_sweeper()
    plain = {o.input_line: grid.as_typed(o) for o in compose.parse(typed)}
    sys.argv = [plain.get(word, word) for word in sys.argv]
    hydra.main(version_base="1.3", config_path=str(folders.conf_dir()), config_name="config")(task)()


def prepare_process() -> None:
    """Make this process start quickly; what is imported now lives as long as it does."""
    import torch

    from gdexp import build, tracking  # noqa: F401
    from gdexp.step import spare_dynamo

    assert torch
    spare_dynamo()
    gc.freeze()
    gc.enable()


class _Failures(list[Exception]):
    """The errors of what failed, each shown when it happens: a refusal as its line, else the traceback."""

    def append(self, error: Exception) -> None:
        super().append(error)
        show(error)

    def take(self, found: "Iterable[Result]", shown: bool) -> None:
        """Take the errors of runs; those of a sweep are shown already."""
        for result in found:
            if result.error is not None and shown:
                super().append(result.error)
            elif result.error is not None:
                self.append(result.error)


def _bounded(result: "Result") -> float | None:
    """Return the objective of a run as another sweeper takes it: of one that has no finite one, as bad as can be."""
    if result.objective is None or (result.outcome != "diverged" and math.isfinite(result.objective)):
        return result.objective
    return -math.inf if result.objective_mode == "max" else math.inf


if __name__ == "__main__":
    main()
