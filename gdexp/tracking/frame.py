"""Runs as a data frame, one row each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from gdexp.tracking.reader import Row


class Result(NamedTuple):
    """What became of one run."""

    run_id: str | None
    name: str
    status: str
    outcome: str
    params: dict[str, str]
    metrics: dict[str, float]  # the last of each
    uri: str | None = None  # of the store that has it
    stacked: bool = False  # trained as one program with other runs
    sweep: str | None = None  # that it was trained for
    objective_name: str | None = None  # the metric that the runs of a sweep are ordered by,
    objective: float | None = None  # and its value,
    objective_mode: str = "min"  # of which more is better, max, or less
    error: Exception | None = None  # that ended it
    extremes: Mapping[str, tuple[float, float]] | None = None  # smallest and largest value, where asked for


def row(
    run_id: str | None,
    name: str,
    status: str,
    outcome: str | None,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
) -> dict[str, object]:
    """Return one run as a row; params that read as numbers become numbers."""
    head = {"run_id": run_id, "name": name, "status": status, "outcome": outcome}
    return {**head, **{k: _value(v) for k, v in params.items()}, **metrics}


def columns(runs: "Sequence[Row]") -> dict[str, list[object]]:
    """Return runs as the columns that `row` has, which is quicker for many."""
    found: dict[str, list[object]] = {
        "run_id": [r.run_id for r in runs],
        "name": [r.name for r in runs],
        "status": [r.status for r in runs],
        "outcome": [r.outcome for r in runs],
    }
    for key in dict.fromkeys(key for keys in {tuple(r.params): None for r in runs} for key in keys):
        texts = [r.params.get(key) for r in runs]
        read = {text: None if text is None else _value(text) for text in set(texts)}
        found[key] = [read[text] for text in texts]
    for key in dict.fromkeys(key for r in runs for key in r.metrics):
        found[key] = [r.metrics.get(key) for r in runs]
    return found


def frame(rows: "Iterable[Mapping[str, object]] | Mapping[str, list[object]]") -> "pd.DataFrame":
    """Return rows, or columns, as a data frame that has its leading columns even when it is empty."""
    import pandas as pd

    table = pd.DataFrame(rows if isinstance(rows, Mapping) else list(rows))
    return table if len(table) else pd.DataFrame(columns=["run_id", "name", "status", "outcome"])


def _value(text: str) -> object:
    """Return a param as what it was before it was written.

    >>> _value("0.01"), _value("100"), _value("true"), _value("null"), _value("relu")
    (0.01, 100, True, None, 'relu')
    """
    words = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
