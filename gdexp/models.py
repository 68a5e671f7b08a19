"""Small models of our own; any other is torch's or the user's, by `_target_`.

A constructor that has `in_features`, `in_shape` or `out_features` gets them from the data.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class LinearRegression(nn.Module):
    """y = x·Wᵀ + b; with a loss for classes, logistic regression.

    Args:
        in_features: columns of the input, all its dimensions but the first taken together.
        out_features: columns of the output.
        bias: whether there is a b.
        output_activation: a `torch.nn` activation in lower case, as `sigmoid` or `log_softmax`.
    """

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        bias: bool = True,
        output_activation: str | None = None,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features or 1, out_features or 1, bias=bias)
        self.output = _output(output_activation)

    def forward(self, x: Tensor) -> Tensor:  # (batch, …) -> (batch, out_features)
        return self.output(self.linear(x.flatten(1)))


class Polynomial(nn.Module):
    """y = Σ w_k·x^k + b for one feature, k from 1 to the degree.

    Args:
        degree: highest power.
        in_features: columns of the input, one.
        out_features: columns of the output.
    """

    def __init__(self, degree: int = 3, in_features: int | None = None, out_features: int | None = None) -> None:
        super().__init__()
        if degree < 1:
            raise ValueError(f"`model.degree` must be a whole number from 1, got {degree}")
        if (in_features or 1) != 1:
            raise ValueError(f"`model`: a polynomial takes data of one feature, this has {in_features}")
        self.linear = nn.Linear(degree, out_features or 1)
        self.register_buffer("powers", torch.arange(1, degree + 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 1) -> (batch, out_features)
        return self.linear(x.reshape(-1, 1).pow(self.powers))  # type: ignore[arg-type]


class MLP(nn.Sequential):
    """A multi-layer perceptron: linear maps, each but the last followed by norm, activation and dropout.

    Args:
        in_features: columns of the input, all its dimensions but the first taken together.
        out_features: columns of the output.
        hidden: width of each hidden layer, from the input on; empty: a linear model.
        activation: a `torch.nn` activation in lower case, as `relu` or `leaky_relu`.
        dropout: share of the hidden units left out in a training step, in [0, 1).
        norm: of the hidden units, over the batch or over the layer.
        bias: of the linear maps.
        output_activation: after the last linear map, as `sigmoid` or `log_softmax`.
    """

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        hidden: Sequence[int] = (128,),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: Literal["batch", "layer"] | None = None,
        bias: bool = True,
        output_activation: str | None = None,
    ) -> None:
        _check_widths("hidden", hidden)
        make, norms = _activation("activation", activation), {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        widths = [in_features or 1, *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers.append(nn.Linear(width_in, width_out, bias=bias))
            layers += [norms[norm](width_out)] if norm else []
            layers.append(make())
            layers += _dropout(dropout)
        layers.append(nn.Linear(widths[-1], out_features or 1, bias=bias))
        layers += [_output(output_activation)] if output_activation else []
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:  # (batch, …) -> (batch, out_features)
        return super().forward(x.flatten(1))


class CNN(nn.Module):
    """Convolutions of 3×3, each with an activation and a pooling that halves the image, then a linear map.

    Args:
        in_shape: of an image: (channels, height, width); a flat square, as (64,), is one channel.
        out_features: columns of the output.
        channels: of each convolution.
        activation: a `torch.nn` activation in lower case.
        dropout: before the linear map, in [0, 1).
        norm: over the batch, after each convolution.
    """

    def __init__(
        self,
        in_shape: Sequence[int] | None = None,
        out_features: int | None = None,
        channels: Sequence[int] = (16, 32),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: Literal["batch"] | None = None,
    ) -> None:
        super().__init__()
        _check_widths("channels", channels)
        make = _activation("activation", activation)
        self.image = _image("cnn", in_shape)
        if min(self.image[1:]) < 2 ** len(channels):
            raise ValueError(f"`model.channels`: {len(channels)} poolings leave nothing of an image of {self.image}")
        layers: list[nn.Module] = []
        for before, after in zip([self.image[0], *channels], channels, strict=False):
            layers.append(nn.Conv2d(before, after, 3, padding=1))
            layers += [nn.BatchNorm2d(after)] if norm else []
            layers += [make(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        pixels = math.prod(side // 2 ** len(channels) for side in self.image[1:])
        last = channels[-1] if channels else self.image[0]
        self.head = nn.Sequential(nn.Flatten(), *_dropout(dropout), nn.Linear(last * pixels, out_features or 1))

    def forward(self, x: Tensor) -> Tensor:  # (batch, …) -> (batch, out_features)
        return self.head(self.features(x.reshape(-1, *self.image)))


class LeNet(nn.Sequential):
    """LeNet-5 (LeCun et al. 1998) for images of 32×32; those of 28×28 are padded.

    Args:
        in_shape: of an image: (channels, 32, 32), or flat.
        out_features: columns of the output.
        activation: a `torch.nn` activation in lower case.
    """

    def __init__(
        self, in_shape: Sequence[int] | None = None, out_features: int | None = None, activation: str = "tanh"
    ) -> None:
        make = _activation("activation", activation)
        self.image = _image("lenet", in_shape or (1, 32, 32))
        if self.image[1:] not in ((32, 32), (28, 28)):
            raise ValueError(f"`model`: lenet takes images of 32×32 or 28×28, these are {self.image}")
        super().__init__(
            nn.Conv2d(self.image[0], 6, 5, padding=(32 - self.image[1]) // 2),  # (batch, 6, 28, 28)
            make(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),  # (batch, 16, 10, 10)
            make(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            make(),
            nn.Linear(120, 84),
            make(),
            nn.Linear(84, out_features or 10),
        )

    def forward(self, x: Tensor) -> Tensor:  # (batch, …) -> (batch, out_features)
        return super().forward(x.reshape(-1, *self.image))


class Transformer(nn.Module):
    """A transformer encoder (Vaswani et al. 2017), normalised first, its tokens averaged at the end.

    A row (features,) is a sequence of numbers, (steps, features) one of vectors, and an image
    (channels, height, width) one of its lines.

    Args:
        in_shape: of a row.
        out_features: columns of the output.
        width: of a token.
        heads: of the attention; they divide the width.
        layers: of attention and feed-forward.
        feedforward: width of the feed-forward layer.
        dropout: in [0, 1).
        activation: of the feed-forward layer.
    """

    def __init__(
        self,
        in_shape: Sequence[int] | None = None,
        out_features: int | None = None,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        feedforward: int = 64,
        dropout: float = 0.0,
        activation: Literal["relu", "gelu"] = "gelu",
    ) -> None:
        super().__init__()
        _check_widths("width", [width, heads, layers, feedforward])
        if width % heads:
            raise ValueError(f"`model.heads` must divide model.width, got {heads} and {width}")
        _dropout(dropout)
        shape = tuple(in_shape or (1,))
        self.by_line = len(shape) == 3
        steps, features = (shape[1], shape[0] * shape[2]) if self.by_line else (shape[0], math.prod(shape[1:]))
        self.tokens = (steps, features)
        self.embed = nn.Linear(features, width)
        self.positions = nn.Parameter(0.02 * torch.randn(steps, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, feedforward, dropout, activation, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, out_features or 1)

    def forward(self, x: Tensor) -> Tensor:  # (batch, *in_shape) -> (batch, out_features)
        x = x.transpose(1, 2) if self.by_line else x
        tokens = self.embed(x.reshape(-1, *self.tokens)) + self.positions  # (batch, steps, width)
        return self.head(self.encoder(tokens).mean(1))


def _image(name: str, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Return (channels, height, width) of an image, which may be flat or lack its channel."""
    shape = tuple(shape or ())
    if len(shape) == 1:
        for channels in (1, 3):
            side = math.isqrt(shape[0] // channels)
            if channels * side * side == shape[0]:
                return channels, side, side
    if len(shape) == 2:
        return 1, *shape
    if len(shape) == 3:
        return shape
    raise ValueError(f"`model`: {name} takes images, a row of this data has the shape {list(shape)}")


def _check_widths(key: str, widths: Sequence[int]) -> None:
    if any(width < 1 for width in widths):
        raise ValueError(f"`model.{key}` must be at least 1, got {list(widths)}")


def _dropout(share: float) -> list[nn.Module]:
    """Return the layer, or none where nothing is left out."""
    if not 0 <= share < 1:
        raise ValueError(f"`model.dropout` must be in [0, 1), got {share}")
    return [nn.Dropout(share)] if share else []


def _output(name: str | None) -> nn.Module:
    """Return the activation of the last layer; those over classes go along the columns."""
    if name is None:
        return nn.Identity()
    make = _activation("output_activation", name)
    return make(dim=1) if make in (nn.Softmax, nn.LogSoftmax, nn.Softmin) else make()


def _activation(key: str, name: str) -> type[nn.Module]:
    """Return the class of `torch.nn` that a name such as `leaky_relu` means."""
    from torch.nn.modules import activation

    plain = {c.lower(): c for c in activation.__all__ if c not in ("MultiheadAttention", "Threshold")}
    if (found := name.replace("_", "").lower()) not in plain:
        raise ValueError(f"`model.{key}` must be one of {', '.join(sorted(plain))}, got {name!r}")
    return getattr(activation, plain[found])
