"""A whole run read back from its record."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gdexp.config import text
from gdexp.config.refusal import Refusal
from gdexp.tracking import places
from gdexp.tracking.snapshot import by_client, readable
from gdexp.tracking.sqlite import Tables
from gdexp.tracking.store import database, store_uri

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("config.yaml", "environment.json", "git.diff", "code")
_LARGEST_CODE, _LARGEST_ALL = 8 << 20, 64 << 20  # bytes of one text beside the config, and of all


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
    held: int = 0  # bytes of its weights and checkpoints

    @property
    def config(self) -> dict[str, Any]:
        """The config without where it was recorded, as it stands in the record."""
        return text.from_yaml(self.texts["config.yaml"], f"run {self.run_id}: its config.yaml")


def read(run_id: str, uri: str | None = None, *, weights: str = "") -> Recorded:
    """Read a run.

    Args:
        run_id: of the MLflow run.
        uri: tracking URI; None: MLFLOW_TRACKING_URI, else `./mlflow.db`.
        weights: which files of weights are read too, as weights.safetensors or *.safetensors.

    Raises:
        Refusal: there is no such run, or it lacks what gdexp records.
    """
    where = store_uri(uri)
    db = database(where)
    with readable(db) if db is not None else nullcontext() as tables:
        if tables is not None:
            found = _directly(tables, run_id, where, weights)
        else:
            with by_client(where) as address:
                found = _by_client(run_id, where, address, weights)
    if "config.yaml" not in found.texts:
        raise Refusal(f"run {run_id} has no config.yaml: it isn't one of gdexp's")
    return found


def _directly(tables: Tables, run_id: str, uri: str, weights: str) -> Recorded:
    rows = tables.select(
        "SELECT r.name, r.status, e.name, r.artifact_uri FROM runs r JOIN experiments e USING (experiment_id)"
        " WHERE run_uuid=? AND r.lifecycle_stage='active'",
        run_id,
    )
    if not rows:
        raise Refusal(f"no run {run_id} in {tables.path}")
    name, status, experiment, artifacts = map(str, rows[0])
    metrics: dict[str, list[tuple[int, float]]] = {}
    numbers = "CAST(key AS TEXT), CAST(step AS INTEGER), CAST(value AS REAL)"  # whatever a file holds
    for key, step, value in tables.select(
        f"SELECT {numbers} FROM metrics WHERE run_uuid=? ORDER BY key, step, timestamp", run_id
    ):
        metrics.setdefault(key, []).append((step, value))
    digests = tables.select(
        "SELECT d.digest FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id WHERE i.destination_id=?", run_id
    )
    pairs = "SELECT CAST(key AS TEXT), CAST(value AS TEXT) FROM {} WHERE run_uuid=?"
    params, tags = (dict(tables.select(pairs.format(table), run_id)) for table in ("params", "tags"))
    folder = places.folder(tables.path, artifacts, run_id)
    files = _artifacts(folder, weights) if folder is not None else ({}, {}, 0)
    data = str(digests[0][0]) if digests else None
    return Recorded(run_id, name, status, experiment, uri, params, tags, metrics, data, *files)


def _by_client(run_id: str, uri: str, address: str, weights: str) -> Recorded:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise Refusal(f"no run {run_id}: {str(error).splitlines()[0]}") from error
    info, data = run.info, run.data
    history = {k: sorted((m.step, m.value) for m in client.get_metric_history(run_id, k)) for k in data.metrics}
    digest = next((i.dataset.digest for i in (run.inputs.dataset_inputs if run.inputs else [])), None)
    experiment = client.get_experiment(info.experiment_id).name
    db = database(uri)
    here = places.folder(db, info.artifact_uri, run_id) if db is not None else None
    with tempfile.TemporaryDirectory(prefix="gdexp-") as folder:
        try:
            for entry in client.list_artifacts(run_id) if here is None else ():
                if entry.path in _FILES or fnmatchcase(entry.path, weights):
                    client.download_artifacts(run_id, entry.path, folder)
        except (MlflowException, OSError) as error:
            raise Refusal(f"run {run_id}: its artifacts can't be read: {str(error).splitlines()[0]}") from error
        files = _artifacts(here or Path(folder), weights)
    params, tags = dict(data.params), dict(data.tags)
    return Recorded(run_id, info.run_name, info.status, experiment, uri, params, tags, history, digest, *files)


def _artifacts(folder: Path, weights: str) -> tuple[dict[str, str], dict[str, "Mapping[str, Tensor]"], int]:
    """Return the texts and some of the weights in a folder of artifacts, and the bytes of the largest of them all."""
    from gdexp.tracking.weights import load_weights

    paths = [folder / name for name in _FILES if os.path.lexists(folder / name) and name != "code"]
    paths += [path for path in places.files(folder / "code") if path.suffix == ".py"]
    if sum(path.lstat().st_size for path in paths) > _LARGEST_ALL:
        raise Refusal(f"{folder} is damaged: its texts are larger than {_LARGEST_ALL} bytes")
    largest = {"config.yaml": text.LARGEST}
    texts = {p.relative_to(folder).as_posix(): places.text(p, largest.get(p.name, _LARGEST_CODE)) for p in paths}
    chosen = [p for p in places.files(folder) if p.parent == folder and fnmatchcase(p.name, weights)]
    sizes = [path.lstat().st_size for path in places.files(folder) if path.suffix in (".safetensors", ".pt")]
    return texts, {p.name: load_weights(p) for p in chosen}, max(sizes, default=0)
