"""A stranger's store reaches nothing outside of it: no path, id or link in it is followed to elsewhere."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import gdexp
from gdexp import store
from gdexp.compare import main as compare

SECRET = "a private key"


@pytest.fixture
def run(stocked, monkeypatch):
    """Train a run in the folder `theirs`, beside the folder `home` of a victim; return its id."""
    for folder in ("theirs", "home/.ssh", "ours"):
        Path(folder).mkdir(parents=True)
    Path("home/.ssh/key").write_text(SECRET)
    for folder in ("theirs", "ours"):
        shutil.copy("mlflow.db", folder)
    monkeypatch.chdir(stocked / "theirs")
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    monkeypatch.chdir(stocked)
    return run_id


def change(sql, *values):
    connection = sqlite3.connect("theirs/mlflow.db")
    connection.execute("PRAGMA foreign_keys=OFF")
    with connection:
        connection.execute(sql, values)
    connection.close()


def command(capsys, *words, do=store.main):
    """Return the exit code of a command, and what it said, which may not be more than a few lines."""
    code = 0
    try:
        do(list(words))
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return code, shown.out + shown.err


def home():
    return {str(p): p.read_text() for p in Path("home").rglob("*") if p.is_file()}


def taken():
    """Return all that has come to us."""
    files = [p for p in Path(".").rglob("*") if p.is_file() and p.parts[0] not in ("home", "theirs")]
    return b"".join(p.read_bytes() for p in files)


def words(name):
    """Return the command line of `merge` or of `sync`; an absolute address, since MLflow keeps where it was first."""
    theirs, ours = "theirs/mlflow.db", Path("ours/mlflow.db").absolute()
    return (name, theirs, str(ours)) if name == "merge" else (name, theirs, "--to", f"sqlite:///{ours}")


@pytest.mark.parametrize("name", ["merge", "sync"])
def test_id_that_is_a_path_is_no_run(run, capsys, name):
    before = home()
    for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
        change(f"UPDATE {table} SET run_uuid='../../../home/.ssh'")
    code, said = command(capsys, *words(name))
    assert code == 0 and "0 runs" in said and home() == before
    assert not MlflowClient(f"sqlite:///{Path.cwd()}/ours/mlflow.db").search_runs(["0", "1"])


@pytest.mark.parametrize("name", ["merge", "sync"])
@pytest.mark.parametrize("kind", ["elsewhere", "dots", "linked folder", "linked file", "linked code"])
def test_artifacts_elsewhere_are_not_taken(run, stocked, capsys, name, kind):
    [folder] = Path("theirs").glob(f"mlruns/*/{run}/artifacts")
    victim = stocked / "home/.ssh"
    if kind == "elsewhere":
        change("UPDATE runs SET artifact_uri=?", str(victim))
    elif kind == "dots":
        change("UPDATE runs SET artifact_uri=?", f"{folder.absolute()}/../../../../../home/.ssh")
    elif kind == "linked folder":
        shutil.rmtree(folder)
        folder.symlink_to(victim)
    elif kind == "linked file":
        (folder / "key").symlink_to(victim / "key")
    else:
        (folder / "code").symlink_to(victim)
    code, said = command(capsys, *words(name))
    assert SECRET.encode() not in taken()
    if kind in ("elsewhere", "dots", "linked folder"):
        assert code == 1 and "outside of its store" in said
    else:
        assert code == 0, said
        assert b"optimizer:" in taken()  # what is no link is there


@pytest.mark.parametrize("kind", ["elsewhere", "linked"])
def test_report_is_put_on_no_other_folder(run, stocked, capsys, kind):
    before = home()
    [folder] = Path("theirs").glob(f"mlruns/*/{run}/artifacts")
    if kind == "elsewhere":
        change("UPDATE runs SET artifact_uri=?", str(stocked / "home"))
    else:
        (folder / "pictures").symlink_to(stocked / "home")
    code, said = command(capsys, run, "tracking.uri=sqlite:///theirs/mlflow.db", "--log", do=compare)
    assert code == 1 and "outside of its store" in said or "leads out of its folder" in said
    assert home() == before and not list(Path("home").glob("*.png"))


def test_artifacts_that_the_user_names_are_read(run, stocked, capsys, monkeypatch):
    [folder] = Path("theirs").glob(f"mlruns/*/{run}/artifacts")
    place = stocked / "disk" / run / "artifacts"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    change("UPDATE runs SET artifact_uri=?", str(place))
    with pytest.raises(ValueError, match=f"GDEXP_ARTIFACTS={stocked}/disk "):
        gdexp.load(run, "sqlite:///theirs/mlflow.db")
    monkeypatch.setenv("GDEXP_ARTIFACTS", str(stocked / "disk"))
    assert gdexp.load(run, "sqlite:///theirs/mlflow.db").linear.weight.numel() == 1
    assert command(capsys, *words("merge"))[0] == 0


HARMS = {
    "trigger": "CREATE TRIGGER harm AFTER UPDATE ON runs BEGIN DELETE FROM metrics; END",
    "view": "CREATE VIEW inputs AS SELECT * FROM harm",
}


@pytest.mark.parametrize("kind", HARMS)
def test_file_that_does_more_than_hold_rows_is_no_store(run, capsys, kind):
    if kind == "view":
        change("ALTER TABLE inputs RENAME TO harm")
    change(HARMS[kind])
    code, said = command(capsys, "check", "theirs/mlflow.db")
    assert code == 1 and "is no MLflow store: it holds the" in said and len(said.splitlines()) == 1
