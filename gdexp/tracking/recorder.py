"""The record of one run in a SQLite store: numbers are flushed by a thread, so training never waits."""

import math
import re
import sqlite3
import sys
import threading
import time
import traceback as tracebacks
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from gdexp.config.refusal import Refusal
from gdexp.tracking import endings
from gdexp.tracking.sqlite import DatasetRow, Number, Run, Tables
from gdexp.tracking.store import fold_in, local_path

if TYPE_CHECKING:
    from torch import Tensor

FLUSH_SECONDS = 1.0
_HEARTBEAT_SECONDS = 60.0
_ILLEGAL = re.compile(r"[^\w\-. :/]")  # in the name of an MLflow metric


class ArtifactsElsewhere(Exception):
    """The artifacts of an experiment aren't on this machine's file system."""


class Begun:
    """All that is known of a run when it begins."""

    def __init__(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        texts: Mapping[str, str],
        data: tuple[str, str, str, str, str | None, str | None, str | None] | None,
    ) -> None:
        self.name, self.experiment, self.params = name, experiment, params
        self.tags, self.texts, self.data = {**tags, **endings.signature()}, texts, data and DatasetRow(*data)


class Recorder:
    """Writes one run.

    Args:
        tables: of the store, closed at the end.
        begun: the run.
        location: URI of the artifacts, should the experiment be new.
        run_id: None: a new one.

    Raises:
        Refusal: the run can't be begun in this store.
        ArtifactsElsewhere: the experiment's artifacts aren't on this machine.
    """

    def __init__(self, tables: Tables, begun: Begun, location: str) -> None:
        self.name, self.status = begun.name, "RUNNING"
        self.uri: str | None = f"sqlite:///{tables.path}"
        self.run_id: str | None = uuid4().hex
        self._id = self.run_id  # in these tables
        self._tables, self._lock = tables, threading.Lock()
        self._numbers: deque[Number] = deque()  # filled by one thread, emptied by another
        self._weights: Mapping[str, Tensor] = {}
        self._trouble = ""
        self._beat = time.monotonic()
        self._closing = threading.Event()
        self._begin(begun, location)
        self._thread = threading.Thread(target=self._keep_flushing, name="gdexp-record", daemon=True)
        self._thread.start()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the numbers of one epoch; those that aren't finite are left out."""
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            if math.isfinite(value):
                self._numbers.append(Number(key, value, now, step))

    def keep(self, weights: "Mapping[str, Tensor]") -> None:
        """Save these, as they are then, should the run be cut off."""
        self._weights = weights

    def finish(
        self, outcome: str, files: "Mapping[str, Mapping[str, Tensor]]", tags: Mapping[str, object] | None = None
    ) -> None:
        """Close the record of a run that came to its end, with its files NAME.safetensors."""
        self._close("FINISHED", {"gdexp.outcome": outcome, **(tags or {})}, files, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.status == "RUNNING":
            weights = {"weights": self._weights} if self._weights else {}
            failed = isinstance(error, Exception)
            texts = {"traceback.txt": "".join(tracebacks.format_exception(error))} if failed else {}
            try:
                self._close("FAILED" if failed else "KILLED", {}, weights, texts)
            except Refusal as lost:  # the error itself goes on
                print(f"gdexp: {lost}", file=sys.stderr)

    def _begin(self, begun: Begun, location: str) -> None:
        now = int(time.time() * 1000)
        with self._tables.transaction():
            experiment, location = self._tables.experiment(begun.experiment, location)
            uri = f"{location.rstrip('/')}/{self._id}/artifacts"
            if (place := local_path(uri)) is None:
                raise ArtifactsElsewhere(uri)
            user = begun.tags.get("mlflow.user", "unknown")
            self._tables.add_run(Run(self._id, begun.name, user, now, uri, experiment))
            self._tables.add_tags(self._id, begun.tags)
            self._tables.add_params(self._id, begun.params)
            if begun.data is not None:
                self._tables.add_dataset(self._id, experiment, begun.data)
        self.folder = place
        for name, text in begun.texts.items():
            self._write(name, text)

    def _write(self, name: str, content: "str | Mapping[str, Tensor]") -> None:
        """Write an artifact, whole or not at all."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.part")
        try:
            if isinstance(content, str):
                draft.write_text(content, encoding="utf-8")
            else:
                from gdexp.tracking.weights import save_weights

                save_weights(draft, content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _keep_flushing(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self._flush()

    def _flush(self) -> None:
        """Write what has come in, and now and then a sign of life."""
        with self._lock:
            numbers = [self._numbers.popleft() for _ in range(len(self._numbers))]
            beat = time.monotonic() - self._beat > _HEARTBEAT_SECONDS
            if not numbers and not beat:
                return
            try:
                with self._tables.transaction():
                    self._tables.add_metrics(self._id, _named(numbers))
                    if beat:
                        self._tables.add_tags(self._id, {endings.HEARTBEAT: str(int(time.time() * 1000))})
            except sqlite3.Error as error:
                self._numbers.extendleft(reversed(numbers))
                self._say(error)
                return
            if beat:
                self._beat = time.monotonic()

    def _say(self, error: Exception) -> None:
        """Tell the user of trouble with the store, once."""
        if not self._trouble:
            print(f"gdexp: {self._tables.path} can't be written ({error}); training goes on", file=sys.stderr)
        self._trouble = str(error)

    def _close(
        self,
        status: str,
        tags: Mapping[str, object],
        files: "Mapping[str, Mapping[str, Tensor]]",
        texts: Mapping[str, str],
    ) -> None:
        self._closing.set()
        self._thread.join()
        missing: list[str] = []
        contents: dict[str, str | Mapping[str, Tensor]] = {f"{n}.safetensors": w for n, w in files.items()}
        for name, content in (contents | dict(texts)).items():
            try:
                self._write(name, content)
            except Exception as error:  # safetensors has an error type of its own for a full disk
                self._trouble = str(error)
                missing.append(name)
        try:
            with self._tables.transaction():
                self._tables.add_metrics(self._id, _named(self._numbers))
                self._tables.add_tags(self._id, {k: str(v) for k, v in tags.items()})
                if not missing:
                    self._tables.end(self._id, status, int(time.time() * 1000))
            self.status = status
        except sqlite3.Error as error:
            self._trouble = str(error)
            missing += ([f"{len(self._numbers)} numbers"] if self._numbers else []) + ["how the run ended"]
        self._tables.close()
        fold_in(self._tables.path)
        if missing:
            raise Refusal(f"the record of run {self.name} ({self.run_id}) lacks {', '.join(missing)}: {self._trouble}")


def _named(numbers: Iterable[Number]) -> list[Number]:
    """Give each number a name that MLflow takes."""
    return [n._replace(key=_ILLEGAL.sub("_", n.key)[:250]) if _ILLEGAL.search(n.key) else n for n in numbers]
