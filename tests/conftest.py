"""Every test works in a folder of its own and runs real command lines."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Shell = Callable[..., subprocess.CompletedProcess[str]]

# a shell that starts pytest in the background lets it ignore these, and so its children would
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def _environment() -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_", "GDEXP_")) or k == "GDEXP_PLAIN"
    }
    return kept | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once by a real command: making one takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("store")
    from gdexp.tracking.store import ensure

    ensure(folder / "mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def stocked(here: Path, empty_store: Path) -> Path:
    """A fresh current directory that already has an empty store."""
    (here / "mlflow.db").write_bytes(empty_store.read_bytes())
    return here


@pytest.fixture
def cache(stocked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of its own, with what new stores are copied from."""
    from gdexp.tracking.store import template

    made = template()
    monkeypatch.setenv("XDG_CACHE_HOME", str(stocked / "cache"))
    (stocked / "cache/gdexp").mkdir(parents=True)
    if made is not None:
        shutil.copy(made, stocked / "cache/gdexp")
    return stocked / "cache/gdexp"


@pytest.fixture
def gdexp_run(here: Path) -> Shell:
    """Run `python -m gdexp.run …` in the current directory."""

    def shell(*words: str, module: str = "gdexp.run", cwd: Path = here) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=120)

    return shell


@pytest.fixture
def start_run(here: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `python -m gdexp.run …` and leave it running, at most until the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, module: str = "gdexp.run", group: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", module, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(
            subprocess.Popen(command, cwd=here, env=_environment(), text=True, start_new_session=group, **pipes)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


class Server:
    """A real `mlflow server` on loopback, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]

    def start(self) -> None:
        quiet = _environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, env=quiet, start_new_session=True, **pipes)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(self.uri)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "server.db").write_bytes(empty_store.read_bytes())
    server = Server(folder)
    server.start()
    yield server
    with contextlib.suppress(ProcessLookupError):
        server.kill()
