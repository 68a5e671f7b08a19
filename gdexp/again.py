"""A recorded run made ready to be trained again: its config, and what is no longer as it was."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gdexp.config import compose, direction, literals, modules, secrets, text, trust, variables
from gdexp.config.check import BEFORE, GROUPS, check, check_known, check_targets, leaves
from gdexp.config.refusal import Refusal
from gdexp.tracking.provenance import Provenance
from gdexp.tracking.reader import Which, reading
from gdexp.tracking.reading import Recorded, read

TRAINED_AS = "gdexp.trained_as"
STACKED = re.compile(r"stack chunk=(\d{1,9}) threads=\d+")
LARGEST_STACK = 4096  # runs, as many as are ever put together
_STACK = re.compile(r"([0-9a-f]{32}) (\d{1,4})")
_LATER = {  # keys that decide when a run ends and what is seen of it, not what its numbers are
    f"trainer.{name}"
    for name in (
        *("epochs", "max_steps", "max_seconds", "patience", "target"),
        *("log_every", "checkpoint_every", "checkpoint_minutes"),
    )
}


def recorded(words: Sequence[str], usage: str, changeable: bool, weights: str = "") -> tuple[Recorded, "compose.Job"]:
    """Return the run that a command line names, and the job that trains it again.

    Args:
        words: the run's id, then overrides.
        usage: the line that says how the command is typed.
        changeable: whether keys that don't change the numbers may be set anew.
        weights: which files of weights are read too.

    Raises:
        Refusal: no such run, a config that can't be trained with today, or that names what may not be built.
    """
    if not words or not re.fullmatch(r"[0-9a-f]{32}", words[0]):
        raise Refusal(f"usage: {usage}")
    if flags := [word for word in words if word.startswith("-")]:
        raise Refusal(f"`{flags[0]}` is no option; usage: {usage}")
    overrides = compose.parse(words[1:])
    here = [o.input_line or "" for o in overrides if o.get_key_element().startswith("tracking")]
    today = compose.compose(here)[0]
    run = read(words[0], today.config["tracking"]["uri"], weights=weights)
    source = run.config
    if not all(isinstance(source.get(g), dict) for g in GROUPS if g != "tracking"):
        raise Refusal(f"run {run.run_id}: its config.yaml is damaged")
    source = _with_old_behaviour(source, run.tags)
    for key, value in _raised(run, overrides if changeable else []):
        source = compose.with_value(source, key.split("."), value)
    of_environment = variables.names(run.tags.get(variables.TAG))
    for override in overrides:
        key = override.get_key_element()
        if key in of_environment:  # it is as it was, or refused
            source = compose.with_value(source, key.split("."), override.value())
        elif not key.startswith("tracking") and not (changeable and key in _LATER):
            raise Refusal(f"`{key}` can't be changed: the run would have other numbers")
    check_known(source, run.run_id)
    source |= {"tracking": today.config["tracking"], "sweep": today.config["sweep"]}
    with modules.local_modules():
        trust.check_trusted(source)
        plain = text.with_environment(source)
        secrets.learn(plain, source)
        try:
            variables.check(run.tags.get(variables.TAG), plain, source)
        except Refusal as changed:
            raise Refusal(f"run {run.run_id}: {changed}") from changed
        config = check(plain)
        check_targets(config)
        from gdexp.tracking.extent import check_extent  # torch

        check_extent(config, run.held, run.run_id)
    options = {g: run.params.get(g) for g in (*GROUPS, "experiments")}
    return run, compose.Job(config, source, options, run.name, None)


def lasting(words: Sequence[str]) -> list[str]:
    """Return the overrides that move the end of a run, which its record keeps; others are as they were."""
    return [word for word in words if compose.parse([word])[0].get_key_element() in _LATER]


def check_start(run: Recorded, sha256: str | None) -> None:
    """Refuse a run whose first weights aren't what they were.

    Args:
        run: as recorded.
        sha256: of the weights that `model.weights` names now, None if it names none.
    """
    then = run.tags.get("gdexp.start_weights")
    if then != sha256:
        before, now = (f"SHA-256 {s[:12]}…" if s else "none" for s in (then, sha256))
        raise Refusal(f"run {run.run_id}: `model.weights` isn't what it was: {before} then, {now} now")


def neighbours(run: Recorded, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configs of the runs of a stack, in their order; none where they aren't all recorded.

    Only numbers are taken from the others, in which runs of a stack may differ.

    Args:
        run: one of them.
        config: of that run, checked and resolved, which stands in its own place.
    """
    about, size = _STACK.fullmatch(run.tags.get("gdexp.stack", "")), STACKED.fullmatch(run.tags.get(TRAINED_AS, ""))
    if about is None or size is None or int(size[1]) > LARGEST_STACK:
        return []
    found: dict[int, dict[str, Any]] = {}
    with reading(run.uri) as reader:
        rows = reader.rows(Which(sweep=run.tags.get("gdexp.sweep", "")))
    ids = [row.run_id for row in rows if row.tags.get("gdexp.stack", "").startswith(f"{about[1]} ")]
    for run_id in ids[:LARGEST_STACK]:
        other = run if run_id == run.run_id else read(run_id, run.uri)
        its = _STACK.fullmatch(other.tags.get("gdexp.stack", ""))
        numbers = _with_numbers(config, other.config)
        if its is None or its[1] != about[1] or numbers is None:
            return []
        found[int(its[2])] = numbers
    return [found[i] for i in range(int(size[1]))] if found.keys() == set(range(int(size[1]))) else []


def place_in_stack(run: Recorded) -> int:
    """Return the place of a run in the stack that it was trained in."""
    about = _STACK.fullmatch(run.tags.get("gdexp.stack", ""))
    return int(about[2]) if about else 0


def _with_numbers(ours: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a config with the numbers of another; None where that is no run of the same stack."""
    found = ours
    for group in ("seed", "optimizer", "scheduler", "trainer"):
        for key, value in leaves({group: theirs.get(group)}):
            if (before := variables.at(ours, key)) == value or isinstance(value, list):
                continue
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (before, value)):
                return None
            found = _set(found, re.findall(r"[^.\[\]]+", key), value)
    return found


def _set(node: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    if isinstance(node, list):
        return [_set(v, path[1:], value) if str(i) == path[0] else v for i, v in enumerate(node)]
    return {**node, path[0]: _set(node[path[0]], path[1:], value)}


def differences(run: Recorded, config: Mapping[str, Any], data: str, provenance: Provenance) -> Iterator[str]:
    """Yield what is not as it was when a run was recorded: data, code, versions.

    Args:
        run: as recorded.
        config: that it is trained with now.
        data: the SHA-256 of the data now.
        provenance: of this command.
    """
    if run.data is not None and run.data != data[:32]:
        yield f"the data: SHA-256 {run.data}… then, {data[:32]}… now"
    then = {k.removeprefix("code/"): literals.hide(v) for k, v in run.texts.items() if k.startswith("code/")}
    texts = provenance.texts(config, then)
    now = {k.removeprefix("code/"): v for k, v in texts.items() if k.startswith("code/")}
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            how = "differs" if name in then and name in now else "is new or gone"
            yield f"the code: {name} {how}"
    tags = provenance.tags()
    for tag, what in (("gdexp.torch", "torch"), ("gdexp.version", "gdexp")):
        if run.tags.get(tag) != tags[tag]:
            yield f"{what}: {run.tags.get(tag)} then, {tags[tag]} now"


def surroundings(run: Recorded, provenance: Provenance) -> Iterator[str]:
    """Yield in what the machine differs from the one that a run was recorded on, which may change the last bits."""
    today = json.loads(provenance.texts({})["environment.json"])
    try:
        before = json.loads(run.texts.get("environment.json", "{}"))
    except (ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        yield "environment.json: it is damaged, so what the machine was isn't known"
        return
    for key, what in (("threads", "torch's threads"), ("cpu", "the processor"), ("accelerators", "accelerators")):
        if key in before and before[key] != today[key]:
            yield f"{what}: {before[key]} then, {today[key]} now"


def _raised(run: Recorded, overrides: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what raises the end of a run: as it did before, then as it is to be now."""
    try:
        before = compose.parse(run.tags.get("gdexp.resumed", "").split())
    except Refusal as error:
        raise Refusal(f"run {run.run_id}: its tag gdexp.resumed is damaged: {error}") from error
    for override in [*before, *overrides]:
        if (key := override.get_key_element()) in _LATER:
            yield key, override.value()


def _with_old_behaviour(source: dict[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """Give a config of an older gdexp the keys that it lacks, with the values that mean what was done then."""
    trainer = source["trainer"]
    if isinstance(trainer.get("monitor"), str) and trainer.get("monitor_mode") == "auto" and direction.TAG not in tags:
        more = trainer["monitor"].removeprefix("val_").startswith(("accuracy", "f1", "auroc", "r2", "top_"))
        source = source | {"trainer": {**trainer, "monitor_mode": "max" if more else "min"}}
    for key, value in BEFORE.items():
        group, _, name = key.partition(".")
        if name not in source[group]:
            source = source | {group: {**source[group], name: value}}
    return source
