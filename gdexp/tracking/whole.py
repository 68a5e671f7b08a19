"""All that is recorded of runs, held until the record is closed, should the store be lost before."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from gdexp.tracking import kept, places, transfer
from gdexp.tracking.sqlite import DatasetRow, Number, Run, Tables

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 2_000_000  # numbers that are held, at 24 bytes


class Begun(NamedTuple):
    """All that is known of a run when it begins."""

    name: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    texts: Mapping[str, str]
    data: DatasetRow | None


class End(NamedTuple):
    """How a run ended, and what is written then."""

    status: str
    tags: Mapping[str, object]
    files: "Mapping[str, str | Mapping[str, Tensor]]"
    time: int  # ms


class Whole:
    """Runs that train together, as their record begins, grows and ends."""

    def __init__(self, begun: Iterable[Begun]) -> None:
        self.begun, self.ends = list(begun), dict[int, End]()
        self.start = 0  # ms
        self._numbers: dict[int, dict[str, tuple[array, array, array]]] = {}  # steps, values, times, by run and key
        self._count = 0

    @property
    def is_complete(self) -> bool:
        """Whether all numbers are held, not only the first ones."""
        return self._count < _MOST

    @classmethod
    def read(cls, tables: Tables, run_id: str, folder: Path) -> Self:
        """Return what a store has of a run that goes on."""
        [(name, experiment, start)] = tables.select(
            "SELECT r.name, e.name, r.start_time FROM runs r JOIN experiments e USING (experiment_id) WHERE run_uuid=?",
            run_id,
        )
        params, tags = (
            dict(tables.select(f"SELECT key, value FROM {table} WHERE run_uuid=?", run_id))
            for table in ("params", "tags")
        )
        paths = [p for p in places.files(folder) if p.suffix in (".yaml", ".json", ".py", ".diff")]
        texts = {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in paths}
        whole = cls([Begun(name, experiment, params, tags, texts, next(transfer.datasets(tables, run_id), None))])
        whole.start = start
        sql = "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid=?"
        whole.add((0, Number(*row)) for row in tables.select(sql, run_id))
        return whole

    def add(self, numbers: Iterable[tuple[int, Number]]) -> None:
        """Take numbers of runs."""
        for run, number in numbers:
            if self._count == _MOST:
                return
            self._count += 1
            own = self._numbers.setdefault(run, {})
            if (columns := own.get(number.key)) is None:
                columns = own[number.key] = array("q"), array("d"), array("q")
            steps, values, times = columns
            steps.append(number.step)
            values.append(number.value)
            times.append(number.timestamp)

    def numbers(self, run: int) -> Iterator[Number]:
        """Yield the numbers of a run, by their keys."""
        for key, columns in self._numbers.get(run, {}).items():
            yield from (Number(key, value, time, step) for step, value, time in zip(*columns, strict=True))

    def are_in(self, tables: Tables, runs: Mapping[int, str]) -> bool:
        """Say whether a store has runs, given with their ids, with their ends and all their numbers."""
        there = tables.select_of(
            runs.values(),
            "SELECT run_uuid, status, (SELECT count(*) FROM metrics m WHERE m.run_uuid=r.run_uuid)"
            " FROM runs r WHERE run_uuid IN (SELECT value FROM json_each(?))",
        )
        return all(self._is_whole(run, *there.get(run_id, ("", "", 0))[1:]) for run, run_id in runs.items())

    def _is_whole(self, run: int, status: str, count: int) -> bool:
        columns = [steps for steps, _, _ in self._numbers.get(run, {}).values()]
        enough = count >= sum(map(len, columns)) or count >= sum(len(set(steps)) for steps in columns)
        return status == self.ends[run].status and enough

    def write(self, tables: Tables, run: int, run_id: str, folder: Path) -> None:
        """Write a run with all its files.

        Args:
            tables: of a store of our own.
            run: which.
            run_id: its id.
            folder: of its artifacts, for what lies there beside.
        """
        begun, end = self.begun[run], self.ends[run]
        experiment, _ = tables.experiment(begun.experiment, "")
        user = begun.tags.get("mlflow.user", "unknown")
        tables.add_run(Run(run_id, begun.name, user, self.start or end.time, "", experiment, end.status, end.time))
        tables.add_params(run_id, begun.params)
        tables.add_tags(run_id, {**begun.tags, **{k: str(v) for k, v in end.tags.items()}})
        tables.add_metrics(run_id, self.numbers(run))
        if begun.data is not None:
            tables.add_dataset([run_id], experiment, begun.data)
        kept.add_files(tables, run_id, kept.files_in(folder))
        kept.add_files(tables, run_id, {k: content_of(v) for k, v in {**begun.texts, **end.files}.items()})


def content_of(content: "str | Mapping[str, Tensor]") -> bytes:
    """Return an artifact as the bytes of its file."""
    if isinstance(content, str):
        return content.encode()
    from gdexp.tracking.weights import as_bytes

    return as_bytes(content)
