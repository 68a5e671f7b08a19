"""Views of MLflow's UI that already compare: columns, order and charts, kept as a tag of the experiment.

What is relied on, which MLflow doesn't document and `tests/test_ui.py` asserts in a browser:

- an address with `viewStateShareKey=KEY` opens the view in the experiment's tag `mlflow.sharedViewState.KEY`,
- which is "deflate;" and base64 of zlib of the JSON of the page's state.

A view that isn't understood, or can't be written, leaves the plain page; it never costs a run anything.
"""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gdexp.config.refusal import Refusal
from gdexp.tracking.address import without_password
from gdexp.tracking.sqlite import Tables
from gdexp.tracking.store import database, is_known

CHARTS, TABLE = "compareRunsMode=CHART", "compareRunsMode=TABLE"  # how a page shows its runs
PORT = 5000  # MLflow's own
_WAIT_SECONDS = 2.0  # for another writer: what is shown after a run doesn't hold it up
_TAG = "mlflow.sharedViewState."
_LONGEST = 20_000  # characters of an experiment's tag
TRAINED = "tags.\"gdexp.trained_as\" LIKE '%'"  # which summaries of sweeps lack
_AXES = 6  # of the parallel coordinates
_NAMED = 300  # runs in a filter
_MANY = 1000  # runs in a chart


def share(
    uri: str, run_id: str, sweep: str, objective: str, least: bool, params: Sequence[str], run_ids: Sequence[str] = ()
) -> None:
    """Write the views of a sweep and of its experiment.

    Args:
        uri: of the store.
        run_id: of a run of the experiment.
        sweep: its id.
        objective: the metric that the runs are ordered by.
        least: whether its least value is best.
        params: in which the runs differ.
        run_ids: of all runs, where some are of a sweep before.
    """
    experiment_id, name, _ = experiment(uri, run_id)
    for key, runs in ((sweep, of_runs(run_ids) or of_sweep(sweep)), (experiment_key(name), TRAINED)):
        write(uri, experiment_id, key, state(objective, least, params, runs))


def write(uri: str, experiment_id: str, key: str, view: Mapping[str, Any]) -> bool:
    """Write a view, and say whether that could be; with GDEXP_PLAIN=1 nothing is written."""
    packed = base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
    if os.environ.get("GDEXP_PLAIN") == "1" or len(packed) > _LONGEST - 10:
        return False
    if (db := _directly(uri)) is not None:
        with closing(Tables(db, _WAIT_SECONDS)) as tables, tables.transaction():
            sql = "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?,?,?)"
            tables.execute(sql, _TAG + key, f"deflate;{packed}", int(experiment_id))
        return True
    from mlflow.tracking import MlflowClient

    MlflowClient(uri).set_experiment_tag(experiment_id, _TAG + key, f"deflate;{packed}")
    return True


def of_sweep(sweep: str) -> str:
    """Return MLflow's filter for the runs of a sweep, without its summary."""
    return f"tags.\"gdexp.sweep\" = '{sweep}' AND {TRAINED}"


def of_runs(run_ids: Sequence[str]) -> str | None:
    """Return MLflow's filter for some runs; None where there are none, or too many to be named."""
    if not 0 < len(run_ids) <= _NAMED:
        return None
    return f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in run_ids)})"


def experiment_key(name: str) -> str:
    """Return the key of an experiment's view."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def address(uri: str, run_id: str, key: str | None = None) -> str:
    """Return the address of a view, or of a run where no view is named.

    Args:
        uri: of the store.
        run_id: of the run, or of one that the view is of.
        key: of the view.
    """
    remote = uri.startswith("http")
    base = without_password(uri).rstrip("/") if remote else f"http://127.0.0.1:{PORT}"
    if not remote and database(uri) is None:
        return base  # a database's server isn't asked again for a line
    try:
        experiment_id, _, keys = experiment(uri, run_id)
    except Exception:  # a store that is gone by now is no harm to a run that has ended
        return base
    return base + (
        path_of_run(experiment_id, run_id) if key is None else path(experiment_id, key if key in keys else "")
    )


def path(experiment_id: str, key: str) -> str:
    """Return where in the UI a view is; without a key the plain page."""
    view = f"&viewStateShareKey={quote(key)}" if key else ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&{CHARTS}{view}"


def path_of_run(experiment_id: str, run_id: str) -> str:
    """Return where in the UI a run is."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def state(objective: str, least: bool, params: Sequence[str], runs: str) -> dict[str, Any]:
    """Return the state of the page that lists runs.

    Args:
        objective: metric.
        least: whether its least value is best.
        params: in which the runs differ.
        runs: which they are, as MLflow's search filter.
    """
    numbers = [p for p in params if p != "seed"] or list(params)
    lines = [objective, *(m for m in ("train_loss", "val_loss") if m != objective)]
    section = "gdexp"
    charts: list[dict[str, Any]] = [_line(metric, section) for metric in lines]
    axes = {"selectedParams": list(params)[:_AXES], "selectedMetrics": [objective]}
    charts.append({**_card("parallel", "PARALLEL", section), **axes, "showAllRuns": True})
    charts += [
        {
            **_card(f"scatter-{param}", "SCATTER", section),
            "xaxis": {"key": param, "type": "PARAM"},
            "yaxis": {"key": objective, "type": "METRIC"},
        }
        for param in numbers[:2]
    ]
    columns = [f"metrics.`{m}`" for m in lines] + [f"params.`{p}`" for p in params] + ["tags.`gdexp.outcome`"]
    return {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": least,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "runsHidden": [],
        "runsPinned": [],
        "runsExpanded": {},
        "runsVisibilityMap": {},
        "compareRunCharts": charts,
        "compareRunSections": [_section(section, "Comparison")],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _line(metric: str, section: str) -> dict[str, Any]:
    scale = "log" if metric.endswith("loss") else "linear"
    return _card(f"line-{metric}", "LINE", section) | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "scaleType": scale,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "lineSmoothness": 0,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }


def _card(name: str, kind: str, section: str) -> dict[str, Any]:
    about = {"uuid": f"gdexp-{name}", "type": kind, "metricSectionId": section}
    return {**about, "runsCountToCompare": _MANY, "deleted": False, "isGenerated": False}


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}


def _directly(uri: str) -> Path | None:
    """Return the file of a store whose tables are known."""
    db = database(uri)
    return db if db is not None and is_known(db) else None


def experiment(uri: str, run_id: str) -> tuple[str, str, set[str]]:
    """Return id and name of the experiment of a run, and the keys of its views."""
    if (db := _directly(uri)) is not None:
        with closing(Tables(db, _WAIT_SECONDS)) as tables:
            sql = "SELECT experiment_id, name FROM experiments JOIN (SELECT experiment_id FROM runs WHERE run_uuid=?)"
            found = tables.select(f"{sql} USING (experiment_id)", run_id)
            if not found:
                raise Refusal(f"no run {run_id} in {uri}")
            tags = tables.select("SELECT key FROM experiment_tags WHERE experiment_id=?", found[0][0])
        return str(found[0][0]), found[0][1], _keys(key for (key,) in tags)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    try:
        own = client.get_experiment(client.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        raise Refusal(str(error).splitlines()[0]) from error
    return own.experiment_id, own.name, _keys(own.tags)


def _keys(tags: Iterable[str]) -> set[str]:
    return {tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)}
