"""Where a run comes from: commit, code, versions, machine, process."""

import functools
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from getpass import getuser
from hashlib import sha256
from pathlib import Path
from typing import Any

import gdexp
from gdexp.config import literals, secrets, variables
from gdexp.config.written import recorded
from gdexp.lines import say
from gdexp.tracking import code
from gdexp.tracking.store import database, mlflow_version, opened, store_uri

_GIT_SECONDS = 2.0
_DIFF_BYTES = 1_000_000
_PACKAGES = ("torch", "numpy", "hydra", "omegaconf", "safetensors", "pandas", "sklearn")


class Provenance:
    """What a command's runs have in common. Asks git in the background, from the start of the command on.

    Untracked files don't make a checkout dirty: the store itself is one.

    Args:
        words: of the command line; None: this process's.
        extra: further tags.
    """

    def __init__(self, words: Sequence[str] | None = None, extra: Mapping[str, str] | None = None) -> None:
        self._words = sys.argv if words is None else words
        self._extra = extra or {}
        self._status = _Git("status", "--porcelain=v2", "--branch", "--untracked-files=no")

    def tags(self) -> dict[str, str]:
        """Return the tags that say so."""
        import torch

        return {**self._extra, **self._git} | {
            "mlflow.user": _user(),
            "mlflow.source.name": "gdexp.run",
            "mlflow.source.type": "LOCAL",
            "gdexp.version": gdexp.__version__,
            "gdexp.torch": str(torch.__version__),
            "gdexp.python": platform.python_version(),
            "gdexp.pid": str(os.getpid()),
        }

    def texts(self, config: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, str]:
        """Return what is kept as artifacts: environment.json, the code that targets reach, git's diff.

        Args:
            config: resolved.
            also: names of code that is wanted, too.
        """
        files = {"environment.json": self._environment}
        files |= {f"code/{name}": text for name, text in code.reached(config, also).shown.items()}
        return files | ({"git.diff": self._diff} if self._git.get("gdexp.git_dirty") == "true" else {})

    @functools.cached_property
    def _environment(self) -> str:
        return json.dumps({"command": command(self._words), **_environment()}, indent=1)

    @functools.cached_property
    def _diff(self) -> str:
        diff = _Git("diff", "HEAD", "--no-color", "--no-ext-diff").answer() or ""
        cut = f"\n… {len(diff) - _DIFF_BYTES} more characters\n" if len(diff) > _DIFF_BYTES else ""
        return secrets.hide(literals.hide(diff[:_DIFF_BYTES])) + cut

    @functools.cached_property
    def _git(self) -> dict[str, str]:
        if (said := self._status.answer()) is None:
            return {}
        lines = said.splitlines()
        heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
        if "branch.oid" not in heads:
            return {}
        dirty = any(not line.startswith("#") for line in lines)
        tags = {"mlflow.source.git.commit": heads["branch.oid"], "mlflow.source.git.branch": heads["branch.head"]}
        known = {key: said for key, said in tags.items() if not said.startswith("(")}  # as (initial), (detached)
        return known | {"gdexp.git_dirty": str(dirty).lower()}


def job_keys(configs: Sequence[Mapping[str, Any]], data: str) -> list[str]:
    """Return what tells jobs with the same data and code from each other and from all others, in hexadecimal.

    Args:
        configs: resolved.
        data: the SHA-256 of the data.
    """
    import torch

    reached = code.reached(configs[0])
    token = ""
    if reached.unknown:
        _say_unknown(reached.unknown)
        token = os.urandom(16).hex()  # like no other job's
    shared = json.dumps([data, gdexp.__version__, str(torch.__version__), *reached.texts.items(), token])
    return [sha256(f"{shared}\n{_numbers_of(config)}".encode()).hexdigest() for config in configs]


def environment_key(config: Mapping[str, Any], sweep: str | None) -> str:
    """Return what digests of values from the environment are keyed by: what other runs of the store have, else new.

    Args:
        config: the `tracking` node.
        sweep: that the run belongs to, whose runs may be begun by several processes.
    """
    db = database(store_uri(config["uri"])) if config["writer"] == "auto" else None
    tables = opened(db) if db is not None and db.is_file() else None
    if tables is not None:
        with closing(tables):
            rows = tables.select("SELECT value FROM tags WHERE key=? ORDER BY run_uuid LIMIT 1", variables.TAG)
        if rows:
            with suppress(ValueError, RecursionError):  # the tag is damaged
                return variables.read(str(rows[0][0]))[0]
    if sweep:
        return sha256(f"gdexp {sweep}".encode()).hexdigest()[:32]
    return os.urandom(16).hex()


@functools.cache
def _say_unknown(reason: str) -> None:
    say(f"No job counts as already done: {reason}")


def _numbers_of(config: Mapping[str, Any]) -> str:
    """Return the part of a config that decides about the numbers of a run."""
    trainer = {k: v for k, v in config["trainer"].items() if k != "log_every" and not k.startswith("checkpoint_")}
    start = _start(config)
    numbers = recorded(config) | {"trainer": trainer} | ({"start": start} if start else {})
    return json.dumps(numbers, sort_keys=True, default=str)


def _start(config: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of the weights that a model starts from, None if there are none that can be read."""
    if (wanted := config["model"].get("weights")) is None:
        return None
    from gdexp.config.refusal import Refusal
    from gdexp.tracking.source import source

    try:
        return source(wanted, config["tracking"]["uri"]).sha256
    except Refusal:  # the job says so, or its model takes such an argument itself
        return None


def command(words: Sequence[str]) -> list[str]:
    """Return the words of the command line, without passwords in keys named like them and in addresses."""
    shown = [secrets.word(word) for word in words]
    for i, word in enumerate(words[:-1]):  # of a script of the user's own: --api-key VALUE
        if word.startswith("-") and "=" not in word and secrets.is_secret(word.lstrip("-")):
            shown[i + 1] = secrets.HIDDEN
    return shown


class _Git:
    """A question to git, asked in the background; a thread waits for its process, even if nobody wants the answer."""

    def __init__(self, *words: str) -> None:
        self._said: str | None = None
        try:
            self._process = subprocess.Popen(
                ["git", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError:  # there is no git
            return
        self._thread = threading.Thread(target=self._wait, name="gdexp-git", daemon=True)
        self._thread.start()

    def answer(self) -> str | None:
        """Return what git says, None where it fails, or hangs for two seconds, like on a broken file system."""
        if not hasattr(self, "_thread"):
            return None
        self._thread.join(_GIT_SECONDS)
        if self._thread.is_alive():
            self._process.kill()
            return None
        return self._said

    def _wait(self) -> None:
        said, _ = self._process.communicate()
        self._said = said if self._process.returncode == 0 else None


def _environment() -> dict[str, object]:
    import torch

    versions = {name: str(getattr(sys.modules[name], "__version__", "")) for name in _PACKAGES if name in sys.modules}
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "packages": {"gdexp": gdexp.__version__, "mlflow": mlflow_version(), **versions},
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
