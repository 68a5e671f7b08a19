"""Every test works in a folder of its own and runs real command lines."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_", "GDEXP_"))}
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
def gdexp_run(here: Path) -> Shell:
    """Run `python -m gdexp.run …` in the current directory."""

    def shell(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gdexp.run", *words]
        return subprocess.run(command, cwd=here, env=_environment(), capture_output=True, text=True, timeout=120)

    return shell


@pytest.fixture
def start_run(here: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `python -m gdexp.run …` and leave it running."""

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "gdexp.run", *words]
        return subprocess.Popen(command, cwd=here, env=_environment(), stdout=subprocess.PIPE, text=True)

    return start
