"""Optimizers that torch hasn't: Muon beside AdamW, as its authors use it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from gdexp.step import bare_step

_SHARED = ("lr", "weight_decay", "eps")  # hyperparameters that both have by the same name


class Muon(Optimizer):
    """torch.optim.Muon for real matrices, torch.optim.AdamW for all other parameters, each unmodified.

    Muon orthogonalises the momentum of a matrix; it isn't meant for biases, norms and filters,
    nor for embeddings and the last layer, which are matrices: give these `use_muon=False` in a
    group of their own (Jordan 2024, https://kellerjordan.github.io/posts/muon).

    Args:
        params: parameters, or groups with hyperparameters of their own; lr, weight_decay and eps
            of a group are those of all its parameters.
        lr: of Muon, as are those up to adjust_lr_fn, with the defaults of torch.optim.Muon.
        weight_decay: as in torch.optim.Muon.
        momentum: as in torch.optim.Muon.
        nesterov: as in torch.optim.Muon.
        ns_coefficients: as in torch.optim.Muon.
        eps: as in torch.optim.Muon.
        ns_steps: as in torch.optim.Muon.
        adjust_lr_fn: as in torch.optim.Muon.
        adamw_lr: of AdamW, as are those below, with the defaults of torch.optim.AdamW.
        adamw_betas: as betas of torch.optim.AdamW.
        adamw_eps: as eps of torch.optim.AdamW.
        adamw_weight_decay: as weight_decay of torch.optim.AdamW.
        use_muon: False: AdamW for matrices, too.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        adamw_lr: float = 1e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.01,
        use_muon: bool = True,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"`optimizer=muon` needs torch 2.9 or newer, this is {torch.__version__}")
        of_muon = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": tuple(ns_coefficients),
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        of_adamw = {
            "lr": adamw_lr,
            "betas": tuple(adamw_betas),
            "eps": adamw_eps,
            "weight_decay": adamw_weight_decay,
        }
        self._parts: dict[bool, Optimizer] = {}  # by whether they are Muon
        groups = []
        for group in _as_groups(params):
            for is_muon, parameters in _split(group, use_muon):
                own = _own(group, of_muon if is_muon else of_adamw, "" if is_muon else "adamw_")
                kind: Callable[..., Optimizer] = torch.optim.Muon if is_muon else AdamW
                part = kind(parameters, **own)
                self._parts.setdefault(is_muon, part)
                groups.append({**part.param_groups[0], "use_muon": is_muon})
        super().__init__(groups, {"lr": lr})
        self.defaults["momentum"] = momentum  # for schedules that move it

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Let Muon and AdamW step, each over its groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for is_muon, part in self._parts.items():
            # groups and state may have been replaced since, by load_state_dict or a stack of runs
            part.param_groups = [group for group in self.param_groups if group["use_muon"] == is_muon]
            part.state = self.state
            bare_step(part)()
        return loss


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    listed = list(params)
    return listed if listed and isinstance(listed[0], dict) else [{"params": listed}]


def _split(group: Mapping[str, Any], use_muon: bool) -> list[tuple[bool, list[Tensor]]]:
    """Return the parameters for Muon, and those for AdamW, where there are any."""
    given = group["params"]
    parameters: Sequence[Tensor] = [given] if isinstance(given, Tensor) else list(given)
    matrices = group.get("use_muon", use_muon)
    for_muon = [p for p in parameters if matrices and p.ndim == 2 and not p.is_complex()]
    taken = set(map(id, for_muon))
    rest = [p for p in parameters if id(p) not in taken]
    return [(is_muon, some) for is_muon, some in ((True, for_muon), (False, rest)) if some]


def _own(group: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the hyperparameters of a group: its own, else the defaults."""
    own = {}
    for name, default in defaults.items():
        shared = group.get(name, default) if not prefix or name in _SHARED else default
        own[name] = group.get(prefix + name, shared)
    return own
