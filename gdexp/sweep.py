"""A sweep: its jobs checked, packed, trained and summed up."""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from gdexp import stop
from gdexp.config import direction
from gdexp.config.check import Sound, check, check_targets
from gdexp.config.printable import cell
from gdexp.config.refusal import Refusal, Refusals
from gdexp.config.written import typed
from gdexp.execute import execute
from gdexp.lines import say
from gdexp.session import DEFAULT_OBJECTIVES, ordered_by
from gdexp.terminal import SweepProgress, failures_report, plan_report, sweep_report
from gdexp.tracking.frame import Result

if TYPE_CHECKING:
    from gdexp.config.compose import Job
    from gdexp.tracking.claims import Claims
    from gdexp.tracking.provenance import Provenance

_WATCHED = ("target", "min_delta", "patience")  # keys of the trainer in which runs of a pack may differ
_IDS = 200  # run ids in one tag
Found = dict[int, Result]  # by the job's number


class Pack(NamedTuple):
    """Jobs that one program may train.

    Args:
        jobs: in order.
        runs: how many the pack had before it was split between workers; whether they stack depends on these.
    """

    jobs: "list[Job]"
    runs: int


Train = Callable[[Sequence[Pack], "Provenance", Found, "Claims"], None]


def sweep(jobs: Sequence["Job"], words: Sequence[str], train: Train | None = None) -> Found:
    """Train and record the jobs of a sweep; all are checked before the first one trains.

    Args:
        jobs: in order.
        words: what was typed, for the record.
        train: how packs are trained; None: here, one after the other.

    Returns:
        what became of each job that was begun.

    Raises:
        Refusal: nothing was trained.
    """
    from gdexp import tracking
    from gdexp.tracking.provenance import Provenance

    check_all(jobs)
    packs, node = packed(jobs), jobs[0].config["sweep"]
    done, same = ({}, None) if node["again"] else _done(packs)
    if same is not None:  # these go on with a sweep that was begun before
        jobs = [job._replace(sweep=same) for job in jobs]
        packs = packed(jobs)
    if node["plan"]:
        say(*plan_report(_planned(packs), set(done)))
        return {}
    tracking.ready(jobs[0].config["tracking"])
    found: Found = dict(done)
    began, provenance = time.monotonic(), Provenance()
    if done:
        say(f"{len(done)} of {len(jobs)} already done; sweep.again=true trains them again")
    interrupted, refused, study = True, False, jobs[0].options.get("experiments")
    claims = tracking.claims_of(jobs[0].config["tracking"], study)
    try:
        _train_what_is_left(packs, found, lambda left: (train or train_here)(left, provenance, found, claims))
        interrupted = False
    except Refusal:  # of workers that can't train here
        refused = True
        raise
    except KeyboardInterrupt as error:
        if jobs[0].config["tracking"]["writer"] != "none":
            error.__notes__ = ["(the same command goes on with what is missing)"]
        raise
    finally:
        with suppress(Exception):  # another command finds out that this one is gone
            claims.release()
        news = len(found) > len(done) or (not refused and (interrupted or same is None))
        if news and jobs[0].config["tracking"]["writer"] != "none":
            _record(jobs, words, found, provenance, interrupted)
        if news or not refused:
            _report(jobs, found, time.monotonic() - began)
    return found


def _train_what_is_left(packs: Sequence[Pack], found: Found, train: Callable[[Sequence[Pack]], None]) -> None:
    """Train the jobs that have no result, and look once more for those that another command had claimed."""
    while left := _without(packs, found):
        before = len(found)
        train(left)
        if len(found) == sum(len(pack.jobs) for pack in packs) or _is_stopped(found, packs):
            return
        found.update(_done(_without(packs, found))[0])
        if len(found) == before:
            break
    if missing := sum(len(pack.jobs) for pack in _without(packs, found)):
        say(f"Jobs that are trained by another command now: {missing}; repeat this one later to see them")


def _without(packs: Sequence[Pack], found: Found) -> list[Pack]:
    """Return the packs with the jobs that have no result."""
    left = [Pack([job for job in pack.jobs if job.number not in found], pack.runs) for pack in packs]
    return [pack for pack in left if pack.jobs]


def _is_stopped(found: Found, packs: Sequence[Pack]) -> bool:
    node = packs[0].jobs[0].config["sweep"]
    return node["on_error"] == "stop" and any(result.error is not None for result in found.values())


def _done(packs: Sequence[Pack]) -> tuple[Found, str | None]:
    """Return the results of jobs that this store has already, and their sweep if it has no other runs."""
    from gdexp import tracking
    from gdexp.build import rows
    from gdexp.config.check import filled
    from gdexp.config.modules import local_modules
    from gdexp.tracking.provenance import job_keys

    first = packs[0].jobs[0]
    config, study = first.config["tracking"], first.options.get("experiments")
    done: Found = {}
    with local_modules():
        node = first.config["sweep"]
        best = [node["objective"]] if node["objective"] else list(DEFAULT_OBJECTIVES)
        known = tracking.finished_jobs(config, study, best if node["objective_at"] == "best" else ())
        hashes: dict[str, str] = {}  # of data, by their config
        for pack in packs if known else ():
            configs = [filled(job.config) for job in pack.jobs]
            data = configs[0]["data"]
            try:
                if repr(data) not in hashes:
                    hashes[repr(data)] = rows.load(data, pack.jobs[0].options)[1].sha256
            except Exception:  # the jobs will say so
                continue
            for job, key in zip(pack.jobs, job_keys(configs, hashes[repr(data)]), strict=True):
                if known.get(key):
                    done[job.number] = _with_objective(known[key].pop(0), configs[0])
    sweeps = {r.sweep for r in done.values()}
    others = {r.sweep for results in known.values() for r in results}  # of runs that are none of these jobs'
    return done, next(iter(sweeps)) if len(sweeps) == 1 and not sweeps & others else None


def _with_objective(result: Result, config: Mapping[str, Any]) -> Result:
    if (name := ordered_by(config["sweep"], result.metrics)) is None:
        return result
    mode = direction.of_objective(name, config)
    value = result.metrics[name]
    if config["sweep"]["objective_at"] == "best" and name in (extremes := result.extremes or {}):
        value = extremes[name][mode == "max"]
    return result._replace(objective_name=name, objective=value, objective_mode=mode)


def train_here(packs: Sequence[Pack], provenance: "Provenance", found: Found, claims: "Claims") -> None:
    """Train packs one after the other, in this process, as long as the command is there that wants them."""
    with SweepProgress(sum(len(pack.jobs) for pack in packs)) as progress:
        for pack in packs:
            for job, result in execute(pack.jobs, provenance, progress, pack.runs, claims):
                found[job.number] = result
                if result.error is not None and job.config["sweep"]["on_error"] == "stop":
                    return


def check_all(jobs: Sequence["Job"]) -> None:
    """Refuse a sweep with all that is wrong with its jobs, a line each."""
    from gdexp.config import variables
    from gdexp.config.modules import local_modules

    lines: list[str] = []
    sound: Sound = {}
    with local_modules():
        for job in jobs:
            try:
                check_targets(check(job.config, sound), sound)
            except Refusal as refusal:
                lines.append(f"{job.label}: {variables.advised(refusal, job.source)}")
            except Exception:  # a module of the user's own that can't be imported: the job fails, with its record
                continue
    if lines:
        raise Refusals(lines)


def packed(jobs: Sequence["Job"]) -> list[Pack]:
    """Put jobs together whose configs differ in the seed and in numbers of optimizer, scheduler and early stop only."""
    packs: dict[str, list[Job]] = {}
    for job in jobs:
        packs.setdefault(_shape(job), []).append(job)
    return [Pack(members, len(members)) for members in packs.values()]


def _shape(job: "Job") -> str:
    """Return what all jobs of a pack have in common; zero and other numbers take different branches in torch.optim."""
    config = job.config
    trainer = {k: _marked(v) if k in _WATCHED else v for k, v in config["trainer"].items()}
    free = {"seed": 0, "optimizer": _marked(config["optimizer"]), "scheduler": _marked(config["scheduler"])}
    return repr((config | free | {"trainer": trainer}, job.options.get("experiments")))


def _marked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _marked(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(v) for v in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number" if value else "zero"
    return value


def _planned(packs: Sequence[Pack]) -> Iterator[tuple[Sequence["Job"], str]]:
    """Yield each pack and how it would be trained."""
    from gdexp.build import build
    from gdexp.build.apart import Apart
    from gdexp.build.together import chunks
    from gdexp.config.check import filled
    from gdexp.config.modules import local_modules

    for jobs, _ in packs:
        try:
            if len(jobs) == 1 or jobs[0].config["sweep"]["stack"] == "never":
                yield jobs, "one by one"
                continue
            with local_modules():
                sizes = chunks(build(filled(jobs[0].config), jobs[0].options), len(jobs))
            yield jobs, "as one program" if len(sizes) == 1 else f"as {len(sizes)} programs of up to {sizes[0]}"
        except Apart as reason:
            yield jobs, f"one by one: {reason}"


def _record(
    jobs: Sequence["Job"], words: Sequence[str], found: Found, provenance: "Provenance", interrupted: bool
) -> None:
    """Write the summary run: the table, the overrides and the counts."""
    from gdexp import tracking
    from gdexp.tracking.provenance import command

    counts = {f"runs_{k}": sum(r.outcome == k for r in found.values()) for k in ("completed", "diverged", "stopped")}
    counts["runs_failed"] = sum(r.error is not None for r in found.values())
    tags = provenance.tags() | {"gdexp.sweep": str(jobs[0].sweep), "gdexp.kind": "sweep"}
    if (objective := _objective(found)) is not None:
        tags |= {"gdexp.objective": objective[0], "gdexp.objective_mode": objective[1]}
        tags |= {"gdexp.objective_at": jobs[0].config["sweep"]["objective_at"]}
    others = [str(r.run_id) for r in found.values() if r.run_id and r.sweep not in (None, str(jobs[0].sweep))]
    tags |= {f"gdexp.also.{i}": " ".join(others[i : i + _IDS]) for i in range(0, len(others), _IDS)}
    words = command(words)
    texts = {"sweep.csv": table(jobs, found), "overrides.txt": "".join(f"{word}\n" for word in words)}
    name = f"sweep of {len(jobs)}: {' '.join(words)}"
    described = tracking.Description(name if len(name) <= 200 else f"{name[:199]}…", {}, tags, texts)
    config = jobs[0].config["tracking"]
    try:
        with stop.held(), tracking.start(config, [described], study=jobs[0].options.get("experiments")) as record:
            record.add(0, {k: float(v) for k, v in counts.items()})
            if interrupted:
                raise _Interrupted
            record.finish("completed", {})
    except _Interrupted:
        pass
    except Refusal as lost:  # the runs have their records
        say(f"The sweep's summary can't be written: {lost}")
    _share_view(found, str(jobs[0].sweep))


def _share_view(found: Found, sweep: str) -> None:
    """Write what MLflow's UI opens on; that nobody can see it so is no harm to the runs."""
    from gdexp.tracking import view
    from gdexp.tracking.varied import varied

    recorded = [r for r in found.values() if r.run_id and r.uri]
    if (objective := _objective(found)) is not None and recorded:
        last = recorded[-1]
        params = varied([r.params for r in recorded])
        with suppress(Exception):
            ids = [str(r.run_id) for r in recorded] if any(r.sweep != sweep for r in recorded) else ()
            about = objective[0], objective[1] == "min", params, ids
            view.share(str(last.uri), str(last.run_id), sweep, *about)


class _Interrupted(BaseException):
    """Ends the summary of a sweep that was cut off as KILLED."""


def table(jobs: Sequence["Job"], found: Found) -> str:
    """Return the runs as CSV: how each ended, the params in which they differ, and the last value of each metric."""
    params = dict.fromkeys(k for r in found.values() for k in r.params)
    varied = [k for k in params if len({r.params.get(k) for r in found.values()}) > 1]
    metrics = list(dict.fromkeys(k for r in found.values() for k in r.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "run_id", "name", "status", "outcome", *map(cell, [*varied, *metrics])])
    for job in jobs:
        if (r := found.get(job.number)) is not None:
            own = [r.params.get(k, "") for k in varied] + [_cell(r.metrics.get(k)) for k in metrics]
            writer.writerow([job.number, r.run_id, *map(cell, [r.name, r.status, r.outcome, *own])])
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else typed(value)


def _objective(found: Found) -> tuple[str, str] | None:
    """Return by what the runs are ordered, and which way it is better; runs that diverged may lack it."""
    ended = sorted(found.values(), key=lambda r: r.outcome == "diverged")
    return next(((r.objective_name, r.objective_mode) for r in ended if r.objective_name), None)


def _report(jobs: Sequence["Job"], found: Found, seconds: float) -> None:
    results = [(job, found[job.number]) for job in jobs if job.number in found]
    good = [r for _, r in results if r.error is None]
    failed = [(job, r.error) for job, r in results if r.error is not None]
    say(*sweep_report(good, len(failed), jobs, _objective(found), seconds))
    if failed:
        failures_report(failed)
