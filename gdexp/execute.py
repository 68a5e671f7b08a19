"""Train jobs and record them: `execute`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from gdexp import stop
from gdexp.config.refusal import Refusal, TakenOver, Withdrawn
from gdexp.lines import say
from gdexp.terminal import SweepProgress, report
from gdexp.tracking.frame import Result

if TYPE_CHECKING:
    from gdexp.build import Parts
    from gdexp.build.shared import Shared
    from gdexp.build.start import Start
    from gdexp.config.compose import Job
    from gdexp.data.identity import Identity
    from gdexp.session import End
    from gdexp.tracking import Description, Record
    from gdexp.tracking.claims import Claims
    from gdexp.tracking.provenance import Provenance

Ended = tuple["Job", Result]


class _Repeat(Exception):
    """What went wrong in a program of several runs, which are trained one by one then."""


def execute(
    jobs: Sequence["Job"],
    provenance: "Provenance",
    progress: "SweepProgress | None" = None,
    runs: int | None = None,
    claims: "Claims | None" = None,
) -> Iterator[Ended]:
    """Train and record jobs whose configs differ in numbers only, as one program where that can be and pays.

    Args:
        jobs: one, or those of a pack.
        provenance: of the command.
        progress: of the sweep, if it is one.
        runs: of the pack that the jobs are a part of; None: these.
        claims: of the sweep; jobs that another command trains are left out.

    Yields:
        each job that was trained with its result, which holds the error of the user's own code if one ended it.

    Raises:
        Refusal: of a single job, which was not trained.
    """
    from gdexp.config.modules import local_modules

    with local_modules():
        apart = list(jobs)
        if progress is not None and len(jobs) > 1:
            for members, parts in _programs(jobs, progress, runs or len(jobs), claims):
                if parts is None:  # another command trains them
                    apart = _without(apart, members)
                    continue
                stop.obey()
                if claims is not None and claims.is_abandoned():
                    return
                try:
                    yield from _train(members, parts, provenance, progress)
                except _Repeat as reason:
                    progress.note(f"{len(members)} runs are trained one by one: {reason}")
                    continue
                apart = _without(apart, members)
        for job in apart:
            stop.obey()
            if claims is not None and claims.is_abandoned():
                return
            yield from _execute_one(job, provenance, progress, claims)


def _programs(
    jobs: Sequence["Job"], progress: "SweepProgress", runs: int, claims: "Claims | None"
) -> Iterator[tuple[Sequence["Job"], "Parts | None"]]:
    """Yield those jobs that one program can train, with their parts, and without parts those that aren't ours."""
    from gdexp.build import build, rows
    from gdexp.build.apart import Apart, Few
    from gdexp.build.shared import of_config
    from gdexp.build.together import chunks
    from gdexp.config.check import filled
    from gdexp.trial import train_as_one

    configs = [filled(job.config) for job in jobs]
    if configs[0]["sweep"]["stack"] == "never":
        return
    shared = of_config(configs[0])
    try:
        loaded = rows.load(configs[0]["data"], jobs[0].options)
        first = build(configs[0], jobs[0].options, loaded)
        begin = 0
        for size in chunks(first, len(jobs), runs):
            some = slice(begin, begin + size)
            ours = _claimed(configs[some], loaded[1].sha256, claims)
            members = [job for job, own in zip(jobs[some], ours, strict=True) if own]
            if len(members) < size:
                yield [job for job, own in zip(jobs[some], ours, strict=True) if not own], None
            if len(members) > 1:
                own_configs = [config for config, own in zip(configs[some], ours, strict=True) if own]
                first = first if own_configs[0] is configs[0] else build(own_configs[0], jobs[0].options, loaded)
                yield members, train_as_one(first, own_configs, jobs[0].options, loaded, shared)
                if lost := shared.put_back():
                    raise Apart(f"{lost} can't be put back")
            begin += size
    except Few:
        return
    except Apart as reason:
        progress.note(f"{len(jobs)} runs are trained one by one: {reason}")
    except Exception:  # a refusal, or an error in the user's own code: each run says so for itself
        return
    finally:
        _put_back(shared, progress)


def _put_back(shared: "Shared", progress: "SweepProgress | None") -> None:
    """Let the next run begin with what the user's files say, as in a process of its own."""
    from gdexp.config import modules

    if progress is None:
        if all(map(modules.imported, shared.roots)):  # what the host of a single run imported is the host's
            shared.begin_anew()
    elif lost := shared.begin_anew():
        progress.note_once(f"{lost} can't be put back: the next run begins with it as the last one left it")


def _without(jobs: Sequence["Job"], members: Sequence["Job"]) -> list["Job"]:
    numbers = {job.number for job in members}
    return [job for job in jobs if job.number not in numbers]


def _claimed(configs: Sequence[dict[str, Any]], data: str, claims: "Claims | None") -> list[bool]:
    """Say which jobs with the same data are ours to train."""
    from gdexp.tracking.provenance import job_keys

    return [True] * len(configs) if claims is None else claims.take(job_keys(configs, data))


def _execute_one(
    job: "Job", provenance: "Provenance", progress: "SweepProgress | None", claims: "Claims | None"
) -> Iterator[Ended]:
    from gdexp.build import build
    from gdexp.build.shared import of_config
    from gdexp.config import variables
    from gdexp.config.check import check, check_targets, filled

    try:
        config = check(job.config)
    except Refusal as refusal:
        raise variables.advised(refusal, job.source) from refusal
    shared = None
    try:
        check_targets(config)
        shared = of_config(config)
        parts = build(config, job.options)
    except Refusal as refusal:
        advised = variables.advised(refusal, job.source)
        if progress is None:
            raise advised from refusal.__cause__
        yield job, Result(None, job.name or "", "FAILED", "", {}, {}, error=advised)
    except Exception as error:  # the user's own code; the record says so
        yield job, _failed(job, config, error, provenance)
    else:
        if all(_claimed([filled(job.config)], parts.identity.sha256, claims)):
            yield from _train([job], parts, provenance, progress)
    finally:
        if shared is not None:
            _put_back(shared, progress)


def _failed(job: "Job", config: dict[str, Any], error: Exception, provenance: "Provenance") -> Result:
    """Record a job that could not be built."""
    from gdexp import tracking

    runs, _ = described([job], [config], "plain", provenance)
    with stop.held():
        record = tracking.start(
            config["tracking"], runs, study=job.options.get("experiments"), adopts=job.sweep is None
        )
        try:
            with record:
                raise error
        except Exception as raised:
            return _lost(runs[0], record, raised)


def _lost(run: "Description", record: "Record", error: Exception, place: int = 0) -> Result:
    return Result(record.run_ids[place], run.name, "FAILED", "", dict(run.params), {}, record.uri, error=error)


def _train(
    jobs: Sequence["Job"], parts: "Parts", provenance: "Provenance", progress: "SweepProgress | None"
) -> Iterator[Ended]:
    """Train and record one run, or several as one."""
    from gdexp.config.check import filled

    config = parts.config
    how = "plain" if len(jobs) == 1 else f"stack chunk={len(jobs)} threads={parts.threads}"
    sizes = {k: config[k] for k in ("model", "learner")}
    configs = [config] if len(jobs) == 1 else [filled(job.config) | sizes for job in jobs]
    runs, source = described(jobs, configs, how, provenance, parts.identity, parts.start)
    notes = [f"Data: {parts.identity.about}"] if parts.identity.about else []
    for line in [*notes, *([parts.start.about] if parts.start else [])]:
        say(line) if progress is None else progress.note_once(line)
    study, data = jobs[0].options.get("experiments"), parts.identity._replace(source=source)
    with stop.watched():  # until its result is said, for by then the run isn't cut off any more
        adopts = jobs[0].sweep is None
        record, ends, error = _recorded(parts, progress, runs=runs, study=study, data=data, adopts=adopts)
        if progress is None and ends:  # also where it is the record that went wrong
            say(*report(ends[0].outcome, ends[0].metrics, parts, runs[0].name, record))
    if error is not None:
        if progress is None and isinstance(error, Refusal):
            raise error
        for i, job in enumerate(jobs):
            own = TakenOver(record.lost[i]) if i in record.lost else error
            lost = _lost(runs[i], record, own, i)
            yield job, lost._replace(run_id=None) if isinstance(error, Withdrawn) else lost
        return
    for run, (job, end) in enumerate(zip(jobs, ends, strict=True)):
        if run in record.lost:
            yield job, _lost(runs[run], record, TakenOver(record.lost[run]), run)
            continue
        last = {k: v[-1] for k, v in end.metrics.items()}
        name, params = runs[run].name, dict(runs[run].params)
        about = record.run_ids[run], name, record.statuses[run], end.outcome, params, last, record.uri
        result = Result(*about, stacked=len(jobs) > 1, sweep=job.sweep)
        if end.objective is not None:
            ordered_by, value, mode = end.objective
            result = result._replace(objective_name=ordered_by, objective=value, objective_mode=mode)
        yield job, result


def _recorded(
    parts: "Parts", progress: "SweepProgress | None", **begun: Any
) -> "tuple[Record, list[End], Exception | None]":
    """Train; return the record, closed, what became of each run, and what ended them if that was an error.

    Raises:
        _Repeat: several runs that can't be trained as one program.
    """
    from gdexp import tracking
    from gdexp.build.apart import Apart
    from gdexp.session import Session

    ends: list[End] = []
    record = tracking.start(parts.config["tracking"], **begun)
    try:
        with record:
            try:
                ends = Session(parts, record, progress, begun["runs"][0].texts).train()
            except Withdrawn:
                record.withdraw()
                raise
            except TakenOver:
                raise
            except Exception as error:
                if len(parts.runs) == 1:
                    raise
                record.withdraw()
                said = next(iter(str(error).splitlines()), "")
                raise _Repeat(said if isinstance(error, Apart) else f"{type(error).__name__}: {said}") from error
    except _Repeat:
        raise
    except Exception as error:  # of the user's own code, or of the record
        return record, ends, error
    return record, ends, None


def described(
    jobs: Sequence["Job"],
    configs: Sequence[dict[str, Any]],
    how: str,
    provenance: "Provenance",
    data: "Identity | None" = None,
    start: "Start | None" = None,
) -> Any:
    """Return the descriptions of runs as they begin, and the data node as it is recorded."""
    from gdexp.config import direction, secrets, variables, written
    from gdexp.config.check import filled
    from gdexp.tracking import Description
    from gdexp.tracking.provenance import environment_key, job_keys

    keys: Sequence[str | None] = [None] * len(jobs)
    if data is not None and jobs[0].sweep:
        keys = job_keys([filled(job.config) for job in jobs], data.sha256)
    masked = secrets.without_secrets(written.recorded(configs[0]), jobs[0].source)
    shown = [masked, *(written.with_changes(masked, configs[0], config) for config in configs[1:])]
    tags = provenance.tags() | {"gdexp.trained_as": how} | direction.record(configs[0])
    if from_environment := variables.values(written.recorded(configs[0]), jobs[0].source):
        salt = environment_key(configs[0]["tracking"], jobs[0].sweep)
        tags |= {variables.TAG: variables.tag(from_environment, salt)}
    tags |= {"gdexp.data": secrets.hide(data.about)} if data and data.about else {}
    tags |= {"gdexp.start_weights": start.sha256, "gdexp.start": secrets.hide(start.about)} if start else {}
    texts = provenance.texts(configs[0])
    found = []
    pages = written.pages(shown, [job.options for job in jobs])
    stack = uuid4().hex
    for place, (job, key, (params, text)) in enumerate(zip(jobs, keys, pages, strict=True)):
        name = job.name or "-".join(str(job.options.get(g)) for g in ("model", "data", "optimizer"))
        own = {k: v for k, v in (("gdexp.sweep", job.sweep), ("gdexp.job", key)) if v}
        own |= {"gdexp.stack": f"{stack} {place}"} if len(jobs) > 1 else {}  # the same numbers need the same neighbours
        found.append(Description(name, params, tags | own, {"config.yaml": text, **texts}))
    return found, masked["data"]
