"""The record of runs in a SQLite store: what comes in is flushed by a thread, so training never waits."""

import math
import os
import shutil
import sqlite3
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gdexp import stop
from gdexp.config.refusal import Refusal, TakenOver
from gdexp.config.secrets import hide
from gdexp.lines import warn
from gdexp.tracking import begins, endings, kept, locks, places
from gdexp.tracking.address import of_file
from gdexp.tracking.adopted import Adopted, Adoption
from gdexp.tracking.places import local_path
from gdexp.tracking.sqlite import PAUSED, SYNCED, Number, Run, Tables
from gdexp.tracking.store import fold_in
from gdexp.tracking.whole import Begun, End, Whole, content_of

if TYPE_CHECKING:
    from torch import Tensor

FLUSH_SECONDS = 1.0
WEIGHTS = "weights.safetensors"
CUT_OFF = "gdexp.cut_off"  # how often, and where, a run was cut off that has gone on
_HEARTBEAT_SECONDS = 60.0
_OWNERS = (
    "SELECT run_uuid, status, lifecycle_stage,"
    f" (SELECT value FROM tags t WHERE t.run_uuid=r.run_uuid AND t.key='{endings.OWNER}')"
    " FROM runs r WHERE run_uuid IN (SELECT value FROM json_each(?))"
)
_FEW = 16  # files and folders that are brought to the disk one by one
_AT_ONCE = 16  # threads that bring more of them there


class ArtifactsElsewhere(Exception):
    """The artifacts of an experiment aren't on this machine's file system."""


class Recorder:
    """Writes the record of runs that train together, one or many.

    Args:
        tables: of the store, closed at the end.
        begun: the runs.
        location: URI of the artifacts, should the experiment be new.
        again: id of a single run that goes on.
        ids: of runs that don't.
        adopted: a single run that somebody else has made, and that this is the record of.
        is_there: whether it must be in this store.

    Raises:
        Refusal: the runs can't be begun in this store.
        ArtifactsElsewhere: the experiment's artifacts aren't on this machine.
    """

    def __init__(
        self,
        tables: Tables,
        begun: Sequence[Begun],
        location: str,
        again: str | None = None,
        *,
        ids: Sequence[str] = (),
        adopted: Adopted | None = None,
        is_there: bool = True,
    ) -> None:
        self.uri: str | None = of_file(tables.path)
        self.names = [b.name for b in begun]
        self.statuses = ["RUNNING"] * len(begun)
        self._ids = [again] if again is not None else list(ids)  # in these tables
        self.run_ids: list[str | None] = list(self._ids)
        self.lost: dict[int, str] = {}  # runs whose rows are another's now, and the line that says so
        self._tables, self._lock = tables, threading.Lock()
        self._numbers: list[tuple[int, Number]] = []  # that aren't written yet, added by another thread
        self._texts: list[Mapping[str, str]] = []  # likewise
        self._unsettled: dict[str, None] = {}  # files and folders that may not be on the disk yet
        self._ends: dict[int, End] = {}  # of runs that have ended and aren't written yet
        self._over: set[int] = set()
        self._signature = endings.signature()
        self._life = ExitStack()  # holds the lock that says that this process trains them
        self._deleted: set[int] = set()  # runs that were in MLflow's trash when they were last looked at
        self._gone: set[int] = set()  # runs whose rows aren't there any more
        self._weights: Callable[[int], Mapping[str, Tensor]] | None = None
        self._trouble = ""
        self._beat = time.monotonic()
        self._closing = threading.Event()
        self._there: set[tuple[str, int]] = set()  # metrics and steps that are recorded already
        self._whole = Whole(begun)
        self._where = ""  # URI of the experiment's artifacts; of a run that goes on nothing is made
        self._adoption: Adoption | None = None
        self._before: tuple[str, int | None] | None = None  # how the run had ended that goes on
        self.folders: Sequence[Path] = []
        self._thread = threading.Thread(target=self._keep_flushing, name="gdexp-record", daemon=True)
        self._file = _file_of(tables.path)
        with stop.held():
            try:
                self._life.enter_context(endings.at_work(tables.path))
                if adopted is not None and (is_there or self._has(adopted)):
                    self._adopt(begun[0], adopted)
                elif again is None:
                    self._begin(begun, location)
                else:
                    self._begin_again(begun[0].tags)
                self._thread.start()
            except (sqlite3.Error, OSError) as error:
                self._take_back()
                raise Refusal(f"`tracking.uri`: {tables.path} can't be written: {error}") from error
            except BaseException:
                self._take_back()
                raise

    def add(self, step: int, metrics: Mapping[str, float], run: int = 0) -> None:
        """Take the numbers of one epoch of a run; those that aren't finite are left out."""
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            if math.isfinite(value) and (not self._there or (key, step) not in self._there):
                self._numbers.append((run, Number(key, value, now, step)))

    def add_texts(self, texts: Mapping[str, str]) -> None:
        """Take texts that the runs have come to use since they began; the next flush writes them."""
        self._whole.begun = [b._replace(texts={**b.texts, **texts}) for b in self._whole.begun]
        self._texts.append(texts)

    def keep(self, weights: "Callable[[int], Mapping[str, Tensor]]") -> None:
        """Save these of each run, as they are then, should it be cut off."""
        self._weights = weights

    def finish(
        self,
        outcome: str,
        files: "Mapping[str, Mapping[str, Tensor]]",
        tags: Mapping[str, object] | None = None,
        run: int = 0,
    ) -> None:
        """Take the end of a run, with its files NAME.safetensors, which may not change any more."""
        written = {f"{name}.safetensors": weights for name, weights in files.items()}
        self._end(run, "FINISHED", {"gdexp.outcome": outcome, **(tags or {})}, written)

    def withdraw(self) -> None:
        """Take all runs back: they are begun again in another way."""
        with stop.held():
            self._stop()
            self._take_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the record; runs without an end are FAILED, or KILLED after an interruption."""
        if self._closing.is_set():  # withdrawn
            return
        try:
            with stop.held():
                self._end_the_rest(error)
                self._close()
        except Refusal as lost:
            if error is None:
                raise
            if not isinstance(error, TakenOver):
                warn(f"{lost}")  # the error itself goes on
        finally:
            self._life.close()

    def _end_the_rest(self, error: BaseException | None) -> None:
        """End the runs that haven't come to their end."""
        failed = isinstance(error, Exception)
        texts = {"traceback.txt": hide("".join(tracebacks.format_exception(error)))} if failed and error else {}
        for run in set(range(len(self._ids))) - self._over - self.lost.keys():
            weights: Mapping[str, Tensor] = {}
            with suppress(Exception):  # what went wrong may have left the learner without any
                weights = self._weights(run) if self._weights else {}
            self._end(run, "FAILED" if failed else "KILLED", {}, {**texts, **({WEIGHTS: weights} if weights else {})})

    def _begin(self, begun: Sequence[Begun], location: str) -> None:
        """Write the first artifacts of the runs, then their rows, which say that all of it is there."""
        now = self._whole.start = int(time.time() * 1000)
        with self._tables.transaction():
            experiment, where = self._tables.experiment(begun[0].experiment, location)  # that of all
            if (place := local_path(where)) is None:
                raise ArtifactsElsewhere(f"{where}/")
            begins.note(self._tables, self._ids, where)
        self._where = where
        self.folders = [place / run_id / "artifacts" for run_id in self._ids]
        place.mkdir(parents=True, exist_ok=True)
        self._unsettled[str(place)] = None
        shared: dict[tuple[str, str], str] = {}
        for folder, run in zip(self.folders, begun, strict=True):
            self._unsettled |= dict.fromkeys(_write_texts(str(folder), run.texts, shared))
        with self._tables.transaction():
            for run_id, run in zip(self._ids, begun, strict=True):
                uri, user = f"{where.rstrip('/')}/{run_id}/artifacts", run.tags.get("mlflow.user", "unknown")
                self._tables.add_run(Run(run_id, run.name, user, now, uri, experiment))
                self._tables.add_tags(run_id, {**run.tags, **self._signature})
                self._tables.add_params(run_id, run.params)
            if begun[0].data is not None:
                self._tables.add_dataset(self._ids, experiment, begun[0].data)
            begins.forget(self._tables, self._ids)

    def _has(self, run: Adopted) -> bool:
        return bool(self._tables.select("SELECT 1 FROM runs WHERE run_uuid=?", run.run_id))

    def _adopt(self, begun: Begun, run: Adopted) -> None:
        """Begin the record of a run that is there; what it has already stays."""
        self._whole.start = int(time.time() * 1000)
        with self._tables.transaction():
            adoption = Adoption(self._tables, run)
            if adoption.folder is None:
                raise ArtifactsElsewhere(adoption.uri)
            self._adoption, self.folders = adoption, [adoption.folder]
            adoption.begin(self._tables, begun)
        self._unsettle(adoption.folder)

    def _take_back(self) -> None:
        """Leave the store as it was before the runs were begun, as far as it can be written."""
        with suppress(sqlite3.Error), self._tables.transaction():
            ours = [run_id for run, run_id in enumerate(self._ids) if run not in self.lost]
            if self._before is not None and ours:
                self._tables.end(self._ids[0], *self._before)
            if self._adoption is not None and ours:
                self._adoption.give_back(self._tables, self._whole.numbers(run=0))
            if self._where:
                for run_id in ours:
                    self._tables.remove_run(run_id)
                begins.note(self._tables, self._ids, self._where)
        for folder in (f for run, f in enumerate(self.folders) if self._where and run not in self.lost):
            shutil.rmtree(folder.parent, ignore_errors=True)
        if self._adoption is not None and not self.lost:
            self._adoption.clear(self._whole.begun[0].texts)
        if self._where and not any(folder.parent.exists() for folder in self.folders):
            with suppress(sqlite3.Error), self._tables.transaction():
                begins.forget(self._tables, self._ids)
        self._tables.close()
        self._life.close()

    def _begin_again(self, tags: Mapping[str, str]) -> None:
        """Take up a run that was cut off; what is recorded of it stays."""
        run_id = self._ids[0]
        with self._tables.transaction():
            sql = (
                "SELECT artifact_uri, status, end_time, t.value FROM runs r"
                " LEFT JOIN tags t ON t.run_uuid=r.run_uuid AND t.key=? WHERE r.run_uuid=?"
            )
            [(uri, status, end_time, owner)] = self._tables.select(sql, endings.OWNER, run_id)
            if (place := local_path(uri)) is None:
                raise ArtifactsElsewhere(uri)
            before = endings.lock_of(self._tables.path, owner)
            if before is not None and owner != locks.process() and locks.is_held(before):  # whatever its row says
                raise Refusal(f"run {run_id} is still running")
            if status == "RUNNING":
                raise Refusal(f"run {run_id} is still running, or it can't be told from here that it isn't")
            self.folders = [place]
            self._before = status, end_time
            self._whole = Whole.read(self._tables, run_id, place)
            self._tables.begin_again(run_id)
            self._tables.execute("DELETE FROM tags WHERE run_uuid=? AND key=?", run_id, SYNCED)  # there will be news
            rows = self._tables.select("SELECT DISTINCT key, step FROM metrics WHERE run_uuid=?", run_id)
            trace = _trace(self._whole.begun[0].tags, status, end_time, rows)
            self._tables.add_tags(run_id, {**tags, **trace, **self._signature})
        self._there = set(rows)
        self._unsettle(place)

    def _unsettle(self, folder: Path) -> None:
        """Have all that is in a folder of artifacts brought to the disk by the next flush."""
        self._unsettled |= dict.fromkeys(map(str, [*places.files(folder), folder, *folder.parents[:2]]))

    def _end(self, run: int, status: str, tags: Mapping[str, object], files: Mapping[str, Any]) -> None:
        self._ends[run] = self._whole.ends[run] = End(status, tags, files, int(time.time() * 1000))
        self._over.add(run)

    def _keep_flushing(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self.flush()

    def flush(self) -> list[str]:
        """Write what has come in, and now and then a sign of life; return what could not be written."""
        with self._lock:
            numbers, ends = list(self._numbers), dict(self._ends)
            beat = time.monotonic() - self._beat > _HEARTBEAT_SECONDS
            if not (numbers or ends or beat or self._texts or self._unsettled):
                return []
            if ends:
                with suppress(sqlite3.Error):
                    self._look_for_owners(ends)
            late = self._write_late_texts()
            missing = self._write_files({run: end for run, end in ends.items() if run not in self.lost})
            self._settle()
            whole = {run: end for run, end in ends.items() if run not in missing and not late}
            lacking = late + [what for files in missing.values() for what in files]
            try:
                with self._tables.transaction():
                    open_runs = set(range(len(self._ids))) - self._over if beat else set()
                    self._look_for_owners({run for run, _ in numbers} | whole.keys() | open_runs)
                    self._write_rows(numbers, whole, beat)
            except Exception as error:  # SQLite's, or a text or a number that it doesn't take
                self._say(error)
                lost = [f"{len(numbers)} numbers"] if numbers else []
                return lacking + lost + (["how the run ended"] if ends else [])
            self._whole.add(numbers)
            del self._numbers[: len(numbers)]
            for run, end in whole.items():
                if run not in self.lost:
                    self.statuses[run] = end.status
                del self._ends[run]
            self._beat = time.monotonic() if beat else self._beat
            return lacking

    def _look_for_owners(self, runs: Iterable[int]) -> None:
        """Find out which runs aren't ours any more: closed, taken up by another process, or deleted for good."""
        runs = list(runs)
        there = self._tables.select_of([self._ids[run] for run in runs], _OWNERS)
        for run in runs:
            which = f"run {self.names[run]} ({self._ids[run]})"
            if found := there.get(self._ids[run]):
                _, status, stage, owner = found
                if stage == "deleted":
                    self._deleted.add(run)
                if owner != self._signature[endings.OWNER]:
                    self.lost[run] = f"{which} is trained by another process now; it stops here"
                elif status != "RUNNING":
                    self.lost[run] = f"{which} was closed as {status} by another process; it stops here"
            elif run in self._deleted:
                self.lost[run] = f"{which} was deleted for good while it was trained; it stops here"
            else:  # lost with the store: it is kept as a whole at the end
                self._gone.add(run)

    def _write_files(self, ends: Mapping[int, End]) -> dict[int, list[str]]:
        """Write the artifacts of runs that have ended; return those that could not be, by run."""
        missing: dict[int, list[str]] = {}
        for run, end in ends.items():
            folder, texts = str(self.folders[run]), self._whole.begun[run].texts
            gone = {name: text for name, text in texts.items() if not os.path.exists(f"{folder}/{name}")}
            for name, content in {**gone, **end.files}.items():
                try:
                    self._write(f"{folder}/{name}", content)
                except Exception as error:  # safetensors has an error type of its own for a full disk
                    self._trouble = str(error)
                    missing.setdefault(run, []).append(name)
        return missing

    def _write_late_texts(self) -> list[str]:
        """Write the texts that came after the begin; return the names of those that could not be."""
        while self._texts:
            try:
                for run, folder in enumerate(self.folders):
                    for name, text in self._texts[0].items() if run not in self.lost else ():
                        self._write(f"{folder}/{name}", text)
            except OSError as error:
                self._say(error)
                return list(self._texts[0])
            del self._texts[0]
        return []

    def _write(self, path: str, content: "str | Mapping[str, Tensor]") -> None:
        """Write an artifact, whole or not at all."""
        folder, name = os.path.split(path)
        draft = f"{folder}/.{name}.part"
        try:
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
            with open(draft, "wb") as file:
                file.write(content_of(content))
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):  # it isn't there, or nothing can be changed there now
                os.unlink(draft)
            raise
        self._unsettled |= {path: None, folder: None}

    def _settle(self) -> None:
        """Have artifacts on the disk with the folders that name them, before rows say that they are there."""
        paths = list(self._unsettled)
        if len(paths) <= _FEW:
            _sync(paths)
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(_AT_ONCE) as pool:  # what is asked for at once, a file system does together
                list(pool.map(_sync, [paths[first::_AT_ONCE] for first in range(_AT_ONCE)]))
        self._unsettled.clear()

    def _write_rows(self, numbers: Iterable[tuple[int, Number]], ends: Mapping[int, End], beat: bool) -> None:
        of_run: dict[int, list[Number]] = {}
        for run, number in numbers:
            of_run.setdefault(run, []).append(number)
        not_here = self._gone | self.lost.keys()
        for run in sorted(of_run.keys() - not_here):
            self._tables.add_metrics(self._ids[run], of_run[run])
        for run in sorted(ends.keys() - not_here):
            end = ends[run]
            self._tables.add_tags(self._ids[run], {k: str(v) for k, v in end.tags.items()})
            self._tables.end(self._ids[run], end.status, end.time)
        if beat:
            for run in set(range(len(self._ids))) - self._over - not_here:
                self._tables.add_tags(self._ids[run], {endings.HEARTBEAT: str(int(time.time() * 1000))})

    def _say(self, error: Exception) -> None:
        """Tell the user of trouble with the store, once."""
        if not self._trouble:
            warn(f"{self._tables.path} can't be written ({error}); training goes on")
        self._trouble = str(error)

    def _stop(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _close(self) -> None:
        self._stop()
        try:
            missing = self.flush()
            if missing:  # what failed once may work now
                self._open_anew()
                missing = self.flush()
        finally:
            self._tables.close()
            fold_in(self._tables.path)
        if missing := missing or self._not_found():
            self._keep_elsewhere(missing)
        if len(self.lost) == len(self._ids):
            raise TakenOver(self.lost[0])

    def _open_anew(self) -> None:
        """Open the store once more: a connection that met an error of the disk or of a lock may never work again."""
        self._tables.wait_at_most(1.0)
        if _file_of(self._tables.path) != self._file:
            return
        with suppress(sqlite3.Error, Refusal):
            fresh = Tables(self._tables.path, timeout=1.0)
            self._tables.close()
            self._tables = fresh

    def _not_found(self) -> list[str]:
        """Return what isn't in the store that now stands where it was opened, whatever happened to the file."""
        self._trouble = f"{self._tables.path} was moved, removed or replaced while training went on"
        lacking = ["how the run ended"]
        if _file_of(self._tables.path) != self._file:
            return lacking
        try:
            with closing(Tables(self._tables.path)) as tables:
                ours = {run: run_id for run, run_id in enumerate(self._ids) if run not in self.lost}
                if not self._whole.are_in(tables, ours):
                    self._trouble = f"{self._tables.path} doesn't hold all of it any more"
                    return lacking
        except sqlite3.Error as error:
            self._trouble = f"{self._tables.path} can't be read: {error}"
            return lacking
        return []

    def _keep_elsewhere(self, missing: Sequence[str]) -> None:
        """Keep the runs whole in one file, and say where they are.

        Raises:
            Refusal: always, for they aren't where they were to be.
        """
        name = f"{self.names[0]} ({self.run_ids[0]})"
        which = f"run {name}" if len(self._ids) == 1 else f"{len(self._ids)} runs, the first {name},"
        self._whole.add(self._numbers)

        def fill(tables: Tables) -> None:
            for run, run_id in enumerate(self._ids):
                if run in self.lost:
                    continue
                self._whole.write(tables, run, run_id, self.folders[run])
                if not self._whole.is_complete:
                    with suppress(sqlite3.Error), closing(Tables(self._tables.path)) as store:
                        sql = "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid=?"
                        tables.add_metrics(run_id, [Number(*row) for row in store.select(sql, run_id)])

        if (path := kept.keep(self._tables.path, str(self._ids[0]), fill)) is None:
            raise Refusal(f"the record of {which} lacks {', '.join(dict.fromkeys(missing))}: {self._trouble}")
        for run, end in self._whole.ends.items():
            self.statuses[run] = end.status
        self.uri = None
        raise Refusal(
            f"the record of {which} is kept in {path}, for {self._trouble}:"
            f" the next command on that store takes it in, or python -m gdexp.store check {self._tables.path}"
        )


def _file_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _trace(tags: Mapping[str, str], status: str, end_time: int | None, rows: Iterable[tuple]) -> dict[str, str]:
    """Return the tags that say that a run was cut off, and how long nothing was trained."""
    now = int(time.time() * 1000)
    pause = int(tags.get(PAUSED, 0)) + max(now - (end_time or now), 0)
    if status == "FINISHED":  # its end is raised
        return {PAUSED: str(pause)}
    epoch = max((step for key, step in rows if key == "train_loss"), default=0)
    earlier = [tags[CUT_OFF]] if CUT_OFF in tags else []
    return {PAUSED: str(pause), CUT_OFF: ", ".join([*earlier, f"{status} after epoch {epoch}"])}


def _sync(paths: Iterable[str]) -> None:
    for path in paths:
        with suppress(OSError):  # of a system that has no such thing for folders
            number = os.open(path, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def _write_texts(folder: str, texts: Mapping[str, str], shared: dict[tuple[str, str], str]) -> list[str]:
    """Write the first artifacts of a run, all or none; return the files and folders that are new.

    A text that runs have in common is one file on the disk.
    """
    above, last = os.path.split(folder)
    draft, new = f"{above}/.{last}.part", [above, folder]
    os.mkdir(above)
    os.mkdir(draft)
    for name, text in texts.items():
        path = f"{draft}/{name}"
        if "/" in name:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            new += [f"{folder}/{inside}" for inside in PurePosixPath(name).parents[:-1]]
        if (there := shared.get((name, text))) is not None:
            try:
                os.link(there, path)
                continue
            except OSError:  # a file system without hard links
                pass
        with open(path, "wb") as file:
            file.write(text.encode())
        shared[name, text] = f"{folder}/{name}"
        new.append(f"{folder}/{name}")
    os.rename(draft, folder)
    return new
