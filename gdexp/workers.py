"""A sweep on several processes: its packs dealt out to the jobs of one of Hydra's launchers."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gdexp import stop
from gdexp.config import sources
from gdexp.config.home import Home
from gdexp.config.refusal import Refusal
from gdexp.sweep import Found, Pack, train_here
from gdexp.tracking.frame import Result

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

    from gdexp.tracking.claims import Claims
    from gdexp.tracking.provenance import Provenance

_FEWEST = 2  # runs of a pack that stay together, so that they are stacked wherever they are trained


class Share:
    """The task of each of a launcher's jobs: to train the packs dealt to its number. Picklable and self-contained."""

    def __init__(self, shares: Sequence[Sequence[Pack]], threads: int | None, claims: "Claims") -> None:
        self._shares, self._threads, self._claims, self._command = shares, threads, claims, sys.argv
        self._home = Home.here()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        sources.register()  # in a process of its own

    def __call__(self, config: object) -> Found:
        """Return what became of each job.

        Raises:
            Refusal: the worker hasn't got what the command has.
        """
        import torch
        from hydra.core.hydra_config import HydraConfig

        from gdexp.step import spare_dynamo
        from gdexp.tracking.provenance import Provenance

        spare_dynamo()  # the process is the sweep's own
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        found: Found = {}
        share = self._shares[HydraConfig.get().job.num]
        with stop.handled(), self._home.entered():
            if not self._claims.are_known():
                raise Home.refusal(f"hasn't got the sweep's store, {self._claims.store}")
            train_here(share, Provenance(self._command), found, self._claims)
        return {number: r if r.error is None else r._replace(error=_portable(r.error)) for number, r in found.items()}


def through(make: "Callable[[Share], Launcher]", settings: Any) -> Callable[..., None]:
    """Return what trains the packs of a sweep by a launcher.

    Args:
        make: the launcher, for a task.
        settings: its config.
    """
    name = str(settings._target_).rpartition(".")[2]
    cores = os.cpu_count() or 1
    here = name in ("JoblibLauncher", "LocalLauncher")  # workers that share this machine
    wanted = settings.get("n_jobs") or settings.get("array_parallelism") or cores
    workers = wanted if wanted > 0 else max(cores + 1 + wanted, 1)  # as joblib counts: -1 is all
    workers = 1 if name == "BasicLauncher" else workers

    def train(packs: Sequence[Pack], provenance: "Provenance", found: Found, claims: "Claims") -> None:
        shares = deal(packs, workers)
        threads = max(cores // len(shares), 1) if here else None
        refused: Refusal | None = None
        for share, job in zip(
            shares, make(Share(shares, threads, claims)).launch([[]] * len(shares), initial_job_idx=0), strict=True
        ):
            try:
                found.update(job.return_value)
            except Refusal as error:  # a worker that can't work here
                refused = error
            except Exception as error:  # of the worker, not of a run
                lost = [job for part in share for job in part.jobs if job.number not in found]
                found.update({j.number: Result(None, j.name or "", "FAILED", "", {}, {}, error=error) for j in lost})
        if refused is not None:
            raise refused

    return train


def deal(packs: Sequence[Pack], workers: int) -> list[list[Pack]]:
    """Return about as many shares as there are workers, with equally many runs; large packs are split."""
    total = sum(len(pack.jobs) for pack in packs)
    pieces: list[Pack] = []
    for pack in packs:
        count = min(max(1, -(-len(pack.jobs) * workers // total)), max(1, len(pack.jobs) // _FEWEST))
        bounds = [i * len(pack.jobs) // count for i in range(count + 1)]
        pieces += [Pack(pack.jobs[a:b], pack.runs) for a, b in zip(bounds, bounds[1:], strict=False)]
    shares: list[list[Pack]] = [[] for _ in range(min(workers, len(pieces)))]
    for piece in sorted(pieces, key=lambda p: -len(p.jobs)):
        min(shares, key=lambda share: sum(len(p.jobs) for p in share)).append(piece)
    return shares


def _portable(error: Exception) -> Exception:
    """Return an error that survives its way to another process, with its traceback as a note."""
    import pickle

    shown = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if error.__traceback__ is not None:
        error.add_note(shown)
    return error
