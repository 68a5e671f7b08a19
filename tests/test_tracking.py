"""The record under fire: both ways alike, endings told truly, nothing lost."""

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import gdexp
from gdexp.tracking import store
from gdexp.tracking.sqlite import KNOWN, Tables

ENDLESS = ("trainer.epochs=100000000", "trainer.log_every=100")


def only(table):
    [run] = table.to_dict("records")
    return run


def first_line(process):
    """Wait until a run trains."""
    assert process.stdout.readline().startswith("Epoch [100/")


def pythons():
    """Return the interpreters that have an MLflow: this one, and those named in the environment."""
    return [sys.executable, *os.environ.get("GDEXP_OTHER_MLFLOWS", "").split()]


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons())
def test_both_ways_write_the_same(tmp_path, python):
    script = Path(__file__).with_name("both_ways.py")
    done = subprocess.run([python, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] in KNOWN


@pytest.mark.slow
def test_both_ways_read_alike(tmp_path):
    script = Path(__file__).with_name("both_ways.py")
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    queries = [
        ("", ["attributes.start_time ASC"]),
        ("metrics.train_loss < 1", ["metrics.train_loss DESC", "attributes.start_time ASC"]),
        ("params.`optimizer.p1` LIKE '0%'", ["params.`optimizer.p2` ASC", "attributes.start_time ASC"]),
        ("tags.`gdexp.sweep` = '2' and attributes.status = 'FINISHED'", ["attributes.run_name ASC"]),
        ("attributes.run_name LIKE 'η%'", ["attributes.end_time DESC"]),
    ]
    found = []
    for name in ("direct", "client"):
        client = MlflowClient(f"sqlite:///{tmp_path}/{name}.db")
        ids = [e.experiment_id for e in client.search_experiments(order_by=["name"])]
        runs = [client.search_runs(ids, text, order_by=order) for text, order in queries]
        shown = [
            [(r.info.run_name, r.info.status, r.info.end_time, repr(r.data.metrics), r.data.params) for r in q]
            for q in runs
        ]
        inputs = [
            [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in r.inputs.dataset_inputs] for r in runs[0]
        ]
        curves = [sorted(map(repr, map(dict, client.get_metric_history(r.info.run_id, "train_loss")))) for r in runs[0]]
        found.append(
            (shown, inputs, [c.replace(r.info.run_id, "") for r, cs in zip(runs[0], curves, strict=True) for c in cs])
        )
    assert found[0] == found[1] and all(found[0][0])


def test_a_run_is_the_same_run_both_ways(stocked):
    rows = []
    for writer in ("auto", "client"):
        words = [
            "data=iris",
            "model=logistic",
            "trainer.epochs=30",
            f"tracking.writer={writer}",
            f"tracking.experiment={writer}",
        ]
        run = only(gdexp.launch(words))
        client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
        entity = client.get_run(run["run_id"])
        artifacts = sorted(a.path for a in client.list_artifacts(run["run_id"]))
        tags = entity.data.tags
        curve = [(m.step, m.value) for m in client.get_metric_history(run["run_id"], "val_loss")]
        data = [(i.dataset.name, i.dataset.digest) for i in entity.inputs.dataset_inputs]
        rows.append((entity.data.params, tags, entity.data.metrics, curve, artifacts, data, entity.info.status))
        assert f"/mlruns/{writer}/" in entity.info.artifact_uri and len(curve) == 30
        assert (gdexp.load(run["run_id"]).linear.weight != 0).all()
    assert rows[0] == rows[1]


def test_curve_of_a_running_run_is_there_within_two_seconds(start_run, stocked):
    run = start_run(*ENDLESS)
    first_line(run)
    time.sleep(2)
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    [found] = client.search_runs(["1"])
    asked = time.time() * 1000  # reading them by MLflow's client takes time, too
    last = max(m.timestamp for m in client.get_metric_history(found.info.run_id, "train_loss"))
    assert found.info.status == "RUNNING" and asked - last < 2500
    run.kill()
    run.communicate()


def killed(start_run, folder, seconds):
    """Kill a run after a while; return when, and its last recorded epoch's time."""
    run = start_run(*ENDLESS)
    first_line(run)
    time.sleep(seconds)
    os.kill(run.pid, signal.SIGKILL)
    when = time.time()
    run.communicate()
    return when


@pytest.mark.slow
def test_killed_run_is_closed_by_the_next_command(start_run, gdexp_run, stocked):
    when = killed(start_run, stocked, 2.5)
    alive = start_run(*ENDLESS)
    first_line(alive)
    done = gdexp_run("trainer.epochs=1")
    assert done.returncode == 0 and "closed as KILLED" not in done.stderr  # the run before it has said so
    table = gdexp.runs()
    assert sorted(table.status) == ["FINISHED", "KILLED", "RUNNING"]
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    run_id = table[table.status == "KILLED"].run_id.item()
    last = client.get_metric_history(run_id, "train_loss")[-1]
    assert client.get_run(run_id).info.end_time == last.timestamp and when - last.timestamp / 1000 < 2
    assert client.download_artifacts(run_id, "config.yaml")
    alive.send_signal(signal.SIGTERM)
    assert alive.communicate()[1].count("closed as KILLED: its process is gone") == 1


@pytest.mark.slow
def test_ten_kills_lose_nothing_older_than_two_seconds(start_run, gdexp_run, stocked):
    draw = random.Random(0)
    times = [killed(start_run, stocked, draw.uniform(0, 3)) for _ in range(10)]
    assert gdexp_run("check", module="gdexp.store").returncode == 0
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    runs = client.search_runs(["1"], order_by=["attributes.start_time ASC"])
    assert [r.info.status for r in runs] == ["KILLED"] * 10
    for when, run in zip(times, runs, strict=True):
        last = max((m.timestamp for m in client.get_metric_history(run.info.run_id, "train_loss")), default=None)
        assert when - (last or run.info.start_time) / 1000 < 2.2
    assert sqlite3.connect(stocked / "mlflow.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_run_that_cannot_be_looked_at_is_alive_while_its_heart_beats(gdexp_run, stocked):
    """As on a machine whose locks aren't heard here: whatever its clock says, it is this one's that decides."""
    run_id = only(gdexp.launch(["trainer.epochs=1"]))["run_id"]
    tables = Tables(stocked / "mlflow.db")
    tables.execute("UPDATE runs SET status='RUNNING', end_time=NULL, start_time=1")
    tables.execute("UPDATE latest_metrics SET timestamp=2")

    def later(seconds, beat):
        """Return what a command says so many seconds after the last one."""
        tables.add_tags(run_id, {"gdexp.host": "far", "gdexp.heartbeat": str(beat)})
        if tables.select("SELECT 1 FROM sqlite_master WHERE name='gdexp_seen'"):
            tables.execute("UPDATE gdexp_seen SET since=since-?", seconds)
        done = gdexp_run("check", module="gdexp.store")
        return done.returncode, "says RUNNING on far" in done.stdout, "closed as KILLED" in done.stdout

    for seconds, beat in ((0, 1), (200, 1), (400, 2), (400, 1), (200, 1)):
        assert later(seconds, beat) == (0, True, False)
    refused = gdexp_run(run_id, module="gdexp.resume")
    assert refused.returncode == 1 and "it can't be told from here" in refused.stderr.splitlines()[-1]
    assert later(200, 1) == (0, False, True)
    assert tables.select("SELECT status, end_time FROM runs") == [("KILLED", 2)]
    tables.close()


def test_moved_folder_keeps_its_artifacts(here, gdexp_run, tmp_path_factory):
    run_id = only(gdexp.launch(["trainer.epochs=2"]))["run_id"]
    new = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(here, new)
    shutil.rmtree(here / "mlruns")
    model = gdexp.load(run_id, uri=f"sqlite:///{new}/mlflow.db")
    assert model.linear.weight.isfinite().all()
    assert gdexp_run("trainer.epochs=1", cwd=new).returncode == 0
    client = MlflowClient(f"sqlite:///{new}/mlflow.db")
    assert all(str(new) in r.info.artifact_uri for r in client.search_runs(["1"])) and not (here / "mlruns").exists()


def test_copied_database_is_whole(stocked, tmp_path_factory):
    gdexp.launch(["trainer.epochs=2"])
    copy = tmp_path_factory.mktemp("copy") / "only.db"
    shutil.copy(stocked / "mlflow.db", copy)
    assert len(gdexp.runs(uri=f"sqlite:///{copy}")) == 1 and not (stocked / "mlflow.db-wal").exists()


@pytest.mark.slow
def test_thirty_two_commands_share_a_fresh_directory(start_run, here):
    running = [start_run("trainer.epochs=2", f"seed={i}") for i in range(32)]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 32, outputs
    assert set(gdexp.runs().status) == {"FINISHED"} and len(gdexp.runs()) == 32
    assert sorted(p.name for p in here.iterdir()) == ["mlflow.db", "mlruns"]


@pytest.mark.slow
def test_store_of_another_schema_goes_by_the_client_or_says_what_to_do(gdexp_run, stocked):
    sqlite3.connect(stocked / "mlflow.db", isolation_level=None).execute(
        "UPDATE alembic_version SET version_num='451aebb31d03'"
    )
    done = gdexp_run("trainer.epochs=1")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "mlflow db upgrade" in done.stderr
    done = gdexp_run("check", module="gdexp.store")
    assert f"mlflow db upgrade sqlite:///{stocked}/mlflow.db" in done.stdout


def test_check_repairs_a_half_made_store(gdexp_run, here):
    (here / "mlflow.db").touch()
    done = gdexp_run("check", module="gdexp.store")
    assert done.returncode == 0 and "half-made" in done.stdout and store.revision(here / "mlflow.db") in KNOWN
    (here / "notes.db").write_text("a text that is no store at all")
    assert gdexp_run("check", "notes.db", module="gdexp.store").returncode == 1
    assert (here / "notes.db").read_text().startswith("a text")


def test_check_names_missing_artifacts(gdexp_run, stocked):
    run = only(gdexp.launch(["trainer.epochs=1"]))
    [weights] = stocked.glob("mlruns/**/weights.safetensors")
    weights.unlink()
    done = gdexp_run("check", module="gdexp.store")
    assert f"({run['run_id']}): weights.safetensors is missing" in done.stdout


@pytest.fixture
def small_disk(here):
    """A file system of 3 MB."""
    disk = here / "small"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("a tmpfs can't be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_full_disk_is_said_and_the_run_is_kept_elsewhere(gdexp_run, start_run, small_disk, cache, empty_store):
    (small_disk / "mlflow.db").write_bytes(empty_store.read_bytes())
    (small_disk.parent / "hooks.py").write_text("import time\ndef slow(epoch, model):\n    time.sleep(0.005)\n")
    run = start_run(*ENDLESS, f"tracking.uri=sqlite:///{small_disk}/mlflow.db", "trainer.on_epoch=[hooks.slow]")
    first_line(run)
    (small_disk / "filler").write_bytes(
        b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192)
    )
    time.sleep(3)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate()[1]
    assert run.returncode != 0 and errors.count("training goes on") == 1, errors
    [kept] = cache.glob("kept/gdexp-kept-*.db")
    assert str(kept) in errors and not list(small_disk.glob("*gdexp-kept*"))
    assert sqlite3.connect(small_disk / "mlflow.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (small_disk / "filler").unlink()
    done = gdexp_run("check", str(small_disk / "mlflow.db"), module="gdexp.store")
    assert done.returncode == 0 and "taken in" in done.stdout and not kept.exists()
    [run] = gdexp.runs(uri=f"sqlite:///{small_disk}/mlflow.db").to_dict("records")
    said = re.search(r"interrupted after epoch (\d+)", errors)
    assert run["status"] == "KILLED" and gdexp.load(run["run_id"], uri=f"sqlite:///{small_disk}/mlflow.db")
    history = MlflowClient(f"sqlite:///{small_disk}/mlflow.db").get_metric_history(run["run_id"], "train_loss")
    assert [m.step for m in history] == list(range(1, int(said[1]) + 1))


@pytest.mark.slow
def test_store_that_is_locked_to_the_end(gdexp_run, stocked, cache):
    (stocked / "locks.py").write_text(
        "import sqlite3\n"
        "lock = []\n"
        "def hook(epoch, model):\n"
        "    if epoch.epoch == 3:\n"
        "        lock.append(sqlite3.connect('mlflow.db', isolation_level=None, timeout=60))\n"
        "        lock[0].execute('BEGIN EXCLUSIVE')\n"
    )
    done = gdexp_run("trainer.epochs=9", "trainer.on_epoch=[locks.hook]")
    assert done.returncode == 1 and "kept in" in done.stderr and "Outcome: completed" in done.stdout
    assert "is taken in" in gdexp_run("trainer.epochs=1").stderr
    table = gdexp.runs()
    assert list(table.status) == ["FINISHED"] * 2 and gdexp.load(table.run_id[1])


@pytest.mark.slow
def test_disk_that_has_room_again_gets_all(start_run, small_disk, empty_store):
    (small_disk / "mlflow.db").write_bytes(empty_store.read_bytes())
    (small_disk / "hooks.py").write_text("import time\ndef slow(epoch, model):\n    time.sleep(0.02)\n")
    shutil.copy(small_disk / "hooks.py", small_disk.parent)
    uri = f"sqlite:///{small_disk}/mlflow.db"
    run = start_run(
        "trainer.epochs=300", f"tracking.uri={uri}", "trainer.on_epoch=[hooks.slow]", "trainer.log_every=100"
    )
    first_line(run)
    (small_disk / "filler").write_bytes(
        b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192)
    )
    time.sleep(1.5)
    (small_disk / "filler").unlink()
    output = run.communicate()
    assert run.returncode == 0, output
    found = only(gdexp.runs(uri=uri))
    history = MlflowClient(uri).get_metric_history(found["run_id"], "train_loss")
    assert found["status"] == "FINISHED" and [m.step for m in history] == list(range(1, 301))


def test_read_only_store_is_refused(gdexp_run, small_disk, empty_store):
    (small_disk / "mlflow.db").write_bytes(empty_store.read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = gdexp_run(f"tracking.uri=sqlite:///{small_disk}/mlflow.db")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "can't be" in done.stderr


def test_provenance_is_recorded(stocked):
    (stocked / "deep.py").write_text("WIDTH = 3\ndef init(x):\n    return x\n")
    (stocked / "net.py").write_text(
        "from torch import nn\nfrom deep import init\nclass Net(nn.Linear):\n    twist = init\n"
    )
    (stocked / "tracked.txt").write_text("one\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-qb", "trunk"], ["add", "tracked.txt"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    (stocked / "tracked.txt").write_text("two\n")
    run = only(gdexp.launch(["model=custom", "model._target_=net.Net", "trainer.epochs=1"]))
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    folder = Path(client.download_artifacts(run["run_id"], ""))
    assert (folder / "code/net.py").read_text() == (stocked / "net.py").read_text()
    assert (folder / "code/deep.py").read_text().startswith("WIDTH") and "+two" in (folder / "git.diff").read_text()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["mlflow"] and environment["threads"] >= 1 and environment["command"]
    tags = client.get_run(run["run_id"]).data.tags
    assert (tags["gdexp.git_dirty"], tags["mlflow.source.git.branch"]) == ("true", "trunk")


def test_password_in_the_address_is_not_recorded(gdexp_run, stocked):
    done = gdexp_run("tracking.uri=http://user:hunter2@127.0.0.1:1", "trainer.epochs=1")
    assert done.returncode == 0 and "hunter2" not in done.stderr + done.stdout
    stored = (stocked / "mlflow.db").read_bytes() + b"".join(p.read_bytes() for p in stocked.glob("mlruns/**/*.*"))
    assert b"hunter2" not in stored and len(gdexp.runs()) == 1


@pytest.mark.slow
def test_server_that_was_never_there(gdexp_run, server, stocked):
    nowhere = server.uri.replace(str(server.port), "9")
    done = gdexp_run(f"tracking.uri={nowhere}", "trainer.epochs=20", "data=iris", "model=logistic")
    assert done.returncode == 0 and f"gdexp.store sync --to {nowhere}" in done.stderr
    assert only(gdexp.runs())["status"] == "FINISHED"
    syncs = [gdexp_run("sync", "--to", server.uri, module="gdexp.store") for _ in range(2)]
    assert (
        [s.returncode for s in syncs] == [0, 0]
        and syncs[0].stdout.startswith("1 runs")
        and syncs[1].stdout.startswith("0")
    )
    same_on_both(server.uri, f"sqlite:///{stocked}/mlflow.db")


def same_on_both(far, near):
    """Assert that a server has the runs of a local store, with every number and file."""
    theirs, ours = MlflowClient(far), MlflowClient(near)
    experiments = [e for e in ours.search_experiments() if e.experiment_id != "0"]
    for experiment in experiments:
        there = theirs.get_experiment_by_name(experiment.name)
        runs = [
            sorted(c.search_runs([e.experiment_id]), key=lambda r: (r.info.start_time, r.info.run_name))
            for c, e in ((ours, experiment), (theirs, there))
        ]
        assert len(runs[0]) == len(runs[1])
        for a, b in zip(*runs, strict=True):
            assert a.data.params == b.data.params and a.data.metrics == b.data.metrics
            assert (a.info.status, a.info.start_time, a.info.end_time) == (
                b.info.status,
                b.info.start_time,
                b.info.end_time,
            )
            for name in a.data.metrics:
                curves = [
                    [(m.step, m.value, m.timestamp) for m in c.get_metric_history(r.info.run_id, name)]
                    for c, r in ((ours, a), (theirs, b))
                ]
                assert sorted(curves[0]) == sorted(curves[1])
            files = [sorted(f.path for f in c.list_artifacts(r.info.run_id)) for c, r in ((ours, a), (theirs, b))]
            digests = [[i.dataset.digest for i in r.inputs.dataset_inputs] for r in (a, b)]
            assert files[0] == files[1] and digests[0] == digests[1]
            trained = a.data.tags.get("gdexp.kind") != "sweep"
            assert ("weights.safetensors" if trained else "sweep.csv") in files[0] and len(digests[0]) == trained


@pytest.mark.slow
def test_server_gets_the_run_while_it_trains(start_run, server, stocked):
    run = start_run(*ENDLESS, f"tracking.uri={server.uri}")
    first_line(run)
    time.sleep(4)
    client = MlflowClient(server.uri)
    [found] = client.search_runs([client.get_experiment_by_name("gdexp").experiment_id])
    last = client.get_metric_history(found.info.run_id, "train_loss")
    assert found.info.status == "RUNNING" and len(last) > 100
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert run.returncode == 130 and client.get_run(found.info.run_id).info.status == "KILLED"
    assert gdexp.load(found.info.run_id, uri=server.uri).linear.weight.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_run_that_is_cut_off_on_its_way_goes_on_here_and_is_sent_again(start_run, gdexp_run, stocked, cache, how):
    (stocked / "far").mkdir()
    shutil.copy("mlflow.db", "far/mlflow.db")
    far = f"sqlite:///{stocked}/far/mlflow.db"
    (stocked / "hooks.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "states = 'cache/gdexp/spools/*/artifacts/*/*/checkpoints/step*'\n"
        "def hook(epoch, model):\n"
        "    while epoch.epoch == 9 and not list(Path().glob(states)) and not Path('in').exists(): time.sleep(0.01)\n"
        "    while epoch.epoch == 10 and not Path('go').exists():\n"
        "        Path('in').touch()\n"
        "        time.sleep(0.01)\n"
    )
    words = ["trainer.epochs=12", "trainer.on_epoch=[hooks.hook]", "trainer.checkpoint_every=1"]
    run = start_run(*words, f"tracking.uri={far}", "tracking.writer=client")
    while not (stocked / "in").exists() and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(getattr(signal, how))
    if how == "SIGKILL":
        run.wait()
    (stocked / "go").touch()
    errors = run.communicate()[1] if how == "SIGTERM" else ""
    assert gdexp_run("check", module="gdexp.store").returncode == 0
    [(run_id, status)] = sqlite3.connect("mlflow.db").execute("SELECT run_uuid, status FROM runs")
    assert status == "KILLED" and (how == "SIGKILL" or f"gdexp.resume {run_id}" in errors), errors
    assert not list(cache.glob("spools/*"))

    def synced():
        done = gdexp_run("sync", "--to", far, module="gdexp.store")
        return done.returncode, done.stdout.split()[0]

    assert synced() == (0, "1") and synced() == (0, "0")
    done = gdexp_run(run_id, module="gdexp.resume")
    assert done.returncode == 0 and "goes on after epoch" in done.stdout, done.stderr
    assert synced() == (0, "1")
    client = MlflowClient(far)
    history = client.get_metric_history(run_id, "train_loss")
    assert client.get_run(run_id).info.status == "FINISHED" and [m.step for m in history] == list(range(1, 13))
    assert len(client.search_runs([client.get_experiment_by_name("gdexp").experiment_id])) == 1


@pytest.mark.slow
def test_server_that_is_restarted_gets_everything(start_run, server, stocked):
    (stocked / "hooks.py").write_text("import time\ndef slow(epoch, model):\n    time.sleep(0.03)\n")
    words = ("trainer.epochs=400", "trainer.log_every=100", "trainer.on_epoch=[hooks.slow]")
    run = start_run(*words, f"tracking.uri={server.uri}")
    first_line(run)
    server.kill()
    time.sleep(3)
    server.start()
    output = run.communicate()
    assert run.returncode == 0 and "doesn't answer" in output[1], output
    client = MlflowClient(server.uri)
    [found] = client.search_runs([client.get_experiment_by_name("gdexp").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train_loss")
    assert found.info.status == "FINISHED" and [m.step for m in history] == list(range(1, 401))


@pytest.mark.slow
def test_server_that_is_gone_at_the_end(start_run, gdexp_run, server, stocked):
    (stocked / "hooks.py").write_text("import time\ndef slow(epoch, model):\n    time.sleep(0.02)\n")
    run = start_run(
        "trainer.epochs=200", "trainer.log_every=100", "trainer.on_epoch=[hooks.slow]", f"tracking.uri={server.uri}"
    )
    first_line(run)
    server.kill()
    output = run.communicate()
    assert run.returncode == 0 and "store sync --to" in output[1], output
    here = only(gdexp.runs())
    assert here["status"] == "FINISHED" and gdexp.load(here["run_id"]).linear.weight.isfinite().all()
    server.start()
    first, second = (start_run("sync", "--to", server.uri, module="gdexp.store") for _ in range(2))
    assert [p.communicate() and p.returncode for p in (first, second)] == [0, 0]
    same_on_both(server.uri, f"sqlite:///{stocked}/mlflow.db")


@pytest.mark.slow
def test_sync_that_is_killed_completes_without_doubling(start_run, gdexp_run, server, stocked):
    gdexp.launch(["optimizer.lr=0.001,0.002,0.003,0.004,0.005,0.006", "trainer.epochs=300"], multirun=True)
    for seconds in (2.5, 3.0):
        sync = start_run("sync", "--to", server.uri, module="gdexp.store")
        time.sleep(seconds)
        sync.kill()
        sync.communicate()
    done = gdexp_run("sync", "--to", server.uri, module="gdexp.store")
    assert done.returncode == 0, done.stderr
    same_on_both(server.uri, f"sqlite:///{stocked}/mlflow.db")


def test_merge_joins_two_stores(here, gdexp_run):
    for name, rates in (("a", "0.01,0.02"), ("b", "0.03")):
        (here / name).mkdir()
        gdexp.launch(
            [f"optimizer.lr={rates}", f"tracking.uri=sqlite:///{here}/{name}/mlflow.db", "trainer.epochs=3"],
            multirun=True,
        )
    for expected in ("3 runs", "0 runs"):  # two and their summary
        done = gdexp_run("merge", "a/mlflow.db", "b/mlflow.db", module="gdexp.store")
        assert done.returncode == 0 and done.stdout.startswith(expected), done.stderr
    table = gdexp.runs(uri=f"sqlite:///{here}/b/mlflow.db")
    assert sorted(table["optimizer.lr"]) == [0.01, 0.02, 0.03]
    shutil.rmtree(here / "a")
    for run_id in table.run_id:
        assert gdexp.load(run_id, uri=f"sqlite:///{here}/b/mlflow.db").linear.weight.isfinite().all()


def test_merge_keeps_the_record_that_knows_more(here, gdexp_run):
    [run_id] = gdexp.launch(["trainer.epochs=4", "trainer.checkpoint_every=1"]).run_id
    shutil.copytree(here, here.parent / "copy")
    copy = here.parent / "copy"
    tables = Tables(copy / "mlflow.db")  # as it was before the end
    tables.execute("UPDATE runs SET status='KILLED', end_time=1")
    tables.close()
    [weights] = copy.glob("mlruns/**/weights.safetensors")
    weights.unlink()

    def merged(source, target):
        done = gdexp_run("merge", f"{source}/mlflow.db", f"{target}/mlflow.db", module="gdexp.store")
        assert done.returncode == 0, done.stderr
        found = only(gdexp.runs(uri=f"sqlite:///{target}/mlflow.db"))
        gdexp.load(run_id, uri=f"sqlite:///{target}/mlflow.db")
        curve = MlflowClient(f"sqlite:///{target}/mlflow.db").get_metric_history(run_id, "train_loss")
        return done.stdout[:6], found["status"], len(curve)

    assert merged(copy, here) == ("0 runs", "FINISHED", 4)
    assert merged(here, copy) == ("1 runs", "FINISHED", 4)
    assert gdexp_run(run_id, "trainer.epochs=7", module="gdexp.resume").returncode == 0
    assert merged(copy, here) == ("0 runs", "FINISHED", 7)
    tables = Tables(copy / "mlflow.db")  # it is trained there, too
    tables.execute("UPDATE runs SET status='RUNNING'")
    tables.add_tags(run_id, {"gdexp.process": "- - - 1 1", "gdexp.heartbeat": str(int(time.time() * 1000))})
    tables.close()
    assert merged(here, copy) == ("0 runs", "RUNNING", 4)


@pytest.mark.slow
def test_merges_at_once_bring_all(start_run, here):
    for name in "abcd":
        (here / name).mkdir()
        gdexp.launch([f"tracking.uri=sqlite:///{here}/{name}/mlflow.db", "trainer.epochs=3"])
    running = [start_run("merge", f"{n}/mlflow.db", "all.db", module="gdexp.store") for n in "abcdabcd"]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 8, outputs
    assert sum(int(out.split()[0]) for out, _ in outputs) == 4
    assert len(gdexp.runs(uri=f"sqlite:///{here}/all.db")) == 4


@pytest.mark.slow
def test_merge_that_is_killed_completes(start_run, gdexp_run, here):
    (here / "a").mkdir()
    rates = ",".join(str(0.0001 * i) for i in range(1, 31))
    gdexp.launch(
        [f"optimizer.lr={rates}", f"tracking.uri=sqlite:///{here}/a/mlflow.db", "trainer.epochs=300"], multirun=True
    )
    for seconds in (0.25, 0.35, 0.45):
        merge = start_run("merge", "a/mlflow.db", "b.db", module="gdexp.store")
        time.sleep(seconds)
        merge.kill()
        merge.communicate()
    assert gdexp_run("merge", "a/mlflow.db", "b.db", module="gdexp.store").returncode == 0
    a, b = (sqlite3.connect(here / name) for name in ("a/mlflow.db", "b.db"))
    for table, columns in (
        ("metrics", "*"),
        ("latest_metrics", "*"),
        ("params", "*"),
        ("runs", "run_uuid, name, status, end_time"),
    ):
        rows = [sorted(c.execute(f"SELECT {columns} FROM {table}")) for c in (a, b)]
        assert rows[0] == rows[1] and rows[0]
    assert len(list(here.glob("mlruns/**/weights.safetensors"))) == 30


@pytest.mark.slow
def test_mlflows_server_reads_both_ways_alike(tmp_path, server):
    script = Path(__file__).with_name("both_ways.py")
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    server.kill()
    pages = []
    for name in ("direct", "client"):
        shutil.copy(tmp_path / f"{name}.db", Path(server._command[-3].removeprefix("sqlite:///")))
        server.start()
        body = json.dumps({"experiment_ids": ["1", "2"], "order_by": ["attributes.start_time ASC"], "max_results": 100})
        request = urllib.request.Request(
            f"{server.uri}/ajax-api/2.0/mlflow/runs/search", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            runs = json.load(answer)["runs"]
        for run in runs:
            for key in ("run_id", "run_uuid", "artifact_uri"):
                run["info"].pop(key, None)
            for part in ("metrics", "params", "tags"):
                run["data"][part] = sorted(map(repr, run["data"].get(part, [])))
        pages.append(json.dumps(runs, sort_keys=True))
        server.kill()
    assert pages[0] == pages[1] and len(pages[0]) > 10_000
    server.start()


@pytest.mark.slow
def test_nothing_unpromised_is_needed():
    files = [str(Path(__file__).with_name(f"{name}.py")) for name in ("test_run", "test_extension", "test_training")]
    plain = os.environ | {"GDEXP_PLAIN": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *files], env=plain, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_network_file_system_gets_no_write_ahead_log(here, monkeypatch, capsys):
    monkeypatch.setattr(store, "is_shared", lambda path: True)
    gdexp.launch(["trainer.epochs=1"])
    db = here / "mlflow.db"
    assert sqlite3.connect(db).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    tables = Tables(db)
    tables.execute("UPDATE runs SET status='RUNNING'")
    tables.close()
    capsys.readouterr()
    gdexp.launch(["trainer.epochs=1"])
    assert "network file system" in capsys.readouterr().err


def test_odd_names_of_a_models_own_numbers_are_recorded(stocked):
    (stocked / "odd.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(1, 1)\n"
        "    def training_loss(self, batch):\n"
        "        x, y = batch\n        return ((self(x) - y) ** 2).mean(), {'kl@x': 1.5, 'a/b c': torch.tensor(2.0)}\n"
    )
    words = ["model=custom", "model._target_=odd.Net", "loss=none", "trainer.epochs=2"]
    for writer in ("auto", "client"):
        gdexp.launch([*words, f"tracking.writer={writer}"])
    assert (gdexp.runs()[["kl_x", "a/b c"]].to_numpy() == [[1.5, 2.0]] * 2).all()


@pytest.mark.slow
def test_server_that_never_answers_is_not_waited_for(gdexp_run, stocked):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        done = gdexp_run(f"tracking.uri=http://127.0.0.1:{deaf.getsockname()[1]}", "trainer.epochs=5")
    assert done.returncode == 0 and "doesn't answer" in done.stderr and "store sync --to" in done.stderr
    assert only(gdexp.runs())["status"] == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["./mlruns", "file:///nowhere", "nonsense://x", "postgresql+nodriver://127.0.0.1/x"])
def test_address_that_is_none_is_refused_in_one_line(gdexp_run, here, uri):
    done = gdexp_run(f"tracking.uri={uri}", "trainer.epochs=1")
    lines = done.stderr.splitlines()
    refused = done.returncode == 1 and len(lines) == 1 and "`tracking.uri`" in lines[0]
    assert refused or "is kept in" in lines[0], lines


@pytest.mark.parametrize("root", ["s3://bucket/mlruns", "/elsewhere/mlruns", "file:///gone/mlruns"])
def test_paths_of_artifacts_that_stayed_are_left_alone(stocked, root):
    gdexp.launch(["trainer.epochs=1"])
    tables = Tables(stocked / "mlflow.db")
    tables.execute("UPDATE experiments SET artifact_location=? WHERE experiment_id=0", f"{root}/0")
    tables.execute("UPDATE runs SET artifact_uri=?", f"{root}/gdexp/abc/artifacts")
    tables.close()
    gdexp.launch(["trainer.epochs=1"])
    tables = Tables(stocked / "mlflow.db")
    assert (f"{root}/gdexp/abc/artifacts",) in tables.select("SELECT artifact_uri FROM runs")
    tables.close()
