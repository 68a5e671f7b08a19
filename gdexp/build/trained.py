"""Whether everything that gets a gradient is trained and kept: seen after a backward pass."""

from gdexp.build import Parts
from gdexp.build.objects import Objects
from gdexp.learner import OneRun


class Trained:
    """Looks at the gradients of a run.

    Args:
        parts: of one run, before it is trained; of a learner of the user's own nothing is said.
        objects: that these parts lead to.
    """

    def __init__(self, parts: Parts, objects: Objects) -> None:
        self._learner = parts.learner if isinstance(parts.learner, OneRun) else None
        known = {id(p) for p in self._learner.step.parameters} if self._learner is not None else set()
        self._others = [(n, t) for n, t in objects.tensors() if t.requires_grad and t.is_leaf and id(t) not in known]

    def lacking(self, first: bool = False) -> str:
        """Return why a parameter that got a gradient isn't trained, or is lost at the end; nothing if all is well.

        Args:
            first: after the first pass, in which parameters may have been made.
        """
        for name, t in self._others if self._learner is not None else ():
            if t.grad is not None:
                return (
                    f"`{name}` gets a gradient, but nothing trains it, for it is not registered: hold it as an "
                    "nn.Parameter, in nn.ParameterList or nn.ModuleList, or set its requires_grad to false"
                )
        return self._unknown() if first else ""

    def _unknown(self) -> str:
        """Return what is wrong with a registered parameter."""
        if self._learner is None:
            return ""
        trained = set(map(id, self._learner.step.parameters))
        kept = set(map(id, self._learner.weights().values()))
        for name, p in self._learner.parameters():
            if p.grad is None:
                continue
            if id(p) not in trained:
                return f"`{name}` gets a gradient, but it was made after the optimizer: make it in __init__"
            if id(p) not in kept:
                return f"`{name}` is trained, but it isn't in the state dict, and so not in the weights"
        return ""
