"""Tables of runs: a row a run, or a row a number."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gdexp.config import direction
from gdexp.config.refusal import Refusal, nearest
from gdexp.tracking.frame import columns, frame
from gdexp.tracking.places import RUN_ID as RUN_ID
from gdexp.tracking.reader import Reader, Row, Which, reading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from gdexp.tracking.reader import Curves

_MEASURED = re.compile(r"(train|val)_(?!.*_step$)")  # metrics that have a best value


def runs(what: str | None = None, *, uri: str | None = None, curves: bool = False) -> "pd.DataFrame":
    """Read the runs of a store, the newest first.

    Args:
        what: name of an MLflow experiment or id of a sweep; None: all of the store.
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.
        curves: the long form, one row a number.

    Returns:
        one row a run: run_id, name, status, outcome, params, the final and, as `best_train_loss`, the best metrics by
        their names, where it is known which way is better. Of the long form: run_id, name, key, step, value.

    Raises:
        ValueError: no such store, experiment or sweep.
    """
    with reading(uri) as reader:
        which = Which() if what is None else named(reader, what)
        rows = reader.rows(which)
        keys = sorted({key for row in rows for key in row.metrics})
        if curves:
            return _long(rows, reader.curves(keys))
        best = reader.extremes([key for key in keys if _MEASURED.match(key)])
    places = [i for i, row in enumerate(rows) if not row.is_summary]
    found = columns([rows[i] for i in places])
    for key, extremes in best.items():
        modes = {i: direction.recorded(key, rows[i].tags.get(direction.TAG)) for i in places if i in extremes}
        if any(modes.values()):
            found[f"best_{key}"] = [extremes[i][mode == "max"] if (mode := modes.get(i)) else None for i in places]
    return frame(found)


def named(reader: Reader, what: str) -> Which:
    """Return the runs of an experiment or a sweep.

    Raises:
        Refusal: there is none of that name.
    """
    experiments = reader.experiments()
    if what in experiments:
        return Which(experiment=what)
    if RUN_ID.fullmatch(what) and reader.rows(Which(sweep=what)):
        return Which(sweep=what)
    raise Refusal(f"no experiment or sweep {what!r} in {reader.uri}{nearest(what, experiments)}")


def _long(rows: Sequence[Row], curves: "Curves") -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    places = np.concatenate([np.empty(0, int), *(c[0] for c in curves.values())])
    steps = np.concatenate([np.empty(0, int), *(c[1] for c in curves.values())])
    values = np.concatenate([np.empty(0), *(c[2] for c in curves.values())])
    which = np.repeat(np.arange(len(curves)), [len(c[0]) for c in curves.values()])
    order = np.lexsort((steps, which, places))
    kept = order[~np.array([r.is_summary for r in rows], dtype=bool)[places[order]]]

    def labels(texts: list[str], at: "np.ndarray") -> pd.Categorical:
        codes, categories = pd.factorize(np.array(texts, dtype=object))
        return pd.Categorical.from_codes(codes[at], pd.Index(categories, dtype=object))

    return pd.DataFrame(
        {
            "run_id": labels([r.run_id for r in rows], places[kept]),
            "name": labels([r.name for r in rows], places[kept]),
            "key": labels(list(curves), which[kept]),
            "step": steps[kept],
            "value": values[kept],
        }
    )
