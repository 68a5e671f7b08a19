"""Small models of our own; any other is torch's or the user's, by `_target_`."""

from collections.abc import Sequence

from torch import Tensor, nn


class LinearRegression(nn.Module):
    """y = x·Wᵀ + b.

    Args:
        in_features: columns of the input.
        out_features: columns of the output.
    """

    def __init__(self, in_features: int | None = None, out_features: int | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features or 1, out_features or 1)

    def forward(self, x: Tensor) -> Tensor:  # (batch, …) -> (batch, out_features)
        return self.linear(x.reshape(x.shape[0], -1))


class MLP(nn.Sequential):
    """A multi-layer perceptron: linear maps with an activation after each but the last.

    Args:
        in_features: columns of the input, all its dimensions but the first taken together.
        out_features: columns of the output.
        hidden: width of each hidden layer, from the input on; empty: a linear model.
        activation: a `torch.nn` activation in lower case, as `relu` or `leaky_relu`.
    """

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        hidden: Sequence[int] = (128,),
        activation: str = "relu",
    ) -> None:
        if any(width < 1 for width in hidden):
            raise ValueError(f"`model.hidden` must hold widths from 1, got {list(hidden)}")
        make = _activation(activation)
        widths = [in_features or 1, *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width_in, width_out), make()]
        super().__init__(*layers, nn.Linear(widths[-1], out_features or 1))

    def forward(self, x: Tensor) -> Tensor:  # (batch, …) -> (batch, out_features)
        return super().forward(x.reshape(x.shape[0], -1))


def _activation(name: str) -> type[nn.Module]:
    """Return the class of `torch.nn` that a name such as `leaky_relu` means."""
    from torch.nn.modules import activation

    plain = {c.lower(): c for c in activation.__all__ if c not in ("MultiheadAttention", "Threshold")}
    if (key := name.replace("_", "").lower()) not in plain:
        raise ValueError(f"`model.activation` must be one of {', '.join(sorted(plain))}, got {name!r}")
    return getattr(activation, plain[key])
