"""Train jobs and record them: `execute`."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from gdexp.config.refusal import Refusal
from gdexp.terminal import Progress, SweepProgress, report, say
from gdexp.tracking.frame import Result
from gdexp.watch import better

if TYPE_CHECKING:
    from torch import Tensor

    from gdexp.build import Parts
    from gdexp.config.compose import Job
    from gdexp.tracking import Record
    from gdexp.tracking.provenance import Provenance
    from gdexp.train import Epoch, Loop

Ended = tuple["Job", Result | Exception]


class _Repeat(Exception):
    """What went wrong in a program of several runs, which are trained one by one then."""


def execute(
    jobs: Sequence["Job"], provenance: "Provenance", progress: "SweepProgress | None" = None, runs: int | None = None
) -> Iterator[Ended]:
    """Train and record jobs whose configs differ in numbers only, as one program where that can be and pays.

    Args:
        jobs: one, or those of a pack.
        provenance: of the command.
        progress: of the sweep, if it is one.
        runs: of the pack that the jobs are a part of; None: these.

    Yields:
        each job with its result, or with the error of the user's own code that ended it.

    Raises:
        Refusal: of a single job, which was not trained.
    """
    from gdexp.config.targets import local_modules

    with local_modules():
        apart = list(jobs)
        if progress is not None and len(jobs) > 1:
            for members, parts in _programs(jobs, progress, runs or len(jobs)):
                try:
                    yield from _train(members, parts, provenance, progress)
                except _Repeat as reason:
                    progress.note(f"{len(members)} runs are trained one by one: {reason}")
                    continue
                except Exception as error:  # of the record
                    yield from ((job, error) for job in members)
                done = {job.number for job in members}
                apart = [job for job in apart if job.number not in done]
        for job in apart:
            yield from _execute_one(job, provenance, progress)


def _programs(jobs: Sequence["Job"], progress: "SweepProgress", runs: int) -> Iterator[tuple[Sequence["Job"], "Parts"]]:
    """Yield those jobs that one program can train, with their parts."""
    from gdexp.build import build
    from gdexp.build.together import Apart, Few, build_together, chunks
    from gdexp.config.check import filled

    configs = [filled(job.config) for job in jobs]
    try:
        if configs[0]["sweep"]["stack"] == "never":
            return
        first = build(configs[0], jobs[0].options)
        begin = 0
        for size in chunks(first, len(jobs), runs):
            some = slice(begin, begin + size)
            yield jobs[some], build_together(first, configs[some], jobs[0].options)
            begin += size
    except Few:
        return
    except Apart as reason:
        progress.note(f"{len(jobs)} runs are trained one by one: {reason}")
    except Exception:  # a refusal, or an error in the user's own code: each run says so for itself
        return


def _execute_one(job: "Job", provenance: "Provenance", progress: "SweepProgress | None") -> Iterator[Ended]:
    from gdexp.build import build
    from gdexp.config.check import check, check_targets

    config = check(job.config)
    try:
        check_targets(config)
        parts = build(config, job.options)
    except Refusal as refusal:
        if progress is None:
            raise
        yield job, refusal
        return
    except Exception as error:  # the user's own code; the record says so
        yield job, _failed(job, config, error, provenance)
        return
    try:
        yield from _train([job], parts, provenance, progress)
    except Exception as error:
        if progress is None and isinstance(error, Refusal):
            raise
        yield job, error


def _failed(job: "Job", config: dict[str, Any], error: Exception, provenance: "Provenance") -> Exception:
    """Record a job that could not be built."""
    from gdexp import tracking

    described, _ = _described([job], [config], "plain", provenance)
    try:
        with tracking.start(config["tracking"], described, study=job.options.get("experiments")):
            raise error
    except Exception as raised:
        return raised


def _train(
    jobs: Sequence["Job"], parts: "Parts", provenance: "Provenance", progress: "SweepProgress | None"
) -> Iterator[Ended]:
    """Train and record one run, or several as one."""
    from gdexp import tracking
    from gdexp.config.check import filled

    config = parts.config
    how = "plain" if len(jobs) == 1 else f"stack chunk={len(jobs)} threads={parts.threads}"
    sizes = {k: config[k] for k in ("model", "learner")}
    configs = [config] if len(jobs) == 1 else [filled(job.config) | sizes for job in jobs]
    described, source = _described(jobs, configs, how, provenance, parts.identity.sha256)
    study, data = jobs[0].options.get("experiments"), parts.identity._replace(source=source)
    with tracking.start(config["tracking"], described, study=study, data=data) as record:
        try:
            ends = _train_and_record(parts, record, progress)
        except Exception as error:
            if len(jobs) > 1:
                record.withdraw()
                raise _Repeat(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}") from error
            raise
    if progress is None:
        say(report(ends[0].outcome, ends[0].metrics, parts, described[0].name, record))
    for run, (job, end) in enumerate(zip(jobs, ends, strict=True)):
        last = {k: v[-1] for k, v in end.metrics.items()}
        name, params = described[run].name, dict(described[run].params)
        about = record.run_ids[run], name, record.statuses[run], end.outcome, params, last, record.uri
        name_of, value = end.objective or (None, None)
        yield job, Result(*about, stacked=len(jobs) > 1, sweep=job.sweep, objective_name=name_of, objective=value)


def _described(
    jobs: Sequence["Job"],
    configs: Sequence[dict[str, Any]],
    how: str,
    provenance: "Provenance",
    data: str | None = None,
) -> Any:
    """Return the descriptions of runs as they begin, and the data node as it is recorded."""
    from gdexp.config import written
    from gdexp.config.check import filled
    from gdexp.tracking import Description
    from gdexp.tracking.provenance import job_keys

    keys = job_keys([filled(job.config) for job in jobs], data) if data and jobs[0].sweep else [None] * len(jobs)

    masked = written.without_secrets(configs[0], jobs[0].source)
    shown = [masked, *(written.with_changes(masked, configs[0], config) for config in configs[1:])]
    tags = provenance.tags() | {"gdexp.trained_as": how}
    texts = provenance.texts(configs[0])
    described = []
    pages = written.pages(shown, [job.options for job in jobs])
    for job, key, (params, text) in zip(jobs, keys, pages, strict=True):
        name = job.name or "-".join(str(job.options.get(g)) for g in ("model", "data", "optimizer"))
        own = {k: v for k, v in (("gdexp.sweep", job.sweep), ("gdexp.job", key)) if v}
        described.append(Description(name, params, tags | own, {"config.yaml": text, **texts}))
    return described, masked["data"]


class _End(NamedTuple):
    """What became of a run: its outcome, the first and last value of each metric, and what it is ordered by."""

    outcome: str
    metrics: dict[str, tuple[float, ...]]
    objective: tuple[str, float] | None


def _train_and_record(parts: "Parts", record: "Record", sweep: "SweepProgress | None") -> list[_End]:
    """Train; return what became of each run."""
    record.keep(lambda run: _of_run(parts, run, parts.learner.weights()))
    paths = [_Path() for _ in parts.runs] if parts.trajectory else []
    for run, path in enumerate(paths):
        path.add(_of_run(parts, run, parts.learner.weights()))
    first: dict[int, dict[str, float]] = {}
    ends: dict[int, _End] = {}
    best: dict[int, float] = {}  # the objective's
    node = parts.config["sweep"]
    with _torch_set_up(parts), nullcontext(sweep) if sweep else Progress(parts.config) as progress:
        for epochs in _loop(parts, record, progress):
            tested = _tested(parts) if any(epoch.last for epoch in epochs) else {}
            for epoch in epochs:
                run = epoch.run
                record.add(epoch.epoch, epoch.metrics, run)
                for hook in parts.hooks:
                    hook(epoch, parts.model)
                first.setdefault(run, epoch.metrics)
                if node["objective_at"] == "best" and (now := objective(node, epoch.metrics)):
                    best[run] = min(best.get(run, now[1]), now[1], key=_sense(now[0]))
                if paths:
                    paths[run].add(_of_run(parts, run, parts.learner.weights()))
                if epoch.last:
                    record.add(epoch.epoch, tested.get(run, {}), run)
                    last = epoch.metrics | tested.get(run, {})
                    value = objective(node, last)
                    if value and run in best:
                        value = value[0], best[run]
                    span: dict[str, tuple[float, ...]] = {k: (first[run].get(k, v), v) for k, v in last.items()}
                    ends[run] = _End(_outcome(epoch), span, value)
                    record.finish(ends[run].outcome, _files(parts, run, paths), _tags(parts, epoch), run)
            progress.epochs(epochs)
    return [ends[run] for run in sorted(ends)]


def objective(node: Mapping[str, Any], metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """Return name and value of what the runs of a sweep are ordered by."""
    names = [node["objective"]] if node["objective"] else ["val_loss", "train_loss"]
    return next(((name, metrics[name]) for name in names if name in metrics), None)


def _sense(name: str) -> Callable[[float], float]:
    """Return a key by which the better value is the smaller one."""
    return (lambda v: -v) if better(name) == "max" else (lambda v: v)


def _outcome(epoch: "Epoch") -> str:
    return "diverged" if epoch.diverged else "stopped" if epoch.stopped else "completed"


def _tags(parts: "Parts", epoch: "Epoch") -> dict[str, object]:
    tags: dict[str, object] = {}
    if epoch.diverged:
        tags["gdexp.diverged_at"] = epoch.epoch
    if epoch.stopped:
        tags["gdexp.stopped_because"] = epoch.stopped
    watch = parts.runs[epoch.run].watch
    if watch is not None and watch.weights:
        tags["gdexp.best_epoch"] = watch.best_epoch
    return tags


def _of_run(parts: "Parts", run: int, tensors: Mapping[str, "Tensor"]) -> Mapping[str, "Tensor"]:
    """Return the tensors of one run: those that a stack holds for it now, or as they are."""
    return parts.learner.of_run(run, tensors) if len(parts.runs) > 1 else tensors  # type: ignore[attr-defined]


def _loop(parts: "Parts", record: "Record", progress: "Progress | SweepProgress") -> "Loop":
    import torch

    from gdexp.train import Loop

    trainer = parts.config["trainer"]
    every = trainer["log_steps"]

    def on_step(step: int, measures: Mapping[str, "Tensor"], at: Sequence[int | None]) -> None:
        if every is not None and step % every == 0:
            losses = torch.as_tensor(measures["train_loss"]).detach().reshape(-1).tolist()
            for run, loss in zip(at, losses, strict=True):
                if run is not None:
                    record.add(step, {"train_loss_step": loss}, run)
        progress.step(step)

    keys = ("epochs", "batch_size", "accumulate", "divergence_factor", "max_steps", "max_seconds", "record")
    return Loop(
        parts.learner,
        parts.data,
        parts.runs,
        average=parts.average,
        metrics=parts.metrics,
        on_step=on_step if every is not None or progress.wants_steps else None,
        **{k: trainer[k] for k in keys},
    )


def _tested(parts: "Parts") -> dict[int, dict[str, float]]:
    """Measure the test rows, with the weights as they are and with their average, by run."""
    from gdexp.train import evaluate

    if parts.data.test is None:
        return {}
    runs = parts.learner.runs if len(parts.runs) > 1 else [0]  # type: ignore[attr-defined]
    arguments = parts.learner, parts.data.test, parts.config["trainer"]["batch_size"], parts.metrics
    several = len(runs) if len(parts.runs) > 1 else None
    found = [{f"test_{k}": v for k, v in own.items()} for own in evaluate(*arguments, several)]
    if parts.average is not None:
        with parts.average.in_place():
            for own, averaged in zip(found, evaluate(*arguments, several), strict=True):
                own |= {f"test_{k}_ema": v for k, v in averaged.items()}
    return dict(zip(runs, found, strict=True))


def _files(parts: "Parts", run: int, paths: Sequence["_Path"]) -> dict[str, Mapping[str, "Tensor"]]:
    """Return what is written as safetensors files, by their names."""
    files: dict[str, Mapping[str, Tensor]] = {"weights": _of_run(parts, run, parts.learner.weights())}
    watch = parts.runs[run].watch
    if watch is not None and watch.weights:
        files["weights_best"] = dict(zip(files["weights"], watch.weights, strict=True))
    if parts.average is not None:
        files["weights_ema"] = _of_run(parts, run, parts.average.weights)
    if paths:
        files["trajectory"] = paths[run].rows()
    return files


class _Path:
    """The weights that began each epoch of a run, one row an epoch."""

    def __init__(self) -> None:
        self._points: list[dict[str, Tensor]] = []

    def add(self, weights: Mapping[str, "Tensor"]) -> None:
        self._points.append({k: t.detach().cpu().clone() for k, t in weights.items()})

    def rows(self) -> dict[str, "Tensor"]:
        """Return (epochs, …) for each weight; where the last epoch led is in the final weights."""
        import torch

        return {name: torch.stack([point[name] for point in self._points[:-1]]) for name in self._points[0]}


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
        with warnings.catch_warnings():
            if len(parts.runs) > 1:  # of calls that torch.func makes for each run apart
                warnings.filterwarnings("ignore", "There is a performance drop")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        uninitialized.fill_uninitialized_memory = fills
