"""Which jobs a store has finished runs of."""

from collections.abc import Sequence

from gdexp.config.refusal import Refusal
from gdexp.tracking.frame import Result
from gdexp.tracking.reader import Which, reading
from gdexp.tracking.store import database, is_there


def finished(uri: str, experiment: str, *, direct: bool, extremes: Sequence[str] = ()) -> dict[str, list[Result]]:
    """Return the finished runs of sweeps in an experiment, by the key of their job, the oldest first.

    Args:
        uri: of the store.
        experiment: its name.
        direct: whether a SQLite store may be read directly.
        extremes: metrics of which the smallest and the largest value are wanted.
    """
    db = database(uri)
    if db is not None and not is_there(db):
        return {}
    try:
        with reading(uri, direct=direct) as reader:
            rows = reader.rows(Which(experiment=experiment, jobs=True))
            ranges = reader.extremes(extremes) if extremes else {}
    except Refusal:  # nothing answers there: the runs will be kept elsewhere
        return {}
    found: dict[str, list[Result]] = {}
    for i, row in reversed(list(enumerate(rows))):
        about = row.run_id, row.name, row.status, row.outcome or "", row.params, row.metrics
        own = {key: of_runs[i] for key, of_runs in ranges.items() if i in of_runs}
        result = Result(*about, uri, sweep=row.tags.get("gdexp.sweep"), extremes=own)
        found.setdefault(row.tags["gdexp.job"], []).append(result)
    return found
