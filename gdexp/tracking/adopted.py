"""A run that somebody else has made, and that a command's record goes into: `mlflow run` names it in MLFLOW_RUN_ID."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from gdexp.config.refusal import Refusal
from gdexp.tracking.places import RUN_ID

_VARIABLE = "MLFLOW_RUN_ID"
_OPEN = ("RUNNING", "SCHEDULED")


class Adopted(NamedTuple):
    """A run to be adopted.

    Args:
        run_id: of the run.
        experiment: that the user names for it, if they do.
    """

    run_id: str
    experiment: str | None

    @classmethod
    def of_environment(cls, config: Mapping[str, Any]) -> Self | None:
        """Return the run that the environment names, once, as MLflow itself does.

        Args:
            config: the `tracking` node.

        Raises:
            Refusal: what stands there is no id.
        """
        run_id = os.environ.pop(_VARIABLE, None)
        if not run_id:
            return None
        if not RUN_ID.fullmatch(run_id):
            raise Refusal(f"{_VARIABLE} must be the id of a run, 32 hexadecimal digits, got {run_id!r}")
        return cls(run_id, config["experiment"])

    def missing(self, where: object) -> Refusal:
        """Return what is said where a store hasn't got the run.

        Args:
            where: the store.
        """
        return Refusal(f"{_VARIABLE}: there is no run {self.run_id} in {where}: {self._cure()}")

    def check(self, status: str, stage: str, experiment: str, tags: Mapping[str, str]) -> None:
        """Refuse a run that no record can go into.

        Args:
            status: of the run.
            stage: whether it is active or deleted.
            experiment: its name.
            tags: of the run.
        """
        wrong = None
        if stage != "active":
            wrong = "was deleted"
        elif status not in _OPEN:
            wrong = f"is {status}"
        elif "gdexp.version" in tags:
            wrong = "has a record of gdexp's already"
        elif self.experiment not in (None, experiment):
            wrong = f"is in the experiment {experiment!r}, not in {self.experiment!r} as `tracking.experiment` says"
        if wrong:
            raise Refusal(f"{_VARIABLE}: run {self.run_id} {wrong}: {self._cure()}")

    def _cure(self) -> str:
        return f"unset {_VARIABLE} and a new run is made"
