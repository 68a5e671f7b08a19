"""Write the same runs directly and by MLflow's client, and compare all that is there.

python both_ways.py FOLDER: needs mlflow and nothing else but the standard library, so that it runs
under any version of MLflow; exits with 1 and the difference, or prints the schema's revision.
"""

import logging
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from gdexp.tracking.sqlite import KNOWN, DatasetRow, Number, Run, Tables, revision  # noqa: E402

NAMES = ["lr=0.01 seed=3", "η=0,1 ✓", "a" * 200, "quote ' \" \\", "line\nbreak"]
ENDINGS = ["FINISHED", "FAILED", "KILLED", "RUNNING"]


def runs():
    """Yield the description of 50 runs: name, params, tags, batches of numbers, data sets, ending."""
    draw = random.Random(0)
    for i in range(50):
        params = {f"optimizer.p{j}": draw.choice(["0.01", "null", "ü" * j, "x" * 7000]) for j in range(i % 20)}
        tags = {"gdexp.sweep": str(i % 3), "emoji": "🎉" * (i % 7), "long": "y" * (9000 if i % 5 == 0 else 9)}
        batches: list[list[Number]] = []
        seen = set()
        for _ in range(i % 4):
            batches.append([])
            for _ in range(draw.randrange(30)):
                key, value = draw.choice(["train_loss", "val/loss", "lr x"]), draw.choice(VALUES)
                number = Number(key, value, 1000 + draw.randrange(3), draw.randrange(6))
                if value == value or number._replace(value=0.0) not in seen:  # MLflow 3.15 fails at a NaN told twice
                    batches[-1].append(number)
                if value != value:
                    seen.add(number._replace(value=0.0))
        data = [DatasetRow(f"data{i % 2}", f"{i % 3:032x}", "code", "{}", None, '{"sha256": "…"}', "training")][: i % 3]
        yield f"{NAMES[i % 5]} {i}", params, tags, batches, data, ENDINGS[i % 4]


VALUES = [0.5, 1e-300, -3.25, 1e30, 0.1 + 0.2, float("nan"), float("inf"), float("-inf"), 7.0]


def directly(db, appending=False):
    """Write them by our own hand; with `appending`, each batch in a process of its own."""
    tables = Tables(db)
    for i, (name, params, tags, batches, data, ending) in enumerate(runs()):
        run_id = f"{i:032x}"
        with tables.transaction():
            experiment, location = tables.experiment(f"study {i % 2}", f"file:///root/{i % 2}")
            uri = f"{location}/{run_id}/artifacts"
            tables.add_run(Run(run_id, name, "me", 5000 + i, uri, experiment))
            tables.add_tags(run_id, tags | {"mlflow.user": "me"})
            tables.add_params(run_id, params)
            for row in data:
                tables.add_dataset([run_id], experiment, row)
        for j, batch in enumerate(batches):
            if appending and i % 10 == 3:
                subprocess.run([sys.executable, __file__, "append", str(db), str(i), str(j)], check=True)
                continue
            with tables.transaction():
                tables.add_metrics(run_id, batch)
        with tables.transaction():
            tables.add_tags(run_id, {"long": "again"})
            if ending != "RUNNING":
                tables.end(run_id, ending, 9000 + i)
    tables.close()


def by_client(db):
    """Write them by MLflow's own client; return its ids."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client, experiments, ids = MlflowClient(f"sqlite:///{db}"), {}, []
    for i, (name, params, tags, batches, data, ending) in enumerate(runs()):
        study = f"study {i % 2}"
        if study not in experiments:
            experiments[study] = client.create_experiment(study, artifact_location=f"file:///root/{i % 2}")
        run = client.create_run(experiments[study], start_time=5000 + i, tags={"mlflow.user": "me"}, run_name=name)
        run_id = run.info.run_id
        ids.append(run_id)
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        client.log_batch(run_id, params=[Param(k, v) for k, v in params.items()])
        for row in data:
            inputs = [InputTag("mlflow.data.context", row.context)]
            client.log_inputs(run_id, [DatasetInput(Dataset(*row[:6]), inputs)])
        for batch in batches:
            client.log_batch(run_id, metrics=[Metric(*n) for n in batch])
        client.log_batch(run_id, tags=[RunTag("long", "again")])
        if ending != "RUNNING":
            client.set_terminated(run_id, ending, end_time=9000 + i)
    return ids


def contents(db, ids):
    """Return the rows of every table, with our ids for MLflow's; those of tables of its own bookkeeping too."""
    connection = sqlite3.connect(db)
    names = {theirs: f"{i:032x}" for i, theirs in enumerate(ids)}
    for table, column in (("datasets", "dataset_uuid"), ("inputs", "input_uuid")):
        order = "experiment_id, name, digest" if table == "datasets" else "destination_id"
        rows = connection.execute(f"SELECT {column} FROM {table} ORDER BY {order}").fetchall()
        if table == "inputs":
            edges = connection.execute("SELECT input_uuid, source_id, destination_id FROM inputs").fetchall()
            edges.sort(key=lambda e: (names.get(e[2], e[2]), names[e[1]]))
            rows = [(e[0],) for e in edges]
        names |= {uuid: f"{table} {n}" for n, (uuid,) in enumerate(rows)}
    found = {}
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
    for (table,) in tables:
        cursor = connection.execute(f'SELECT * FROM "{table}"')
        columns = [d[0] for d in cursor.description]
        hidden = {"creation_time", "last_update_time"} if table in ("experiments", "workspaces") else set()
        rows = []
        for row in cursor:
            shown = {c: v for c, v in zip(columns, row, strict=True) if c not in hidden}
            for c, v in shown.items():
                if isinstance(v, str):
                    for theirs in [t for t in names if t in v] if len(v) < 500 else []:
                        shown[c] = v.replace(theirs, names[theirs])
            if table == "experiments" and row[0] == 0:
                continue  # the default one, which only says where the store lies
            rows.append(repr(shown))
        found[table] = sorted(rows)
    connection.close()
    return found


def main(folder):
    logging.disable(logging.WARNING)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    stores = [folder / "direct.db", folder / "client.db"]
    for db in stores:
        SqlAlchemyStore(f"sqlite:///{db}", f"file://{folder}/mlruns").engine.dispose()
    found = revision(stores[0])
    if found not in KNOWN:
        sys.exit(f"the revision {found} is not known")
    directly(stores[0], appending=True)
    ids = by_client(stores[1])
    ours, theirs = contents(stores[0], [f"{i:032x}" for i in range(50)]), contents(stores[1], ids)
    for table in theirs:
        if ours[table] != theirs[table]:
            odd = set(ours[table]) ^ set(theirs[table])
            sys.exit(f"{table} differs:\n" + "\n".join(sorted(odd)[:6]))
    counts = {t: len(rows) for t, rows in ours.items() if rows}
    print(found, counts)


if __name__ == "__main__":
    if sys.argv[1] == "append":
        index, part = int(sys.argv[3]), int(sys.argv[4])
        store = Tables(Path(sys.argv[2]))
        with store.transaction():
            store.add_metrics(f"{index:032x}", list(runs())[index][3][part])
        store.close()
    else:
        main(Path(sys.argv[1]))
