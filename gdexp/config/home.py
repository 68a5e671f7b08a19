"""Where a command was typed, for workers that a launcher starts elsewhere; imported at every start."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Self

from gdexp.config.refusal import Refusal

_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "GDEXP_ALLOW", "GDEXP_ARTIFACTS", "GDEXP_PLAIN")


class Home(NamedTuple):
    """Where a command was typed, for workers that a launcher starts elsewhere.

    Args:
        folder: the current directory.
        environment: variables that say where the record is and what may be built.
    """

    folder: str
    environment: Mapping[str, str]

    @classmethod
    def here(cls) -> Self:
        """Return the home of this command."""
        return cls(os.getcwd(), {name: os.environ[name] for name in _VARIABLES if name in os.environ})

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Work there.

        Raises:
            Refusal: the folder isn't there.
        """
        folder, before = os.open(".", os.O_RDONLY), {name: os.environ.get(name) for name in _VARIABLES}
        try:
            try:
                os.chdir(self.folder)
            except OSError as error:
                raise self.refusal(f"can't work in {self.folder} ({error.strerror})") from error
            _set({name: self.environment.get(name) for name in _VARIABLES})
            yield
        finally:
            _set(before)
            os.chdir(folder)
            os.close(folder)

    @staticmethod
    def refusal(what: str) -> Refusal:
        """Return what is said by a worker that can't do its share."""
        return Refusal(
            f"a worker on {socket.gethostname()} {what}: the folder where the sweep was typed and its store must be"
            " there, too, or take a launcher that stays on this machine"
        )


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
