"""Iterators that Python can't copy, lent to a trial: what it takes of one, training still gets.

Knows no run and no model.
"""

import itertools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

_WATCHED = 16  # values, after which it is known what taking one changes


class Loan:
    """An iterator, and another that takes its place while something is tried.

    Args:
        value: the iterator.
        watch: called before a value is taken; returns what says afterwards whether anything else has changed.
    """

    def __init__(self, value: Iterator[Any], watch: Callable[[], Callable[[], bool]]) -> None:
        self.taken = 0
        self._value, self._watch = value, watch
        self._reaches_out = False  # whether it changes something else, which is put back, when it gives a value
        self._before = _inside(value)
        self.stand_in, self._again = itertools.tee(self._lent())

    def _lent(self) -> Iterator[Any]:
        while True:
            has_changed = self._watch() if self.taken < _WATCHED else bool
            try:
                value = next(self._value)
            except StopIteration:
                return
            self.taken += 1
            self._reaches_out = self._reaches_out or has_changed()
            yield value

    def returned(self) -> Any:
        """Return an iterator that gives what this one would have given; None if there is none."""
        if not self.taken:
            return self._value
        if not self._reaches_out:
            return self._again
        # its values are made of what is put back, so they must be made anew, which it does if it counts nothing itself
        return self._value if _inside(self._value) == self._before else None


def random_states() -> Any:
    """Return where the global generators are, to be compared."""
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(name), np.asarray(keys).tobytes(), rest


def _inside(value: Any) -> Any:
    """Return what a generator's own variables hold; of another iterator it can't be told."""
    frame = value.gi_frame if isinstance(value, types.GeneratorType) else None
    return object() if frame is None else repr(frame.f_locals)
