"""What a store in the current directory holds, read by plain SQL."""

import sqlite3
from contextlib import closing


def query(sql, *values):
    with closing(sqlite3.connect("mlflow.db")) as connection:
        return connection.execute(sql, values).fetchall()
