"""`python -m gdexp.rerun RUN_ID [--verify]`: the same run again, from its record, and whether it is the same."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gdexp import stop
from gdexp.again import (
    LARGEST_STACK,
    STACKED,
    TRAINED_AS,
    check_start,
    differences,
    neighbours,
    place_in_stack,
    recorded,
    surroundings,
)
from gdexp.config.refusal import Refusal
from gdexp.lines import say
from gdexp.run import as_command, prepare_process
from gdexp.tracking.reading import Recorded, read

if TYPE_CHECKING:
    from torch import Tensor

    from gdexp.config.compose import Job
    from gdexp.tracking import Record
    from gdexp.tracking.provenance import Provenance

_USAGE = "python -m gdexp.rerun RUN_ID [--verify] [tracking.uri=…]"
_WEIGHTS = "*.safetensors"
_OF_TIME = ("rows_per_second", "epoch_seconds", "peak_memory")  # metrics that no run repeats
_SHOWN = 60  # lines of a recorded diff
_FIRST = 5  # epochs, before training amplifies a rounding that differs
_AT_FIRST, _IN_THE_END = 1e-6, 1e-3  # shares by which the numbers of these, and of all epochs and tensors, may differ


def main() -> None:
    """The command line."""
    as_command(lambda words: rerun(words) if not {"-h", "--help"} & {*words} else print(f"usage: {_USAGE}"))


def rerun(words: Sequence[str]) -> None:
    """Train a recorded run again as a new run that points at the old one.

    Args:
        words: its id, `--verify` to compare the two, `tracking.…` overrides.

    Raises:
        Refusal: the run can't be trained again.
        SystemExit: with 1 where `--verify` finds a difference or something has changed, with 3 where the
            two are the same to rounding.
    """
    verify = "--verify" in words
    run, job = recorded([w for w in words if w != "--verify"], _USAGE, changeable=False, weights=_WEIGHTS)
    if run.status != "FINISHED":
        raise Refusal(f"run {run.run_id} is {run.status}: only a finished run can be repeated")
    prepare_process()
    from gdexp.config.modules import local_modules
    from gdexp.tracking.provenance import Provenance

    provenance = Provenance(extra={"gdexp.rerun_of": run.run_id})
    if run.tags.get("gdexp.git_dirty") == "true":
        diff = run.texts.get("git.diff", "").splitlines()
        say("The run was made with uncommitted code; what differed from its commit:")
        say(*diff[:_SHOWN], *[f"… {len(diff) - _SHOWN} more lines"] * (len(diff) > _SHOWN))
    with local_modules():
        new, data, uri = _trained(run, job, provenance)
        changed, around = list(differences(run, job.config, data, provenance)), list(surroundings(run, provenance))
    for line in [*changed, *around]:
        say(f"Not as it was: {line}")
    if verify:
        sys.exit(_verify(run, read(new, uri, weights=_WEIGHTS), changed, around))


def _trained(run: Recorded, job: "Job", provenance: "Provenance") -> tuple[str, str, str | None]:
    """Train a run as it was trained; return the new run's id, the SHA-256 of its data, and the store that has it."""
    from gdexp import tracking
    from gdexp.build import build, rows
    from gdexp.build.apart import Apart
    from gdexp.build.shared import of_config
    from gdexp.execute import described
    from gdexp.session import Session
    from gdexp.terminal import report
    from gdexp.trial import train_as_one

    shared = of_config(job.config)
    loaded = rows.load(job.config["data"], job.options)
    parts = build(job.config, job.options, loaded)
    check_start(run, parts.start and parts.start.sha256)
    own, identity, start = parts.config, parts.identity, parts.start  # in a stack the first run's stand for all
    how, place, stacked = "plain", 0, STACKED.fullmatch(run.tags.get(TRAINED_AS, ""))
    if stacked:
        try:
            runs_then = min(max(int(stacked[1]), 2), LARGEST_STACK)
            if configs := neighbours(run, own):
                place = place_in_stack(run)
            first = parts if not place else build(configs[0], job.options, loaded)
            parts = train_as_one(first, configs or [own] * runs_then, job.options, loaded, shared)
            how = stacked[0]
        except Apart as reason:
            say(f"The run was trained in a stack, which can't be had now: {reason}")
            if lost := shared.begin_anew():
                say(f"{lost} can't be put back: the run begins with it as it is now")
            place = 0
            parts = build(job.config, job.options)  # with its data: files may be imported anew
    runs, source = described([job], [own], how, provenance, identity, start)
    data = identity._replace(source=source)
    config = job.config["tracking"] | {"experiment": run.experiment, "uri": _store_for(run)}
    with stop.watched():
        with tracking.start(config, runs, data=data) as record:
            ends = Session(parts, record if how == "plain" else _Only(record, len(parts.runs), place)).train()
        say(*report(ends[place].outcome, ends[place].metrics, parts, run.name, record))
    return str(record.run_ids[0]), identity.sha256, record.uri


def _store_for(run: Recorded) -> str:
    """Return where the new run goes: the store of the old one, or where that can't be written the one that is here."""
    from gdexp.tracking.store import Unwritable, database, ensure, store_uri

    if (db := database(run.uri)) is None:
        return run.uri
    try:
        ensure(db)
    except Unwritable as error:
        here = store_uri("sqlite:///mlflow.db")
        if here == run.uri:
            raise Refusal(f"{error}; cd to a folder that can: the new run is recorded there") from error
        say(f"{db} can't be written: the new run is recorded in {database(here)}")
        return here
    return run.uri


class _Only:
    """The record of one of several runs; the others are there for its bits only."""

    folders: Sequence[Path] = ()

    def __init__(self, record: "Record", runs: int, place: int) -> None:
        self._record, self._place = record, place
        self.run_ids, self.statuses, self.uri = record.run_ids * runs, record.statuses * runs, record.uri

    @property
    def lost(self) -> dict[int, str]:
        return {run: line for line in self._record.lost.values() for run in range(len(self.run_ids))}

    def add(self, step: int, metrics: Mapping[str, float], run: int = 0) -> None:
        if run == self._place:
            self._record.add(step, metrics)

    def finish(
        self,
        outcome: str,
        files: "Mapping[str, Mapping[str, Tensor]]",
        tags: Mapping[str, object] | None = None,
        run: int = 0,
    ) -> None:
        if run == self._place:
            self._record.finish(outcome, files, tags)

    def add_texts(self, texts: "Mapping[str, str]") -> None:
        self._record.add_texts(texts)

    def keep(self, weights: Any) -> None:
        self._record.keep(lambda run: weights(self._place))

    def flush(self) -> Sequence[str]:
        return self._record.flush()

    def withdraw(self) -> None:
        self._record.withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def _verify(old: Recorded, new: Recorded, changed: Sequence[str], around: Sequence[str]) -> int:
    """Say whether two runs are the same; return the exit code.

    Args:
        old: as recorded.
        new: trained again.
        changed: what would make it another run: data, code, versions.
        around: in what the machine differs, which the bits may show.
    """
    losses = len(old.metrics.get("train_loss", []))
    tensors = sum(map(len, new.weights.values()))
    found = list(_differing(old, new))
    if not found:
        said = f"identical: {losses} losses, {tensors} tensors, 0 bits differ"
        say(f"{said}, though not all is as it was: {'; '.join(changed)}" if changed else said)
        return 1 if changed else 0
    causes = [*changed, *around] or ["nothing that is recorded; a calculation that isn't deterministic?"]
    if STACKED.fullmatch(old.tags.get(TRAINED_AS, "")) and not [*changed, *around]:
        if _is_close(old, new):
            say(
                f"the same to rounding: the numbers of the first {_FIRST} epochs to {_AT_FIRST:g}, those of all epochs "
                f"and {tensors} tensors to {_IN_THE_END:g}; a stack with other neighbours may round differently"
            )
            return 3
        causes.append("a stack with other neighbours, which rounds differently, and training that amplifies it?")
    for line in found[:2]:
        say(f"differs: {line}")
    say("likely cause: " + "; ".join(causes))
    return 1


def _differing(old: Recorded, new: Recorded) -> Iterator[str]:
    """Yield the first number and the first tensor in which two runs differ, of what gdexp wrote: the new run has it."""
    yield from islice(_numbers(old, new), 1)
    yield from islice(_tensors(old, new), 1)


def _numbers(old: Recorded, new: Recorded) -> Iterator[str]:
    before, after = ({key: dict(points) for key, points in _curves(run).items()} for run in (old, new))
    for step in sorted({step for curve in after.values() for step in curve} | set(before.get("train_loss", {}))):
        for key, curve in after.items():
            then, now = before.get(key, {}).get(step), curve.get(step)
            if repr(then) != repr(now):  # 0.0 and -0.0 have other bits
                yield f"{key} at epoch {step}: {then!r} then, {now!r} now"


def _tensors(old: Recorded, new: Recorded) -> Iterator[str]:
    import torch

    for file, tensors in new.weights.items():
        before = old.weights.get(file, {})
        for name in {**tensors, **before}:
            then, now = before.get(name), tensors.get(name)
            if then is None or now is None or then.shape != now.shape or then.dtype != now.dtype:
                yield f"{name} in {file} is missing or has another shape"
            elif (place := _other_bits(then, now)) is not None:
                index = [int(i) for i in torch.unravel_index(torch.tensor(place), then.shape)]
                was, isnt = (t.flatten()[place].item() for t in (then, now))
                yield f"{name}{index} in {file}: {was!r} then, {isnt!r} now"


def _other_bits(then: "Tensor", now: "Tensor") -> int | None:
    """Return the place of the first number with other bits."""
    import torch

    pair = [t.contiguous().flatten().view(torch.uint8) for t in (then, now)]
    places = (pair[0] != pair[1]).nonzero()
    return int(places[0]) // then.element_size() if len(places) else None


def _curves(run: Recorded) -> dict[str, list[tuple[int, float]]]:
    return {k: v for k, v in run.metrics.items() if k not in _OF_TIME}


def _is_close(old: Recorded, new: Recorded) -> bool:
    """Say whether two runs differ by rounding only: at once by little, and in the end by what becomes of that."""
    before, after = ({key: dict(points) for key, points in _curves(run).items()} for run in (old, new))
    for key, curve in after.items():
        then = before.get(key, {})
        if key != "train_loss" and not then.keys() >= curve.keys():
            return False
        if key == "train_loss" and then.keys() != curve.keys():
            return False
        for step, now in curve.items():
            share = _AT_FIRST if step <= _FIRST else _IN_THE_END
            if not math.isclose(now, then[step], rel_tol=share, abs_tol=1e-6 * share):
                return False
    return all(_are_close(old.weights.get(file, {}), tensors) for file, tensors in new.weights.items())


def _are_close(then: "Mapping[str, Tensor]", now: "Mapping[str, Tensor]") -> bool:
    """Say whether no number is farther from what it was than a share of the largest one of its tensor."""
    if then.keys() != now.keys() or any(then[name].shape != now[name].shape for name in now):
        return False
    pairs = [(then[name].double(), now[name].double()) for name in now if now[name].numel()]
    return all(bool((a - b).abs().max() <= _IN_THE_END * a.abs().max()) for a, b in pairs)


if __name__ == "__main__":
    main()
