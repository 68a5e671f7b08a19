"""The record through MLflow's own client, for any tracking URI.

A run is written to a store of our own in a temporary folder, and a thread sends on what has come in.
So training never waits for a server; should it be gone at the end, the run is kept in the local
store, from where `gdexp.store sync` sends it later.
"""

import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from queue import Empty, Queue

from gdexp.config.refusal import Refusal
from gdexp.lines import warn
from gdexp.tracking import kept, spools, store, transfer, withdrawn
from gdexp.tracking.address import Unreachable as Unreachable
from gdexp.tracking.address import answers as answers
from gdexp.tracking.address import is_well, of_file, without_password
from gdexp.tracking.adopted import Adopted
from gdexp.tracking.recorder import Recorder
from gdexp.tracking.sqlite import Tables
from gdexp.tracking.whole import Begun

_SEND_SECONDS = 2.0
_ANSWER_SECONDS = 15.0  # for a server to begin a run
_PATIENCE_SECONDS = 10.0  # with a server at the end of a run, from one answer to the next,
_LEAST_BYTES_A_SECOND = 1 << 20  # and with one that takes a large file meanwhile
_LOOK_SECONDS = 0.5


class ForwardingRecorder(Recorder):
    """A recorder whose runs are sent on while they train.

    Args:
        uri: of the store.
        begun: the runs.
        ids: of the runs, here.
        location: artifact location of a new experiment; None: the server's own choice.
        adopted: a single run that is at the far end already, and that this is the record of.

    Raises:
        Unreachable: nothing answers there.
        Refusal: something answers, but it can't be used.
    """

    def __init__(
        self,
        uri: str,
        begun: Sequence[Begun],
        ids: Sequence[str],
        location: str | None = None,
        adopted: Adopted | None = None,
    ) -> None:
        answers(uri)
        self._spool = spools.make(uri, begun[0].name)
        self._sent = [0] * len(begun)
        self._down_since, self._given_up = 0.0, threading.Event()
        self._refused: Exception | None = None  # why the last request failed
        self._heard, self._size = 0.0, 0  # when the server did what it hadn't yet, and the bytes that it gets now
        self._furthest = -1, 0  # the run, and which of its requests, that it did
        self._is_described = adopted is None
        self._adopted = adopted
        super().__init__(Tables.own(self._spool / "spool.db"), begun, (self._spool / "artifacts").as_uri(), ids=ids)
        self.uri, self._far, self._shown = uri, uri, without_password(uri)
        self._tables.execute("INSERT INTO kept_for VALUES (?)", str(_local_store()))
        self._sender = threading.Thread(target=self._keep_sending, name="gdexp-send", daemon=True)
        try:
            self._introduce(location)
        except Unreachable:  # what was begun there is completed by a sync
            self._drop()
            raise
        except BaseException:
            self.withdraw()
            raise
        self._sender.start()

    def withdraw(self) -> None:
        """Take all runs back, at the far end too, where they are then deleted runs: now, or by the next sync."""
        self._closing.set()
        remotes = [str(remote) for i, remote in zip(self._ids, self.run_ids, strict=True) if remote != i]
        if remotes and self._adopted is None:
            note = withdrawn.note(self._far, remotes)
            thread = threading.Thread(target=self._delete, args=(remotes, note), name="gdexp-delete", daemon=True)
            thread.start()
            thread.join(_PATIENCE_SECONDS)
        self._drop()
        self._come_to_rest()

    def _delete(self, remotes: Sequence[str], note: Path | None) -> None:
        if self._sender.ident is not None:
            self._sender.join()
        with suppress(Exception):  # of a server that is going away
            for remote in remotes:
                self._server.delete(remote)
            if note is not None:
                note.unlink()

    def _introduce(self, location: str | None) -> None:
        """Begin the runs at the far end; one that takes the request and never answers isn't waited for."""
        outcome: Queue[Exception | str] = Queue()

        def ask() -> None:
            tables = Tables(self._spool / "spool.db")
            try:
                self._server = transfer.Server(self._far)
                for run_id in self._ids:
                    if self._closing.is_set():  # it came too late
                        return
                    if self._adopted is None:
                        remote = self._server.begin(tables, run_id, location)
                    else:
                        remote = self._server.adopt(tables, run_id, self._adopted)
                    if self._is_described:
                        list(self._server.send_description(tables, run_id, remote))
                    if run_id == self._ids[0]:
                        self._server.try_artifacts(tables, run_id, remote)
                    outcome.put(remote)
            except Exception as error:
                outcome.put(error)
            finally:
                tables.close()

        threading.Thread(target=ask, name="gdexp-begin", daemon=True).start()
        for run in range(len(self._ids)):
            self.run_ids[run] = remote = self._answer(outcome)
            with self._lock, self._tables.transaction():
                self._tables.add_tags(self._ids[run], {transfer.REMOTE: remote})

    def _answer(self, outcome: "Queue[Exception | str]") -> str:
        try:
            found = outcome.get(timeout=_ANSWER_SECONDS)
        except Empty:
            raise Unreachable(f"{without_password(self._far)} doesn't answer within {_ANSWER_SECONDS:.0f} s") from None
        if isinstance(found, Refusal):
            raise found
        if isinstance(found, Exception):  # MLflow's own, SQLAlchemy's, a server's
            line = str(found).splitlines()[0].replace(self._far, self._shown)
            if is_sick(self._far, found):
                raise Unreachable(f"{self._shown} is not well ({line})") from found
            raise Refusal(f"`tracking.uri`: {self._shown} can't be used: {line}") from found
        return found

    def _keep_sending(self) -> None:
        with suppress(Exception):  # the next one does it
            withdrawn.delete(self._far, self._server)
        while not self._closing.wait(_SEND_SECONDS):
            self._send()

    def _send(self) -> None:
        tables = Tables(self._spool / "spool.db")
        try:
            answers(self._far)
            if not self._is_described and not self._describe(tables):
                return
            for run, run_id in enumerate(self._ids):
                for sent in self._server.send_numbers(tables, run_id, str(self.run_ids[run]), self._sent[run]):
                    self._sent[run] = sent
                    if self._closing.is_set():
                        return
            self._down_since = 0.0
        except Exception as error:
            if not self._down_since:
                self._down_since = time.monotonic()
                line = str(error).splitlines()[0].replace(self._far, self._shown)
                warn(f"{self._shown} doesn't answer ({line}); training goes on")
        finally:
            tables.close()

    def _describe(self, tables: Tables) -> bool:
        """Describe an adopted run once it has an epoch: until then it may be taken back, and params can't be."""
        run_id = self._ids[0]
        if tables.select("SELECT 1 FROM latest_metrics WHERE run_uuid=? AND key='train_loss'", run_id):
            list(self._server.send_description(tables, run_id, str(self.run_ids[0])))
            self._is_described = True
        return self._is_described

    def _close(self) -> None:
        super()._close()
        try:
            self._hand_over()
        finally:
            self._come_to_rest()

    def _hand_over(self) -> None:
        """Send the rest, or keep it here."""
        self._heard = time.monotonic()
        waiting, done = list(range(len(self._ids))), threading.Event()
        threading.Thread(target=self._send_all, args=(waiting, done), name="gdexp-end", daemon=True).start()
        while not done.wait(_LOOK_SECONDS):
            if not self._is_waited_for():
                self._given_up.set()
                self._keep_here(list(waiting))
                return
        if "KILLED" in self.statuses and any((f / transfer.CHECKPOINTS).is_dir() for f in self.folders):
            self._keep_copy()
        shutil.rmtree(self._spool, ignore_errors=True)

    def _is_waited_for(self) -> bool:
        """Say whether the server did something just now, or takes a large file and is well."""
        silent = time.monotonic() - self._heard
        if silent < _PATIENCE_SECONDS:
            return True
        seconds = self._size // _LEAST_BYTES_A_SECOND
        return silent < _PATIENCE_SECONDS + seconds and is_well(self._far)

    def _keep_copy(self) -> None:
        """Keep a run that was interrupted in the local store, too, with its checkpoints, from where it can go on."""
        with suppress(Exception), closing(Tables(self._spool / "spool.db")) as tables:
            self._rename(tables, range(len(self._ids)))
            for remote in self.run_ids:
                keep(tables, str(remote))
                uri = of_file(_local_store())
                warn(
                    f"run {remote} is kept here, too: python -m gdexp.resume {remote} tracking.uri={uri} goes on,"
                    f" then python -m gdexp.store sync --to {without_password(self._far)} brings the news"
                )

    def _rename(self, tables: Tables, runs: Iterable[int]) -> None:
        """Give runs the ids here that the server knows them by."""
        for run in runs:
            remote = str(self.run_ids[run])
            tables.rename_run(self._ids[run], remote)
            self.folders[run].parent.rename(self.folders[run].parent.with_name(remote))
        self.folders = [f.parent.with_name(str(i)) / f.name for f, i in zip(self.folders, self.run_ids, strict=True)]

    def _send_all(self, waiting: list[int], done: threading.Event) -> None:
        """Send what is left, again and again until it is done."""
        self._sender.join()
        while not self._given_up.is_set():
            tables = Tables(self._spool / "spool.db")
            try:
                answers(self._far)
                while waiting:
                    self._send_rest(tables, waiting[0])
                    waiting.pop(0)
                done.set()
                return
            except Exception as error:  # whatever a server that is going away answers
                self._refused = error
                self._given_up.wait(0.5)
            finally:
                tables.close()

    def _send_rest(self, tables: Tables, run: int) -> None:
        run_id, remote, places = self._ids[run], str(self.run_ids[run]), count()
        for _ in self._server.send_description(tables, run_id, remote):
            self._hear(run, next(places))
        for sent in self._server.send_numbers(tables, run_id, remote, self._sent[run]):
            self._sent[run], self._heard = sent, time.monotonic()
        for size in self._server.send_end(tables, run_id, remote):
            self._hear(run, next(places), size)

    def _hear(self, run: int, place: int, size: int = 0) -> None:
        """Note an answer; one to what had been sent before, and failed later on, is no news of the server."""
        if (run, place) > self._furthest:
            self._furthest, self._heard = (run, place), time.monotonic()
        self._size = size

    def _keep_here(self, waiting: Sequence[int]) -> None:
        """Put runs into the local store, under the ids that the server knows them by, or keep them in a file.

        Raises:
            Refusal: they aren't in any store.
        """
        with closing(Tables(self._spool / "spool.db")) as tables:
            ids = [str(self.run_ids[run]) for run in waiting]
            self._rename(tables, waiting)
            try:
                if store.database(self._far) == _local_store():
                    raise Refusal(self._why())  # it is this one that doesn't take them
                for remote in ids:
                    keep(tables, remote)
            except Exception as error:
                self._keep_in_a_file(tables, waiting, ids, error)
        shutil.rmtree(self._spool, ignore_errors=True)
        warn(f"{self._why()}; {_kept(self._far)}")
        self.uri = of_file(_local_store())

    def _why(self) -> str:
        """Return why the far end hasn't got all of the runs."""
        if self._refused is None or isinstance(self._refused, Unreachable):
            return f"{self._shown} is gone"
        line = str(self._refused).splitlines()[0].replace(self._far, self._shown)
        return f"{self._shown} doesn't take all of the run ({line})"

    def _keep_in_a_file(self, tables: Tables, waiting: Sequence[int], ids: Sequence[str], error: Exception) -> None:
        """Keep runs in a file that the local store takes in later; where that fails, too, leave the spool.

        Raises:
            Refusal: always, with the place.
        """

        def fill(target: Tables) -> None:
            for run, run_id in zip(waiting, ids, strict=True):
                kept.copy_into(target, tables, run_id, self.folders[run])

        path = kept.keep(store.database(self._far) or _local_store(), ids[0], fill)
        if path is not None:
            shutil.rmtree(self._spool, ignore_errors=True)
        self.uri = None
        reason = self._why() if isinstance(error, Refusal) else f"{self._why()}, and {_local_store()} doesn't: {error}"
        raise Refusal(
            f"the run is kept in {path or self._spool}, for {reason}: python -m gdexp.store check takes it in"
        )

    def _come_to_rest(self) -> None:
        """Leave a SQLite store at the far end as one file that is read from anywhere."""
        if (db := store.database(self._far)) is not None:
            with suppress(AttributeError):  # it was never reached
                self._server.close()
            store.fold_in(db)

    def _drop(self) -> None:
        self._stop()
        self._tables.close()
        self._life.close()
        shutil.rmtree(self._spool, ignore_errors=True)


def is_sick(uri: str, error: Exception) -> bool:
    """Say whether it is a server's own trouble that a request failed for."""
    from mlflow.exceptions import MlflowException

    return uri.startswith("http") and isinstance(error, MlflowException) and error.get_http_status_code() >= 500


def keep(tables: Tables, run_id: str) -> None:
    """Copy a run from a store of our own to the local one."""
    db = _local_store()
    target = store.opened(db)
    if target is not None:
        transfer.merge(tables, target, run_id)
        target.close()
        store.fold_in(db)
        return
    transfer.sync(tables, transfer.Server(of_file(db)), run_id)


def instead(uri: str, error: Unreachable) -> str:
    """Say that a server isn't there; return the URI of the local store."""
    warn(f"{error}; {_kept(uri)}")
    return of_file(_local_store())


def _local_store() -> Path:
    return Path.cwd() / "mlflow.db"


def _kept(uri: str) -> str:
    return f"the run is kept in {_local_store()}: python -m gdexp.store sync --to {without_password(uri)}"
