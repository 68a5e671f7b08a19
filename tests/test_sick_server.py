"""Servers that hang, answer with errors or cut the line: nothing is lost, and nothing stays RUNNING there."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow.tracking import MlflowClient

import gdexp
from gdexp import store
from gdexp.tracking import client

HOOK = """
from pathlib import Path
def falls_ill(epoch, model):
    if epoch.epoch == 3:
        Path("sick").touch()
"""


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server; how it is sick, and since when, is told by `is_sick(path)`."""

    daemon_threads = True

    def __init__(self, port, how, is_sick):
        super().__init__(("127.0.0.1", 0), Through)
        self.port, self.how, self.is_sick = port, how, is_sick
        self.well_again = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Through(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sick, how = not self.server.well_again.is_set() and self.server.is_sick(self.path), self.server.how
        if sick and how == "500":
            return self.answer(500, b"{}")
        if sick and how == "slow":
            sick = time.sleep(1.2)  # and then it does and says all
        far = http.client.HTTPConnection("127.0.0.1", self.server.port)
        far.request(self.command, self.path, body, dict(self.headers))
        answer = far.getresponse()
        content = answer.read()
        if sick:  # the server has done it, and nobody hears of it
            if how == "hang":
                self.server.well_again.wait()
            self.close_connection = True
            return None
        return self.answer(answer.status, content, answer.getheader("Content-Type"))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def answer(self, status, content, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def through(server, monkeypatch):
    """Make a proxy in front of the server, and be less patient than usual."""
    monkeypatch.setattr(client, "_PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(client, "_ANSWER_SECONDS", 4.0)
    made = []

    def proxy(how, is_sick):
        made.append(Proxy(server.port, how, is_sick))
        return made[-1]

    yield proxy
    for one in made:
        one.well_again.set()
        one.shutdown()
        one.server_close()


def is_whole(server, epochs):
    """Assert that the server has a single run, which has ended, with all its numbers."""
    far = MlflowClient(server.uri)
    [run] = far.search_runs([e.experiment_id for e in far.search_experiments()])
    assert run.info.status == "FINISHED"
    assert [m.step for m in far.get_metric_history(run.info.run_id, "train_loss")] == list(range(1, epochs + 1))
    assert "weights.safetensors" in {file.path for file in far.list_artifacts(run.info.run_id)}
    return run.info.run_id


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "500", "cut"])
def test_server_that_falls_ill_at_the_end_has_all_after_the_next_sync(server, stocked, through, capsys, how):
    (stocked / "hooks.py").write_text(HOOK)
    proxy = through(how, lambda path: (stocked / "sick").exists())
    words = ["trainer.epochs=3", "trainer.on_epoch=[hooks.falls_ill]", f"tracking.uri={proxy.uri}"]
    [run_id] = gdexp.launch(words).run_id
    assert "gdexp.store sync --to" in capsys.readouterr().err and gdexp.load(run_id)
    proxy.well_again.set()
    for _ in range(2):  # nothing is doubled
        store.sync(stocked / "mlflow.db", proxy.uri)
        assert is_whole(server, 3) == run_id


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "500", "cut"])
@pytest.mark.parametrize("at", ["runs/create", "runs/log-batch"])
def test_run_that_was_begun_before_the_server_fell_ill_is_ended_there(server, stocked, through, gdexp_run, how, at):
    """Synced, its end raised, and synced again."""
    proxy = through(how, lambda path: path.endswith(at))
    [run_id] = gdexp.launch(["trainer.epochs=3", f"tracking.uri={proxy.uri}"]).run_id
    assert gdexp.load(run_id)
    proxy.well_again.set()
    store.sync(stocked / "mlflow.db", proxy.uri)
    there = is_whole(server, 3)
    done = gdexp_run(run_id, "trainer.epochs=5", module="gdexp.resume")
    assert done.returncode == 0, done.stderr
    store.sync(stocked / "mlflow.db", proxy.uri)
    assert is_whole(server, 5) == there


@pytest.mark.slow
def test_server_that_answers_slowly_may_take_its_time(server, stocked, through, capsys):
    """Longer than one that doesn't answer at all is waited for."""
    (stocked / "hooks.py").write_text(HOOK)
    proxy = through("slow", lambda path: (stocked / "sick").exists())
    words = ["trainer.epochs=3", "trainer.on_epoch=[hooks.falls_ill]", f"tracking.uri={proxy.uri}"]
    assert list(gdexp.launch(words).run_id) == [is_whole(server, 3)]
    assert "is kept in" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "500"])
def test_run_that_is_taken_back_from_a_sick_server_is_deleted_by_the_next_command(server, stocked, cache, through, how):
    (stocked / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    calls = None\n    def forward(self, x):\n"
        "        self.calls = iter([1])\n        return super().forward(x)\n"
    )
    proxy = through(how, lambda path: path.endswith("runs/delete"))
    net = ["model=custom", "model._target_=net.Net", "+model.in_features=1", "+model.out_features=1"]
    far = MlflowClient(server.uri)
    every = [e.experiment_id for e in far.search_experiments()]

    def runs():
        return far.search_runs([e.experiment_id for e in far.search_experiments()])

    with pytest.raises(ValueError, match="or take null"):
        gdexp.launch([*net, "trainer.epochs=3", "trainer.checkpoint_every=1", f"tracking.uri={proxy.uri}"])
    assert len(runs()) == (how == "500") and len(every) == 1  # a server that hangs has done it
    proxy.well_again.set()
    assert list(gdexp.launch(["trainer.epochs=1"]).status) == ["FINISHED"]
    store.sync(stocked / "mlflow.db", proxy.uri)
    assert [run.info.status for run in runs()] == ["FINISHED"] and not list(cache.glob("withdrawn/*"))
