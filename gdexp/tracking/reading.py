"""A whole run read back from its record."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf

from gdexp.config.refusal import Refusal
from gdexp.tracking.sqlite import Tables
from gdexp.tracking.store import database, local_path, opened, store_uri
from gdexp.tracking.weights import load_weights

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("config.yaml", "environment.json")


class Recorded(NamedTuple):
    """What a run left behind."""

    run_id: str
    name: str
    status: str
    experiment: str
    uri: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]]  # step and value, in order
    data: str | None  # the first 32 digits of the SHA-256 of its data
    texts: dict[str, str]  # artifacts: config.yaml, environment.json, code/…, git.diff
    weights: "Mapping[str, Mapping[str, Tensor]]"  # by the name of the file

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, without where it was recorded; what came from the environment is read from there."""
        return OmegaConf.to_container(OmegaConf.create(self.texts["config.yaml"]), resolve=True)  # type: ignore[return-value]


def read(run_id: str, uri: str | None = None) -> Recorded:
    """Read a run.

    Args:
        run_id: of the MLflow run.
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.

    Raises:
        Refusal: there is no such run, or it lacks what gdexp records.
    """
    where = store_uri(uri)
    db = database(where)
    if db is not None and not db.is_file():
        raise Refusal(f"no store at {db}: name another by tracking.uri=…")
    if (tables := opened(db) if db is not None else None) is None:
        found = _by_client(run_id, where)
    else:
        try:
            found = _directly(tables, run_id, where)
        finally:
            tables.close()
    if "config.yaml" not in found.texts:
        raise Refusal(f"run {run_id} has no config.yaml: it isn't one of gdexp's")
    return found


def _directly(tables: Tables, run_id: str, uri: str) -> Recorded:
    rows = tables.select(
        "SELECT r.name, r.status, e.name, r.artifact_uri, e.artifact_location FROM runs r"
        " JOIN experiments e USING (experiment_id)"
        " WHERE run_uuid=? AND r.lifecycle_stage='active'",
        run_id,
    )
    if not rows:
        raise Refusal(f"no run {run_id} in {tables.path}")
    [(name, status, experiment, artifacts, location)] = rows
    metrics: dict[str, list[tuple[int, float]]] = {}
    for key, step, value in tables.select(
        "SELECT key, step, value FROM metrics WHERE run_uuid=? ORDER BY key, step, timestamp", run_id
    ):
        metrics.setdefault(key, []).append((step, value))
    digests = tables.select(
        "SELECT d.digest FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id WHERE i.destination_id=?", run_id
    )
    params, tags = (
        dict(tables.select(f"SELECT key, value FROM {table} WHERE run_uuid=?", run_id)) for table in ("params", "tags")
    )
    folder, home = local_path(artifacts), local_path(location)
    if folder is not None and (home is None or not folder.resolve().is_relative_to(home.resolve())):
        raise Refusal(f"run {run_id}: its artifacts lie outside of its experiment's folder")
    files = _artifacts(folder) if folder is not None and folder.is_dir() else ({}, {})
    data = digests[0][0] if digests else None
    return Recorded(run_id, name, status, experiment, uri, params, tags, metrics, data, *files)


def _by_client(run_id: str, uri: str) -> Recorded:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise Refusal(f"no run {run_id}: {str(error).splitlines()[0]}") from error
    info, data = run.info, run.data
    history = {k: sorted((m.step, m.value) for m in client.get_metric_history(run_id, k)) for k in data.metrics}
    digest = next((i.dataset.digest for i in (run.inputs.dataset_inputs if run.inputs else [])), None)
    experiment = client.get_experiment(info.experiment_id).name
    with tempfile.TemporaryDirectory(prefix="gdexp-") as folder:
        try:
            client.download_artifacts(run_id, "", folder)
        except (MlflowException, OSError) as error:
            raise Refusal(f"run {run_id}: its artifacts can't be read: {str(error).splitlines()[0]}") from error
        texts, weights = _artifacts(Path(folder))
    own = dict(data.params), dict(data.tags)
    return Recorded(run_id, info.run_name, info.status, experiment, uri, *own, history, digest, texts, weights)


def _artifacts(folder: Path) -> tuple[dict[str, str], dict[str, "Mapping[str, Tensor]"]]:
    """Return the texts and the weights in a folder of artifacts."""
    paths = [folder / name for name in (*_FILES, "git.diff")] + sorted(folder.glob("code/**/*.py"))
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Refusal(f"the artifact {path.relative_to(folder)} leads out of its folder")
    texts = {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in paths if p.is_file()}
    return texts, {p.name: load_weights(p) for p in sorted(folder.glob("*.safetensors"))}
