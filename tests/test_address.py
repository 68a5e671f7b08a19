"""Addresses mean what they mean to SQLAlchemy and to MLflow's client; what connects is never what is shown."""

import http.server
import threading
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url

import gdexp
from gdexp.tracking import address

NAMES = ["plain", "with blank", "per%20cent", "ha#sh", "umläut", "a&b=c", "it's", "ques?tion"]


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_can_be_worked_in(here, empty_store, monkeypatch, name):
    """By us, and by MLflow's own client at the address that we give it."""
    Path(name).mkdir()
    monkeypatch.chdir(here / name)
    Path("mlflow.db").write_bytes(empty_store.read_bytes())
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    assert sorted(p.name for p in Path().iterdir()) == ["mlflow.db", "mlruns"]
    assert len(gdexp.runs()) == 1 and gdexp.load(run_id).linear.weight.numel() == 1
    assert sorted(p.name for p in here.iterdir()) == [name]
    client = MlflowClient(address.store_uri())
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "config.yaml" in {a.path for a in client.list_artifacts(run_id)}


@pytest.mark.parametrize("uri", ["a.db", "a.db?timeout=60", "a b.db?timeout=60&cache=private", "a%20b.db", "a#b.db"])
def test_file_of_an_address_is_sqlalchemys(here, uri):
    whole = f"sqlite:///{here}/{uri}"
    assert address.database(whole) == Path(make_url(whole).database)
    assert address.database(address.store_uri(f"sqlite:///{uri}")) == here / make_url(whole).database.rpartition("/")[2]


def test_options_of_an_address_are_no_part_of_the_file(stocked):
    gdexp.launch(["trainer.epochs=1", "tracking.uri='sqlite:///mlflow.db?timeout=60'"])
    assert len(gdexp.runs()) == 1 and sorted(p.name for p in stocked.iterdir()) == ["mlflow.db", "mlruns"]


WRONG = {
    "sqlite://": "names no file",
    "sqlite:///": "names no file",
    "sqlite:///:memory:": "names no file",
    "http://localhost:abc": "port must be a number",
    "http://localhost:99999": "port must be a number",
    "http://loc#alhost:5000": "no part of it",
    "http://:5000": "has no host",
    "http://lo cal:5000": "blanks",
}


@pytest.mark.parametrize("uri", WRONG)
def test_what_is_no_address_is_one_line(here, uri):
    for use in (lambda: gdexp.launch([f"tracking.uri='{uri}'"]), lambda: gdexp.runs(uri=uri)):
        with pytest.raises(ValueError, match=f"`tracking.uri`: .*{WRONG[uri]}"):
            use()
    assert not list(here.iterdir())


def test_refusal_shows_no_password(here):
    with pytest.raises(ValueError, match="port must be") as refused:
        gdexp.runs(uri="http://me:sesame@host:abc")
    assert "sesame" not in str(refused.value)


def test_server_behind_a_proxy_is_reached(monkeypatch):
    """Its own name leads nowhere; MLflow's client goes by the proxy, and so do we."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        address.answers("http://mlflow.invalid:5000")
        monkeypatch.setenv("no_proxy", "mlflow.invalid")
        with pytest.raises(address.Unreachable):
            address.answers("http://mlflow.invalid:5000")
        proxy.shutdown()
