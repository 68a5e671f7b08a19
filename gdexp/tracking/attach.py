"""Files put on a run that has ended."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from gdexp.config.refusal import Refusal
from gdexp.tracking import places
from gdexp.tracking.store import database, opened


def attach(uri: str, run_id: str, files: Mapping[str, bytes]) -> None:
    """Add artifacts to a run; those of the same name are replaced.

    Args:
        uri: of the store.
        run_id: of the run.
        files: by their path among the artifacts.

    Raises:
        Refusal: there is no such run, or its artifacts can't be written.
    """
    db = database(uri)
    if db is not None and (tables := opened(db)) is not None:
        try:
            found = tables.select("SELECT artifact_uri FROM runs WHERE run_uuid=?", run_id)
        finally:
            tables.close()
        if found and (folder := places.folder(db, str(found[0][0]), run_id)) is not None:
            _write(folder, files)
            return
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    with tempfile.TemporaryDirectory(prefix="gdexp-") as scratch:
        _write(Path(scratch), files)
        try:
            if db is not None:  # or refuse it
                places.folder(db, client.get_run(run_id).info.artifact_uri, run_id)
            client.log_artifacts(run_id, scratch)
        except MlflowException as error:
            raise Refusal(f"run {run_id}: {str(error).splitlines()[0]}") from error


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        places.write(folder, name, content)
