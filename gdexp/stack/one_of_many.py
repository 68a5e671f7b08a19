"""A stack's forward pass: each run draws its own random numbers, and torch's calls that know no runs are spelt out."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class OneOfMany(TorchFunctionMode):
    """While it is entered, dropout and noise inside `vmap` come from the generators of the runs.

    On the CPU the numbers are those that `torch.manual_seed` and the plain function give.

    Args:
        generators: one a run, or one for all.
        index: (runs,) outside of vmap, the run's own number inside; it makes what is drawn a run's own.
    """

    def __init__(self, generators: Sequence[torch.Generator], index: Tensor) -> None:
        super().__init__()
        self._generators, self._index = generators, index

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        own = _OWN.get(func)
        return own(self, *args, **(kwargs or {})) if own else func(*args, **(kwargs or {}))

    def drawn(self, like: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """Return a tensor like another, filled from each run's generator."""
        return _Drawn.apply(self._index, like.detach(), fill, self._generators)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0 or x.numel() == 0:
            return x
        keep = 1 - p
        noise = self.drawn(x, lambda t, g: t.bernoulli_(keep, generator=g).div_(keep or 1))
        return x.mul_(noise) if inplace else x * noise

    def _rand_like(self, x: Tensor, **options: Any) -> Tensor:
        return self.drawn(_like(x, options), lambda t, g: t.uniform_(generator=g))

    def _randn_like(self, x: Tensor, **options: Any) -> Tensor:
        return self.drawn(_like(x, options), lambda t, g: t.normal_(generator=g))

    def _rand(self, *size: Any, **options: Any) -> Tensor:
        return self.drawn(torch.empty(*size, **options), lambda t, g: t.uniform_(generator=g))

    def _randn(self, *size: Any, **options: Any) -> Tensor:
        return self.drawn(torch.empty(*size, **options), lambda t, g: t.normal_(generator=g))

    def _squared_error(self, x: Tensor, y: Tensor, *args: Any, **options: Any) -> Tensor:
        """Mean squared error by its formula, which has the same bits: torch's goes through Python and imports sympy."""
        reduction = options.get("reduction", "mean")
        others = [v for k, v in options.items() if k != "reduction" and v is not None]
        if args or others or x.shape != y.shape or reduction == "none":
            return F.mse_loss(x, y, *args, **options)
        squares = (x - y) * (x - y)
        return squares.mean() if reduction == "mean" else squares.sum()

    def _cross_entropy(self, x: Tensor, y: Tensor, *args: Any, **options: Any) -> Tensor:
        """Cross entropy of class indices by its formula, whose gradient has the same bits, likewise."""
        usual = {"weight": None, "size_average": None, "ignore_index": -100, "reduce": None, "label_smoothing": 0.0}
        reduction, rest = options.get("reduction", "mean"), {k: v for k, v in options.items() if k != "reduction"}
        plain = x.dim() == 2 and y.dim() == 1 and reduction == "mean" and not args
        if not plain or any(value != usual.get(k, value) for k, value in rest.items()):
            return F.cross_entropy(x, y, *args, **options)
        return -x.log_softmax(1).gather(1, y[:, None]).mean()

    def _many_heads(self, *args: Any, **options: Any) -> Any:
        """Multi-head attention with its own calls replaced: it is one call to torch, which looks no further."""
        own: dict[str, Any] = {"dropout": self._dropout, "scaled_dot_product_attention": self._attention}
        kept = {name: getattr(F, name) for name in own}
        thread = threading.get_ident()

        def replaced(name: str) -> Callable[..., Any]:
            return lambda *a, **k: (own if threading.get_ident() == thread else kept)[name](*a, **k)

        try:
            for name in own:
                setattr(F, name, replaced(name))
            return F.multi_head_attention_forward(*args, **options)
        finally:
            for name, function in kept.items():
                setattr(F, name, function)

    def _attention(
        self,
        query: Tensor,  # (…, steps, width)
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention by its formula, softmax(q·kᵀ·scale + mask)·v: its fused kernels know no runs."""
        if enable_gqa:
            raise NotImplementedError("grouped attention isn't stacked")
        root = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        scores = (query * root) @ (key.transpose(-2, -1) * root)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._dropout(scores.softmax(-1), dropout_p) @ value


class _Drawn(torch.autograd.Function):
    """fill(empty tensor, generator), for each run apart."""

    @staticmethod
    def forward(index: Tensor, like: Tensor, fill: Any, generators: Any) -> Tensor:
        return fill(torch.empty_like(like), generators[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, index: Tensor, like: Tensor, fill: Any, generators: Any) -> tuple[Tensor, int]:
        one = like if in_dims[1] is None else like.select(in_dims[1], 0)
        if len(generators) == 1:
            return fill(torch.empty_like(one), generators[0]).expand(info.batch_size, *one.shape), 0
        return torch.stack([fill(torch.empty_like(one), g) for g in generators]), 0


def _like(x: Tensor, options: dict[str, Any]) -> Tensor:
    return torch.empty_like(x, **options)


_OWN: dict[Any, Callable[..., Any]] = {
    F.dropout: OneOfMany._dropout,
    torch.dropout: lambda mode, x, p, train: mode._dropout(x, p, train),
    torch.rand_like: OneOfMany._rand_like,
    torch.randn_like: OneOfMany._randn_like,
    torch.rand: OneOfMany._rand,
    torch.randn: OneOfMany._randn,
    F.cross_entropy: OneOfMany._cross_entropy,
    F.mse_loss: OneOfMany._squared_error,
    F.scaled_dot_product_attention: OneOfMany._attention,
    F.multi_head_attention_forward: OneOfMany._many_heads,
}
