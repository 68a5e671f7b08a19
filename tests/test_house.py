"""The floors: a module imports only from its own floor or below, never in a circle."""

import ast
from pathlib import Path

import gdexp

HOME = Path(gdexp.__file__).parent
FLOORS = {
    "config": 0,
    "stop": 0,
    "lines": 1,
    "dtypes": 0,
    "data": 1,
    "models": 1,
    "losses": 0,
    "objectives": 1,
    "metrics": 1,
    "failure": 2,
    "host": 1,
    "measures": 1,
    "reading": 2,
    "step": 2,
    "schedule": 2,
    "average": 2,
    "watch": 2,
    "checkpoint": 2,
    "train": 3,
    "optimizers": 3,
    "tracking": 3,
    "learner": 4,
    "stack": 4,
    "build": 5,
    "terminal": 6,
    "session": 7,
    "trial": 8,
    "execute": 9,
    "store": 9,
    "sweep": 10,
    "workers": 11,
    "run": 12,
    "_hydra": 12,
    "again": 7,
    "resume": 13,
    "rerun": 13,
    "compare": 13,
    "ui": 14,
    "command": 15,
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def test_every_module_imports_from_lower_floors_only():
    for path in HOME.rglob("*.py"):
        room = path.relative_to(HOME).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imports(path):
            if name.startswith("gdexp.") and (other := name.split(".")[1]) in FLOORS and other != room:
                assert FLOORS[other] < FLOORS[room], f"{path} imports {name}"


def test_mlflow_and_hydra_have_their_rooms():
    for path in HOME.rglob("*.py"):
        room = path.relative_to(HOME).parts[0]
        tops = {name.split(".")[0] for name in imports(path)}
        assert "mlflow" not in tops or room == "tracking", path
        assert "hydra" not in tops or room in ("run.py", "workers.py", "config", "_hydra"), path
