"""`python -m gdexp.ui` in a real browser: what MLflow's UI makes of the views that sweeps write."""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import gdexp

ROOT = Path(__file__).resolve().parents[1]
with_views = pytest.mark.skipif(os.environ.get("GDEXP_PLAIN") == "1", reason="GDEXP_PLAIN=1 writes no views")


class Ui:
    """The command in the background, and the address that it prints."""

    def __init__(self, folder, *words):
        command = [sys.executable, "-u", "-m", "gdexp.ui", "--no-open", "--port", "0", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)
        self.charts = self.process.stdout.readline().strip().partition(": ")[2]
        in_a_table = self.process.stdout.readline() if "CHART" in self.charts else ""
        self.table = in_a_table.strip().partition(": ")[2]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=20)


@pytest.fixture
def ui(stocked):
    started = []

    def start(*words):
        started.append(Ui(stocked, *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()


@pytest.fixture
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=2000,2600"):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def text_of(browser, address, *expected):
    """Return what a page says as soon as it says what is expected, at the latest after 40 s."""
    browser.get("about:blank")
    browser.get(address)
    shown = ""
    for _ in range(80):
        shown = browser.find_element("tag name", "body").text
        if all(word in shown for word in expected):
            break
        time.sleep(0.5)
    return shown


def axis_types(browser):
    """Return, for each chart that is drawn, how many names its lines have and the type of its value axis."""
    script = """
        return [...document.querySelectorAll('.js-plotly-plot')].map(plot => [
            new Set(plot.data.map(line => line.name)).size,
            plot._fullLayout.yaxis ? plot._fullLayout.yaxis.type : null])
    """
    return browser.execute_script(script)


@pytest.mark.slow
@with_views
def test_page_of_a_sweep_of_rates_compares_all_its_runs(stocked, ui, browser):
    table = gdexp.launch(["optimizer.lr=logspace(1e-4,1,30)"], multirun=True)
    assert 0 < (table.outcome == "diverged").sum() < 30
    page = ui()
    shown = text_of(browser, page.charts, "30 matching runs", "Parallel Coordinates")
    assert "30 matching runs" in shown and "Parallel Coordinates" in shown and "optimizer.lr vs. train_loss" in shown
    time.sleep(3)  # until the curves have come
    assert [30, "log"] in axis_types(browser)
    assert all(name in shown for name in table.name)
    browser.save_screenshot(str(stocked / "charts.png"))
    shown = text_of(browser, page.table, "30 matching runs", "gdexp.outcome", "diverged")
    assert all(word in shown for word in ("train_loss", "optimizer.lr", "gdexp.outcome", "diverged", "completed"))
    names = re.findall(r"lr=[\d.e-]+", shown)
    assert names[:5] == table[table.outcome == "completed"].sort_values("train_loss").name.tolist()[:5]


@pytest.mark.slow
@with_views
def test_page_of_optimizers_rates_and_seeds(stocked, ui, browser):
    words = ["data=iris", "model=mlp", "loss=cross_entropy", "trainer.epochs=10", "optimizer=sgd,adam,rmsprop"]
    gdexp.launch([*words, "optimizer.lr=logspace(1e-4,1,5)", "seed=0,1,2,3"], multirun=True)
    page = ui()
    shown = text_of(browser, page.charts, "60 matching runs", "Parallel Coordinates")
    assert "60 matching runs" in shown and "Parallel Coordinates" in shown and "Sort: val_loss" in shown
    time.sleep(3)
    assert axis_types(browser).count([60, "log"]) == 2  # train_loss and val_loss
    shown = text_of(browser, page.table, "60 matching runs", "gdexp.outcome")
    assert all(word in shown for word in ("val_loss", "optimizer.lr", "optimizer", "seed", "gdexp.outcome"))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["deflate;" + base64.b64encode(zlib.compress(b'{"another": "format"}')).decode(), ""])
def test_view_that_mlflow_does_not_understand_opens_the_plain_page(stocked, ui, browser, monkeypatch, state):
    monkeypatch.setenv("GDEXP_PLAIN", "" if state else "1")
    gdexp.launch(["optimizer.lr=0.001,0.01", "trainer.epochs=3"], multirun=True)
    page = ui()
    if state:  # as if the format were another one
        client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
        client.set_experiment_tag("1", f"mlflow.sharedViewState.{page.charts.partition('ShareKey=')[2]}", state)
    else:
        assert "viewStateShareKey" not in page.charts
    shown = text_of(browser, page.charts, "matching runs", "lr=0.001")
    assert "matching runs" in shown and "lr=0.001" in shown


@pytest.mark.slow
def test_report_is_shown_as_an_artifact(stocked, ui, browser, gdexp_run):
    gdexp.launch(["optimizer.lr=0.001,0.01", "trainer.epochs=3"], multirun=True)
    assert gdexp_run("--log", module="gdexp.compare").returncode == 0
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    [summary] = client.search_runs(["1"], "tags.\"gdexp.kind\" = 'sweep'")
    page = ui()
    base = page.charts.partition("/#")[0]
    path = f"/#/experiments/1/runs/{summary.info.run_id}/artifacts/report.html?workflowType=machine_learning"
    shown = text_of(browser, base + path, "report.html")
    assert "report.html" in shown and "pictures" in shown


@pytest.mark.slow
def test_server_is_on_loopback_takes_a_free_port_and_ends_with_the_command(stocked, ui):
    run_id = gdexp.launch(["trainer.epochs=3"]).run_id[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        page = ui("--port", str(port), run_id)
        host, _, place = page.charts.partition("/#")
        assert host.startswith("http://127.0.0.1:") and not host.endswith(f":{port}") and run_id in place
        with urllib.request.urlopen(f"{host}/health") as answer:
            assert answer.status == 200
        out, errors = page.end()
    assert page.process.returncode == 0 and not errors.strip()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{host}/health", timeout=2)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGHUP", "SIGTERM", "SIGKILL"])
def test_server_ends_with_the_command_however_that_ends(stocked, ui, how):
    run_id = gdexp.launch(["trainer.epochs=3"]).run_id[0]
    page = ui(run_id)
    host = page.charts.partition("/#")[0]
    made = MlflowClient(host).create_experiment("made in the UI")
    assert MlflowClient(host).get_experiment(made).artifact_location == f"{(stocked / 'mlruns').as_uri()}/{made}"
    page.process.send_signal(getattr(signal, how))
    page.process.wait(60)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{host}/health", timeout=2).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the server is still there")


@pytest.mark.slow
@with_views
def test_runs_and_sweeps_print_their_address(stocked, gdexp_run):
    one = gdexp_run("trainer.epochs=2").stdout
    run_id = gdexp.runs().run_id[0]
    assert f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}?workflowType=machine_learning" in one
    many = gdexp_run("-m", "optimizer.lr=0.001,0.01", "trainer.epochs=2").stdout
    [key] = re.findall(r"viewStateShareKey=([0-9a-f]{32})", many)
    tags = MlflowClient(f"sqlite:///{stocked}/mlflow.db").get_experiment("1").tags
    assert tags[f"mlflow.sharedViewState.{key}"].startswith("deflate;") and len(tags) >= 2


def test_ui_refuses_in_one_line(here, gdexp_run):
    done = gdexp_run("--no-open", module="gdexp.ui")
    assert done.returncode == 1 and done.stderr.startswith("gdexp: no store at") and done.stderr.count("\n") == 1
