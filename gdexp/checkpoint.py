"""Checkpoints of a run: files that are whole or not there, written by a thread, and nothing in them can run.

A file is what `torch.save` makes of plain containers and tensors, so `torch.load(…, weights_only=True)`
reads it. Its name holds the step, for the order, and a part of its SHA-256, so damage is seen.
"""

import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from gdexp.config.refusal import TakenOver
from gdexp.lines import warn

_SHARE = 5  # one part in so many of the time is the most that writing may take
_KEPT = 2  # the last, and the one before it should the last be damaged
_NAME = re.compile(r"(best|step)-(\d{12})-([0-9a-f]{32})\.pt")


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: made when there is something to keep.
        run_id: of the run, which a checkpoint says it is of.
        before: called before a checkpoint is written, for what it leaves behind must be in the record by then;
            returns what could not be brought there, and then no checkpoint is written.
    """

    def __init__(self, folder: Path, run_id: str, before: Callable[[], Sequence[str]] = list) -> None:
        self._folder, self._run_id, self._before = folder, run_id, before
        self._waiting: list[tuple[int, dict[str, Any], bool]] = []  # at most one
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.busy = False  # whether a state that is given now would have to wait
        self._trouble: Exception | None = None

    def write(self, step: int, state: Mapping[str, Any], best: bool = False) -> None:
        """Take a state, whose tensors are copied; a thread writes it, unless a newer one comes before its turn.

        Args:
            step: which of two is newer.
            state: plain containers and tensors.
            best: keep it too when it is no longer the last.
        """
        copied = tree_map(lambda v: v.detach().cpu().clone() if isinstance(v, torch.Tensor) else v, dict(state))
        with self._wake:
            best = best or any(was_best for _, _, was_best in self._waiting)
            self._waiting, self.busy = [(step, copied, best)], True
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_writing, name="gdexp-checkpoint", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is waiting."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def sound(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and state of each checkpoint that is whole, the newest first; a line names those that aren't."""
        for path in sorted(self._files("step"), reverse=True):
            try:
                state = self._read(path)
            except (OSError, ValueError) as error:
                warn(f"checkpoint {path.name} is not used: {error}")
                continue
            yield path.name, state

    def _read(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        if match is None or hashlib.sha256(content).hexdigest()[:32] != match[3]:
            raise ValueError("it is damaged")
        try:
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        except Exception as error:  # of the unpickler, which takes tensors and plain containers only
            raise ValueError(f"it can't be read: {str(error).splitlines()[0]}") from error
        if not isinstance(state, dict) or state.get("run_id") != self._run_id:
            raise ValueError("it is another run's")
        loop = state.get("loop")
        epoch, done = (loop.get(k) if isinstance(loop, dict) else None for k in ("epoch", "done"))
        if not isinstance(epoch, int) or epoch < 0 or done != int(match[2]):
            raise ValueError("it holds another step than it is named after")
        return state

    def _files(self, kind: str) -> list[Path]:
        return [p for p in self._folder.glob(f"{kind}-*.pt") if _NAME.fullmatch(p.name)]

    def _keep_writing(self) -> None:
        rest = 0.0  # seconds until the next may be written
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed, timeout=rest)
                self.busy = False
                self._wake.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                step, state, best = self._waiting.pop()
            began = time.monotonic()
            try:
                if missing := self._before():
                    raise OSError(f"the record lacks {', '.join(missing)}")
                self._write(step, state, best)
            except TakenOver:  # the run ends
                pass
            except Exception as error:  # training goes on
                if self._trouble is None:
                    warn(f"no checkpoint can be written: {error}")
                self._trouble = error
            rest = (_SHARE - 1) * (time.monotonic() - began)

    def _write(self, step: int, state: dict[str, Any], best: bool) -> None:
        buffer = io.BytesIO()
        torch.save({**state, "run_id": self._run_id}, buffer)
        content = buffer.getvalue()
        name = f"{step:012d}-{hashlib.sha256(content).hexdigest()[:32]}.pt"
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{name}.part"
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._folder / f"step-{name}")
        finally:
            with suppress(OSError):  # it isn't there any more, or nothing can be changed there now
                draft.unlink()
        if best:
            kept = self._folder / f"best-{name}"
            kept.unlink(missing_ok=True)
            os.link(self._folder / f"step-{name}", kept)
            self._forget(sorted(self._files("best"))[:-1])
        self._forget(sorted(self._files("step"))[:-_KEPT])

    def _forget(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
