"""`python -m gdexp.ui [what]`: MLflow's own UI on a store, opened on a view that already compares."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from gdexp import stop
from gdexp.config.refusal import Refusal
from gdexp.failure import told
from gdexp.lines import say
from gdexp.tracking import view
from gdexp.tracking.places import artifact_root
from gdexp.tracking.snapshot import by_client
from gdexp.tracking.store import database, store_uri

_START_SECONDS = 90.0
_GUARD = """
import os, signal, subprocess, sys, threading

server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server answers it, and this process ends with the server


def watch():
    sys.stdin.buffer.read()  # until the one that started us is gone
    os.killpg(0, signal.SIGKILL) if os.name == "posix" else server.kill()


threading.Thread(target=watch, daemon=True).start()
sys.exit(server.wait())
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="gdexp.ui", description="Open MLflow's UI on a view that compares runs.")
    parser.add_argument(
        "what", nargs="*", help="id of a sweep or a run, name of an experiment; default: the newest sweep"
    )
    parser.add_argument("--port", type=int, default=view.PORT, help="another one is taken where it isn't free")
    parser.add_argument("--no-open", action="store_true", help="print the address, open no browser")
    words = parser.parse_args(argv)
    for number in stop.SIGNALS:  # the server ends with it
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    with told():
        try:
            serve(words.what, words.port, not words.no_open)
        except KeyboardInterrupt:  # which is how it ends
            print()


def serve(words: Sequence[str], port: int, opens: bool) -> None:
    """Show a store until it is interrupted; one on a server is only opened.

    Args:
        words: what to show, and `tracking.uri=…`.
        port: to listen at.
        opens: in a browser.

    Raises:
        Refusal: there is no such store, sweep or experiment, or MLflow's server doesn't start.
    """
    from gdexp.compare.selection import split_words

    what, uri = split_words(words)
    own = store_uri(uri)
    with by_client(own) as uri:
        if uri != own:
            say(f"{own} can't be written: a copy of it is shown, and what is changed there goes with this command")
        _serve(what, uri, port, opens)


def _serve(what: Sequence[str], uri: str, port: int, opens: bool) -> None:
    place = shared(what, uri)
    if uri.startswith("http"):
        _show(uri.rstrip("/") + place, opens)
        return
    port = _free(port)
    with tempfile.TemporaryFile() as log:
        server = _start(uri, port, log)
        try:
            _wait(server, port, log)
            _show(f"http://127.0.0.1:{port}{place}", opens)
            server.wait()
        finally:
            _end(server)


def shared(what: Sequence[str], uri: str) -> str:
    """Write the view of what is named, and return where in the UI it is."""
    from gdexp.compare.selection import select
    from gdexp.tracking.reader import reading

    with reading(uri) as reader:
        if not what and not any(not row.is_summary for row in reader.rows()):
            say("There are no runs yet.")
            return "/#/experiments?workflowType=machine_learning"
        found = select(reader, what, default="min")
    newest = found.rows[0]
    experiment_id, name, _ = view.experiment(uri, newest.run_id)
    if len(found.rows) == 1 and found.sweep is None:
        return view.path_of_run(experiment_id, newest.run_id)
    key = found.sweep or view.experiment_key(name)
    if found.sweep is None and found.experiment is None:
        key = view.experiment_key(" ".join(sorted(r.run_id for r in found.rows)))
    state = view.state(found.objective, found.least, found.params, found.filter)
    return view.path(experiment_id, key if view.write(uri, experiment_id, key, state) else "")


def _show(address: str, opens: bool) -> None:
    say(f"Charts: {address}" if view.CHARTS in address else f"Run: {address}")
    if view.CHARTS in address:
        say(f"Table: {address.replace(view.CHARTS, view.TABLE)}")
    sys.stdout.flush()
    if opens:
        webbrowser.open(address)


def _free(port: int) -> int:
    """Return a port, or where it is taken one that is free."""
    for wanted in (port, 0):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", wanted))
            except (OSError, OverflowError):
                continue
            return s.getsockname()[1]
    raise Refusal("there is no free port")


def _start(uri: str, port: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start MLflow's server, under a process that ends it as soon as this one is gone, however that ended."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if (db := database(uri)) is not None:  # an experiment that is made there takes the artifacts of runs made here
        command += ["--default-artifact-root", artifact_root(db).as_uri()]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.Popen(
        [sys.executable, "-c", _GUARD, *command, "--backend-store-uri", uri],
        env=os.environ | quiet,
        stdin=subprocess.PIPE,  # closed by the system when this process ends
        stdout=log,
        stderr=log,
        start_new_session=True,  # it has children
    )


def _wait(server: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    began = time.monotonic()
    while time.monotonic() - began < _START_SECONDS:
        if server.poll() is not None:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()
            raise Refusal(f"MLflow's server doesn't start: {words[-1] if words else 'it says nothing'}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise Refusal(f"MLflow's server doesn't answer after {_START_SECONDS:.0f} s")


def _end(server: "subprocess.Popen[bytes]") -> None:
    """Let the server end, and end it if it doesn't."""
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(5)
    if server.stdin is not None:
        server.stdin.close()


if __name__ == "__main__":
    main()
