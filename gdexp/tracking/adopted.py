"""A run that somebody else has made, and that a command's record goes into: `mlflow run` names it in MLFLOW_RUN_ID."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gdexp.config.refusal import Refusal
from gdexp.tracking import endings, places
from gdexp.tracking.places import RUN_ID
from gdexp.tracking.sqlite import Number, Tables

if TYPE_CHECKING:
    from gdexp.tracking.whole import Begun

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


class Adoption:
    """A run of a SQLite store that is adopted, and what it was before, for it may be given back.

    Args:
        tables: of the store, in a transaction.
        run: which is adopted.

    Raises:
        Refusal: no record can go into it.
    """

    def __init__(self, tables: Tables, run: Adopted) -> None:
        sql = (
            "SELECT artifact_uri, status, r.lifecycle_stage, experiment_id, e.name"
            " FROM runs r JOIN experiments e USING (experiment_id) WHERE run_uuid=?"
        )
        if not (rows := tables.select(sql, run.run_id)):
            raise run.missing(tables.path)
        self.uri, self._status, stage, self._experiment, experiment = rows[0]
        self._id = run.run_id
        self._theirs = {table: self._named(tables, table) for table in ("params", "tags")}
        run.check(self._status, stage, experiment, self._theirs["tags"])
        self.folder = places.folder(tables.path, self.uri, self._id)
        self._ours: dict[str, Mapping[str, str]] = {}
        self._inputs: set[str] = set()
        self._files: dict[str, bytes] = {}  # that were there

    def begin(self, tables: Tables, begun: "Begun") -> None:
        """Add what a run begins with, within a transaction; what it has already stays."""
        assert self.folder is not None
        for path in places.files(self.folder):
            if (name := path.relative_to(self.folder).as_posix()) in begun.texts:
                self._files[name] = path.read_bytes()
        for name, text in begun.texts.items():
            places.write(self.folder, name, text.encode())
        signature = endings.signature()
        self._ours = {"params": begun.params, "tags": {**begun.tags, **signature, endings.HEARTBEAT: ""}}
        tables.add_params(self._id, begun.params)
        tables.add_tags(self._id, {**begun.tags, **self._theirs["tags"], **signature})
        tables.execute("UPDATE runs SET status='RUNNING' WHERE run_uuid=?", self._id)
        if begun.data is not None:
            before = self._edges(tables)
            tables.add_dataset([self._id], self._experiment, begun.data)
            self._inputs = self._edges(tables) - before

    def give_back(self, tables: Tables, numbers: Iterable[Number]) -> None:
        """Take back what was written, within a transaction; what others have written since stays.

        Args:
            tables: of the store.
            numbers: that were recorded.
        """
        for table, ours in self._ours.items():
            for key in ours.keys() - self._theirs[table].keys():
                tables.execute(f"DELETE FROM {table} WHERE run_uuid=? AND key=?", self._id, key)
        tags = self._theirs["tags"]
        tables.add_tags(self._id, {key: tags[key] for key in endings.signature() if key in tags})
        tables.remove_metrics(self._id, numbers)
        for edge in self._inputs:
            for table in ("input_tags", "inputs"):
                tables.execute(f"DELETE FROM {table} WHERE input_uuid=?", edge)
        tables.end(self._id, self._status, None)

    def clear(self, names: Iterable[str]) -> None:
        """Take back these artifacts, as far as they can be."""
        assert self.folder is not None
        for name in names:
            with suppress(OSError, Refusal):
                if name in self._files:
                    places.write(self.folder, name, self._files[name])
                    continue
                (path := self.folder / name).unlink(missing_ok=True)
                while path.parent != self.folder.parent:
                    (path := path.parent).rmdir()  # an empty one

    def _named(self, tables: Tables, table: str) -> dict[str, str]:
        return dict(tables.select(f"SELECT key, value FROM {table} WHERE run_uuid=?", self._id))

    def _edges(self, tables: Tables) -> set[str]:
        sql = "SELECT input_uuid FROM inputs WHERE destination_type='RUN' AND destination_id=?"
        return {edge for (edge,) in tables.select(sql, self._id)}
