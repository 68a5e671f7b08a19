"""Where a run comes from: commit, versions, host, process."""

import os
import platform
import socket
import subprocess
from getpass import getuser

import gdexp


class Provenance:
    """Asks git in the background, from the start of the command on.

    Untracked files don't make a checkout dirty: the store itself is one.
    """

    def __init__(self) -> None:
        try:
            self._git: subprocess.Popen[str] | None = subprocess.Popen(
                ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:  # no git here
            self._git = None

    def tags(self) -> dict[str, str]:
        """Return the tags that say so."""
        import torch

        return self._git_tags() | {
            "mlflow.user": _user(),
            "mlflow.source.name": "gdexp.run",
            "mlflow.source.type": "LOCAL",
            "gdexp.version": gdexp.__version__,
            "gdexp.torch": str(torch.__version__),
            "gdexp.python": platform.python_version(),
            "gdexp.host": socket.gethostname(),
            "gdexp.pid": str(os.getpid()),
        }

    def _git_tags(self) -> dict[str, str]:
        if self._git is None:
            return {}
        lines = self._git.communicate()[0].splitlines()
        if self._git.returncode or not lines or not lines[0].startswith("# branch.oid "):
            return {}
        commit = lines[0].removeprefix("# branch.oid ")
        dirty = any(not line.startswith("#") for line in lines)
        return {"mlflow.source.git.commit": commit, "gdexp.git_dirty": str(dirty).lower()}


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
