"""`tracking=none`: a record that isn't written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor


class Unrecorded:
    """Takes all that a record takes and keeps the statuses only.

    Args:
        runs: how many.
    """

    uri: str | None = None
    folders: Sequence[Path] = ()

    def __init__(self, runs: int) -> None:
        self.run_ids: list[str | None] = [None] * runs
        self.statuses = ["RUNNING"] * runs
        self.lost: dict[int, str] = {}

    def add(self, step: int, metrics: Mapping[str, float], run: int = 0) -> None:
        """Drop the numbers."""

    def add_texts(self, texts: Mapping[str, str]) -> None:
        """Drop the texts."""

    def keep(self, weights: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Drop the weights."""

    def finish(
        self,
        outcome: str,
        files: Mapping[str, Mapping[str, Tensor]],
        tags: Mapping[str, object] | None = None,
        run: int = 0,
    ) -> None:
        """Note that a run came to its end."""
        self.statuses[run] = "FINISHED"

    def flush(self) -> Sequence[str]:
        """Do nothing."""
        return []

    def withdraw(self) -> None:
        """Forget nothing: nothing was kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end = "FAILED" if kind is not None and issubclass(kind, Exception) else "KILLED"
        self.statuses = [end if status == "RUNNING" else status for status in self.statuses]
