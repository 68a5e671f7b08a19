"""`python -m gdexp.resume RUN_ID [key=value …]`: goes on with a run that was cut off, as if it had not been."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from gdexp import stop
from gdexp.again import check_start, differences, lasting, recorded, surroundings
from gdexp.config.refusal import Refusal
from gdexp.lines import say, warn
from gdexp.run import as_command, prepare_process
from gdexp.tracking.reading import Recorded

_USAGE = "python -m gdexp.resume RUN_ID [trainer.epochs=200] [tracking.uri=…]"


def main() -> None:
    """The command line."""
    as_command(lambda words: resume(words) if not {"-h", "--help"} & {*words} else print(f"usage: {_USAGE}"))


def resume(words: Sequence[str]) -> None:
    """Go on with a run, in its record, from its last checkpoint or from the beginning.

    Args:
        words: its id, then overrides that may raise its end.

    Raises:
        Refusal: the run has ended, or it would have other numbers now; the line names why.
    """
    run, job = recorded(words, _USAGE, changeable=True)
    prepare_process()
    from gdexp import tracking
    from gdexp.build import build
    from gdexp.build.shared import of_config
    from gdexp.checkpoint import Checkpoints
    from gdexp.config.modules import local_modules
    from gdexp.session import End, Session, Unfit
    from gdexp.terminal import report
    from gdexp.tracking.provenance import Provenance

    _check_end(run, job.config)
    with local_modules():
        provenance = Provenance()
        shared = of_config(job.config, hooks=True)
        parts = build(job.config, job.options)
        check_start(run, parts.start and parts.start.sha256)
        if changed := list(differences(run, job.config, parts.identity.sha256, provenance)):
            raise Refusal(f"run {run.run_id} can't go on as it was: {'; '.join(changed)}")
        for line in surroundings(run, provenance):
            say(f"Not as it was: {line}; the last bits may differ")
        earlier = run.tags.get("gdexp.resumed", "").split()
        typed = " ".join([*earlier, *lasting(words[1:])])
        tags = {"gdexp.resumed": typed} if typed else {}
        ends: list[End] = []
        with stop.watched():
            try:
                with tracking.again(job.config["tracking"], run.run_id, run.name, tags) as record:
                    known = max((step for step, _ in run.metrics.get("train_loss", [])), default=0)
                    kept = Checkpoints(record.folders[0] / "checkpoints", run.run_id).sound()
                    for name, state in chain(kept, [("", None)]):
                        if state is not None and state["loop"]["epoch"] > known:
                            warn(f"checkpoint {name} is not used: it is ahead of the record")
                            continue
                        since = f"after epoch {state['loop']['epoch']}" if state else "from the beginning"
                        say(f"Run {run.name} goes on {since}")
                        try:
                            ends = Session(parts, record).train(state)
                            break
                        except Unfit as reason:
                            warn(f"checkpoint {name} is not used: {reason}")
                            if lost := shared.begin_anew():  # what it set in modules
                                warn(f"{lost} can't be put back: the run goes on with it as it is now")
                            parts = build(job.config, job.options)
            finally:
                if ends:  # also where it is the record that went wrong
                    say(*report(ends[0].outcome, ends[0].metrics, parts, run.name, record))


def _check_end(run: Recorded, config: dict[str, Any]) -> None:
    """Refuse a run that has come to its end, or whose end can't be moved."""
    if str(run.tags.get("gdexp.trained_as")).startswith("stack"):
        raise Refusal(
            f"run {run.run_id} was trained in a stack: repeat the sweep's command, which trains what is missing"
        )
    before = run.config["trainer"]["epochs"]
    epochs, done = config["trainer"]["epochs"], max((step for step, _ in run.metrics.get("train_loss", [])), default=0)
    if run.status == "FINISHED" and run.tags.get("gdexp.outcome") != "completed":
        raise Refusal(f"run {run.run_id} is finished: {run.tags.get('gdexp.outcome')} at epoch {done}")
    if epochs < done:
        raise Refusal(f"`trainer.epochs` must be at least {done}, the epochs that are recorded, got {epochs}")
    if run.status == "FINISHED" and epochs == done:
        raise Refusal(f"run {run.run_id} is finished after {done} epochs; trainer.epochs={2 * done} raises the end")
    lengths = [k for k in ("T_max", "total_iters", "total_steps") if config["scheduler"].get(k, 0) is None]
    if lengths and epochs != before:
        raise Refusal(f"`trainer.epochs` can't be changed: `scheduler.{lengths[0]}` follows it, and so do the rates")


if __name__ == "__main__":
    main()
