"""Which runs are compared, and by what number."""

from collections.abc import Sequence
from typing import NamedTuple

from gdexp.config import direction, variables
from gdexp.config.refusal import Refusal, nearest
from gdexp.tracking import view
from gdexp.tracking.reader import Reader, Row, Which
from gdexp.tracking.table import RUN_ID
from gdexp.tracking.varied import varied

_STORE = "tracking.uri="
_OPERATORS = ("=", "<", ">", " like ", " in ", " is ")


class Selection(NamedTuple):
    """Runs to be compared, the newest first.

    Args:
        title: what they are.
        uri: of the store.
        rows: of runs that gdexp trained.
        places: of these in what the reader has read.
        objective: the metric that they are ordered by.
        at: its `last` value or its `best`.
        mode: whether its `min` or its `max` is best.
        values: of the objective, by run id.
        params: in which they differ.
        summary: the run that stands for their sweep.
        sweep: its id, if they are one.
        foreign: runs that aren't gdexp's and are left out.
        filter: finds them in MLflow's UI.
    """

    title: str
    uri: str
    rows: list[Row]
    places: list[int]
    objective: str
    at: str
    mode: str
    values: dict[str, float]
    params: list[str]
    summary: Row | None
    sweep: str | None
    experiment: str | None
    foreign: int
    filter: str

    @property
    def least(self) -> bool:
        """Whether the least value of the objective is best."""
        return self.mode == "min"


def split_words(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return what a command line names, and its `tracking.uri`."""
    uris = [word.removeprefix(_STORE) for word in words if word.startswith(_STORE)]
    return [word for word in words if not word.startswith(_STORE)], uris[-1] if uris else None


def select(
    reader: Reader,
    what: Sequence[str],
    objective: str | None = None,
    mode: str | None = None,
    default: str | None = None,
) -> Selection:
    """Find the runs that a command line names.

    Args:
        reader: of the store.
        what: an id of a sweep, a name of an experiment, a filter or ids of runs; nothing: the newest sweep.
        objective: a metric; None: the one of the sweep, else val_loss, else train_loss.
        mode: whether its `min` or its `max` is best; None: what the runs say.
        default: likewise, where they say nothing; None: such an objective is refused.

    Raises:
        Refusal: there are none.
    """
    title, which, clause = _which(reader, list(what))
    sweep = which.sweep
    read = reader.rows(which)
    if sweep and (also := _also(read)):
        which = which._replace(sweep=None, run_ids=[*(row.run_id for row in read), *also])
        read, clause = reader.rows(which), view.of_runs(which.run_ids or ()) or clause
    own = [(i, row) for i, row in enumerate(read) if "gdexp.version" in row.tags]
    summary = next((row for _, row in own if row.is_summary and sweep), None)
    kept = [(i, row) for i, row in own if not row.is_summary]
    foreign = len(read) - len(own)
    if not kept:
        others = f"; {foreign} there are not gdexp's" if foreign else ""
        raise Refusal(f"{title}: no runs to compare{others}")
    rows = _told_apart([row for _, row in kept])
    kept = [(i, row) for (i, _), row in zip(kept, rows, strict=True)]
    metric, at = _objective(rows, summary, objective)
    values = {row.run_id: row.metrics[metric] for row in rows if metric in row.metrics}
    mode = mode or _mode(metric, rows, summary) or default
    if mode is None:
        raise Refusal(f"nothing says whether more or less of {metric!r} is better: add --mode min or --mode max")
    if at == "best":
        extremes = reader.extremes([metric])[metric]
        values |= {row.run_id: extremes[i][mode == "max"] for i, row in kept if i in extremes}
    params = varied([row.params for row in rows])
    places = [i for i, _ in kept]
    named = summary, sweep, which.experiment
    return Selection(title, reader.uri, rows, places, metric, at, mode, values, params, *named, foreign, clause)


def _which(reader: Reader, what: list[str]) -> tuple[str, Which, str]:
    """Return what is named in words, for the reader, and for MLflow's UI."""
    experiments = reader.experiments()
    if not what:
        if (sweep := reader.newest_sweep()) is not None:
            return _sweep(sweep)
        newest = next((row for row in reader.rows() if "gdexp.version" in row.tags), None)
        if newest is None:
            raise Refusal(f"no runs of gdexp's in {reader.uri}: run something first")
        what = [newest.experiment]
    if len(what) == 1 and what[0] in experiments:
        return f"experiment {what[0]}", Which(experiment=what[0]), view.TRAINED
    if all(RUN_ID.fullmatch(word) for word in what):
        if len(what) == 1 and reader.rows(Which(sweep=what[0])):
            return _sweep(what[0])
        found = {row.run_id for row in reader.rows(Which(run_ids=what))}
        if missing := [run_id for run_id in what if run_id not in found]:
            raise Refusal(f"no run or sweep {missing[0]} in {reader.uri}")
        several = f"{len(found)} runs" if len(found) > 1 else f"run {what[0]}"
        return several, Which(run_ids=what), view.of_runs(what) or view.TRAINED
    if len(what) > 1:
        raise Refusal(f"{' '.join(what)}: name one sweep, experiment or filter, or several ids of runs")
    [word] = what
    if any(operator in word.lower() for operator in _OPERATORS):
        if not (ids := reader.search(word)):
            raise Refusal(f"no run fits the filter {word}")
        return word, Which(run_ids=ids), word
    deleted = " (it was deleted)" if word in reader.experiments(deleted=True) else nearest(word, experiments)
    raise Refusal(f"no sweep, experiment or run {word!r} in {reader.uri}{deleted}")


def _sweep(sweep: str) -> tuple[str, Which, str]:
    return f"sweep {sweep}", Which(sweep=sweep), view.of_sweep(sweep)


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose params tell apart what came from the environment, where that isn't the same in all."""
    read = []
    for row in rows:
        try:
            read.append(variables.read(row.tags.get(variables.TAG)))
        except (ValueError, RecursionError):
            read.append(("", {}))
    if len({key for key, digests in read if digests}) != 1:  # without a common key they can't be told apart
        return list(rows)
    names = dict.fromkeys(name for _, digests in read for name in digests)
    varied = [name for name in names if len({digests.get(name) for _, digests in read}) > 1]
    found = []
    for row, (_, digests) in zip(rows, read, strict=True):
        own = {name.partition("[")[0]: digests[name] for name in varied if name in digests}
        marked = {key: f"{row.params[key]} #{digest[:6]}" for key, digest in own.items() if key in row.params}
        found.append(row._replace(params=row.params | marked) if marked else row)
    return found


def _also(rows: Sequence[Row]) -> list[str]:
    """Return the ids of runs of a sweep that were done before it."""
    tags = [value for row in rows if row.is_summary for key, value in row.tags.items() if key.startswith("gdexp.also.")]
    return [run_id for value in tags for run_id in value.split()]


def _mode(metric: str, rows: Sequence[Row], summary: Row | None) -> str | None:
    """Return which way a metric is better, as sweep and runs have recorded it; None: they don't say, or differ."""
    of_sweep = summary.tags if summary is not None else {}
    if metric == of_sweep.get("gdexp.objective") and "gdexp.objective_mode" in of_sweep:
        return of_sweep["gdexp.objective_mode"]
    said = {direction.recorded(metric, text) for text in {row.tags.get(direction.TAG) for row in rows}} - {None}
    return said.pop() if len(said) == 1 else None


def _objective(rows: Sequence[Row], summary: Row | None, asked: str | None) -> tuple[str, str]:
    known = dict.fromkeys(key for row in rows for key in row.metrics)
    at = summary.tags.get("gdexp.objective_at", "last") if summary else "last"
    if asked is not None:
        if asked not in known:
            raise Refusal(f"`--objective`: no run has {asked!r}{nearest(asked, known)}")
        return asked, at
    recorded = summary.tags.get("gdexp.objective") if summary else None
    return next((key for key in (recorded, "val_loss") if key in known), "train_loss") or "train_loss", at
