"""Train jobs and record them: `execute`."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gdexp.config.refusal import Refusal, Refusals
from gdexp.terminal import Progress, report, run_line, say, sweep_report
from gdexp.tracking.frame import Result

if TYPE_CHECKING:
    from torch import Tensor

    from gdexp.build import Parts
    from gdexp.config.compose import Job
    from gdexp.tracking import Record
    from gdexp.tracking.provenance import Provenance
    from gdexp.train import Epoch


def execute(jobs: Sequence["Job"], failures: list[Exception] | None = None) -> list[Result]:
    """Train and record jobs; all are checked before the first one trains, and one that fails doesn't stop the others.

    Args:
        jobs: one, or those of a sweep.
        failures: takes the errors of jobs that failed, each as it happens; None: the first one is raised at the end.

    Raises:
        Refusal: nothing was trained.
        Exception: of the user's own code, when all jobs are done.
    """
    from gdexp.tracking.provenance import Provenance

    raised: list[Exception] = []
    failures = raised if failures is None else failures
    if len(jobs) > 1:
        _check_all(jobs)
    results: list[Result] = []
    began, provenance = time.monotonic(), Provenance()
    for job in jobs:
        try:
            results.append(_execute_one(job, provenance))
        except Exception as error:
            failures.append(error)
    if jobs and jobs[0].sweep:
        say(sweep_report(results, len(failures), time.monotonic() - began))
    if raised:
        raise raised[0]
    return results


def _check_all(jobs: Sequence["Job"]) -> None:
    """Refuse a sweep with all that is wrong with its jobs, a line each."""
    from gdexp.config.check import check, check_targets
    from gdexp.config.targets import local_modules

    lines = []
    with local_modules():
        for i, job in enumerate(jobs, start=1):
            try:
                check_targets(check(job.config))
            except Refusal as refusal:
                lines.append(f"job {i} ({job.name}): {refusal}")
            except Exception:  # a module of the user's own that can't be imported: the job fails, with its record
                continue
    if lines:
        raise Refusals(lines)


def _execute_one(job: "Job", provenance: "Provenance") -> Result:
    from gdexp import tracking
    from gdexp.build import build
    from gdexp.config import written
    from gdexp.config.check import check, check_targets
    from gdexp.config.targets import local_modules

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
            texts={"config.yaml": written.as_yaml(shown), **provenance.texts(config)},
            data=parts.identity._replace(source=shown["data"]) if parts else None,
        ) as record:
            if failure is not None:
                raise failure
            assert parts is not None
            outcome, metrics = _train_and_record(parts, record, quiet=job.sweep is not None)
        say(run_line(name, outcome, metrics) if job.sweep else report(outcome, metrics, parts, record))
    last = {k: v[-1] for k, v in metrics.items()}
    return Result(record.run_id, name, record.status, outcome, params, last, record.uri)


def _train_and_record(parts: "Parts", record: "Record", *, quiet: bool) -> tuple[str, dict[str, tuple[float, ...]]]:
    """Train; return the outcome and the first and last value of each metric."""
    record.keep(parts.learner.weights())
    path = _Path(parts.learner.weights()) if parts.trajectory else None
    first: dict[str, float] = {}
    with _torch_set_up(parts), Progress(parts.config, quiet=quiet) as progress:
        epoch: Epoch | None = None
        for epoch in _epochs(parts, record, progress):
            record.add(epoch.epoch, epoch.metrics)
            for hook in parts.hooks:
                hook(epoch, parts.model)
            if path is not None:
                path.add()
            first = first or epoch.metrics
            progress.epoch(epoch)
        assert epoch is not None
        last = epoch.metrics | _tested(parts)
        record.add(epoch.epoch, {k: v for k, v in last.items() if k not in epoch.metrics})
    metrics: dict[str, tuple[float, ...]] = {k: (first.get(k, v), v) for k, v in last.items()}
    outcome = "diverged" if epoch.diverged else "stopped" if epoch.stopped else "completed"
    tags: dict[str, object] = {}
    if epoch.diverged:
        tags["gdexp.diverged_at"] = epoch.epoch
    if epoch.stopped:
        tags["gdexp.stopped_because"] = epoch.stopped
    if parts.watch is not None and parts.watch.weights:
        tags["gdexp.best_epoch"] = parts.watch.best_epoch
    progress.ended(epoch)
    record.finish(outcome, _files(parts, path), tags)
    return outcome, metrics


def _epochs(parts: "Parts", record: "Record", progress: "Progress") -> Iterator["Epoch"]:
    import torch

    from gdexp.train import train

    trainer = parts.config["trainer"]
    every = trainer["log_steps"]

    def on_step(step: int, measures: Mapping[str, "Tensor"]) -> None:
        if every is not None and step % every == 0:
            record.add(step, {"train_loss_step": torch.as_tensor(measures["train_loss"]).item()})
        progress.step(step)

    keys = ("epochs", "batch_size", "accumulate", "divergence_factor", "max_steps", "max_seconds", "record")
    return train(
        parts.learner,
        parts.data,
        seed=parts.config["seed"],
        schedule=parts.schedule,
        average=parts.average,
        watch=parts.watch,
        metrics=parts.metrics,
        on_step=on_step if every is not None or progress.wants_steps else None,
        **{k: trainer[k] for k in keys},
    )


def _tested(parts: "Parts") -> dict[str, float]:
    """Measure the test rows, with the final weights and with their average."""
    from gdexp.train import evaluate

    if parts.data.test is None:
        return {}
    arguments = parts.learner, parts.data.test, parts.config["trainer"]["batch_size"], parts.metrics
    found = {f"test_{k}": v for k, v in evaluate(*arguments).items()}
    if parts.average is not None:
        with parts.average.in_place():
            found |= {f"test_{k}_ema": v for k, v in evaluate(*arguments).items()}
    return found


def _files(parts: "Parts", path: "_Path | None") -> dict[str, Mapping[str, "Tensor"]]:
    """Return what is written as safetensors files, by their names."""
    files: dict[str, Mapping[str, Tensor]] = {"weights": parts.learner.weights()}
    if parts.watch is not None and parts.watch.weights:
        files["weights_best"] = dict(zip(files["weights"], parts.watch.weights, strict=True))
    if parts.average is not None:
        files["weights_ema"] = parts.average.weights
    if path is not None:
        files["trajectory"] = path.rows()
    return files


class _Path:
    """The weights that began each epoch, one row an epoch."""

    def __init__(self, weights: Mapping[str, "Tensor"]) -> None:
        self._weights = weights
        self._points: list[list[Tensor]] = []
        self.add()

    def add(self) -> None:
        self._points.append([t.detach().cpu().clone() for t in self._weights.values()])

    def rows(self) -> dict[str, "Tensor"]:
        """Return (epochs, …) for each weight; where the last epoch led is in the final weights."""
        import torch

        columns = zip(*self._points[:-1], strict=True)
        return {name: torch.stack(points) for name, points in zip(self._weights, columns, strict=True)}


@contextmanager
def _torch_set_up(parts: "Parts") -> Iterator[None]:
    """Set threads and determinism of this process for a run, and put them back."""
    import torch

    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    uninitialized: Any = torch.utils.deterministic
    fills = uninitialized.fill_uninitialized_memory
    torch.set_num_threads(parts.threads)
    if parts.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        uninitialized.fill_uninitialized_memory = False  # slow, for debugging
        torch.set_deterministic_debug_mode("error")  # unlike use_deterministic_algorithms, imports nothing
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        uninitialized.fill_uninitialized_memory = fills
