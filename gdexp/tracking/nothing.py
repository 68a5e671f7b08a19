"""`tracking=none`: a record that isn't written."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from torch import Tensor


class Unrecorded:
    """Takes all that a record takes and keeps its status only."""

    run_id: str | None = None
    uri: str | None = None

    def __init__(self, name: str) -> None:
        self.name, self.status = name, "RUNNING"

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Drop the numbers."""

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Drop the weights."""

    def finish(
        self, outcome: str, files: Mapping[str, Mapping[str, Tensor]], tags: Mapping[str, object] | None = None
    ) -> None:
        """Note that the run came to its end."""
        self.status = "FINISHED"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.status = "FAILED" if issubclass(kind, Exception) else "KILLED"
