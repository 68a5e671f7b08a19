"""Which jobs a store has finished runs of."""

from gdexp.tracking.frame import Result
from gdexp.tracking.sqlite import Tables
from gdexp.tracking.store import database, opened

_JOB = "gdexp.job"


def finished(uri: str, experiment: str, direct: bool) -> dict[str, list[Result]]:
    """Return the finished runs of sweeps in an experiment, by the key of their job.

    Args:
        uri: of the store.
        experiment: its name.
        direct: whether a SQLite store may be read directly.
    """
    db = database(uri)
    if db is not None and not db.exists():
        return {}
    tables = opened(db) if direct and db is not None else None
    if tables is None:
        return _by_client(uri, experiment)
    try:
        return _directly(tables, uri, experiment)
    finally:
        tables.close()


def _directly(tables: Tables, uri: str, experiment: str) -> dict[str, list[Result]]:
    runs = (
        "SELECT t.value, r.run_uuid, r.name FROM tags t JOIN runs r USING (run_uuid)"
        " JOIN experiments e USING (experiment_id)"
        f" WHERE t.key='{_JOB}' AND r.status='FINISHED' AND r.lifecycle_stage='active' AND e.name=?"
        " ORDER BY r.start_time"
    )
    keys = tables.select(runs, experiment)
    if not keys:
        return {}
    own = f"run_uuid IN (SELECT run_uuid FROM tags WHERE key='{_JOB}')"
    params: dict[str, dict[str, str]] = {}
    for run_id, key, value in tables.select(f"SELECT run_uuid, key, value FROM params WHERE {own}"):
        params.setdefault(run_id, {})[key] = value
    metrics: dict[str, dict[str, float]] = {}
    for run_id, key, value in tables.select(f"SELECT run_uuid, key, value FROM latest_metrics WHERE {own}"):
        metrics.setdefault(run_id, {})[key] = value
    outcomes, sweeps = (
        dict(tables.select(f"SELECT run_uuid, value FROM tags WHERE key='gdexp.{tag}' AND {own}"))
        for tag in ("outcome", "sweep")
    )
    found: dict[str, list[Result]] = {}
    for key, run_id, name in keys:
        about = params.get(run_id, {}), metrics.get(run_id, {})
        result = Result(run_id, name, "FINISHED", outcomes.get(run_id, ""), *about, uri, sweep=sweeps.get(run_id))
        found.setdefault(key, []).append(result)
    return found


def _by_client(uri: str, experiment: str) -> dict[str, list[Result]]:
    from mlflow.tracking import MlflowClient

    from gdexp.tracking.client import Unreachable, answers

    try:
        answers(uri)
    except Unreachable:
        return {}
    client = MlflowClient(uri)
    there = client.get_experiment_by_name(experiment)
    found: dict[str, list[Result]] = {}
    token: str | None = None
    while there is not None:
        page = client.search_runs(
            [there.experiment_id], "attributes.status = 'FINISHED'", max_results=1000, page_token=token
        )
        for run in page:
            info, data = run.info, run.data
            if (key := data.tags.get(_JOB)) is not None:
                about = data.tags.get("gdexp.outcome", ""), data.params, data.metrics
                sweep = data.tags.get("gdexp.sweep")
                result = Result(info.run_id, info.run_name, "FINISHED", *about, uri, sweep=sweep)
                found.setdefault(key, []).append(result)
        if not (token := page.token):
            break
    return found
