"""The experiment that the environment names, by MLflow's variables."""

import os

from gdexp.config.refusal import Refusal
from gdexp.tracking.address import Unreachable, answers, database, store_uri, without_password


def of_environment(uri: str | None) -> str | None:
    """Return the name of the experiment of MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, None if there is neither.

    Args:
        uri: of the store that the id is from, as a config has it.

    Raises:
        Refusal: there is no experiment of that id, or the two differ.
    """
    name, number = (os.environ.get(f"MLFLOW_EXPERIMENT_{what}") or None for what in ("NAME", "ID"))
    if number is None:
        return name
    uri = store_uri(uri)
    try:
        found = _name(uri, number)
    except Unreachable:  # the run will be kept elsewhere
        return name
    if found is None:
        cure = "unset it, or name the experiment by tracking.experiment=…"
        raise Refusal(f"MLFLOW_EXPERIMENT_ID: there is no experiment {number} in {without_password(uri)}: {cure}")
    if name not in (None, found):
        raise Refusal(f"MLFLOW_EXPERIMENT_ID={number} is {found!r}, but MLFLOW_EXPERIMENT_NAME is {name!r}: unset one")
    return found


def _name(uri: str, number: str) -> str | None:
    """Return the name of an experiment in a store, None if there is none of that id."""
    from gdexp.tracking.client import is_sick
    from gdexp.tracking.snapshot import readable
    from gdexp.tracking.store import is_there

    if (db := database(uri)) is not None:
        if not is_there(db):
            return None
        with readable(db) as tables:
            if tables is not None:
                rows = tables.select("SELECT name FROM experiments WHERE CAST(experiment_id AS TEXT)=?", number)
                return rows[0][0] if rows else None
    answers(uri)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return MlflowClient(uri).get_experiment(number).name
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        if is_sick(uri, error):
            raise Unreachable(str(error)) from error
        raise Refusal(f"`tracking.uri`: {without_password(uri)}: {str(error).splitlines()[0]}") from error
