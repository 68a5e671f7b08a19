"""A variational autoencoder (Kingma and Welling 2014) for the 8×8 digits, with its own training step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VAE(nn.Module):
    """Gaussian code, pixels in [0, 1].

    Args:
        in_features: pixels of an image.
        latent: dimensions of the code.
        hidden: width of encoder and decoder.
    """

    def __init__(self, in_features: int, latent: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, in_features))

    def training_loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the negative evidence lower bound an image, and its two parts."""
        x = batch[0] / 16  # (batch, pixels)
        mean, log_variance = self.encoder(x).chunk(2, dim=1)  # (batch, latent) each
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        pixels = F.binary_cross_entropy_with_logits(self.decoder(code), x, reduction="none")
        reconstruction = pixels.sum(1).mean()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return reconstruction + kl, {"reconstruction": reconstruction, "kl": kl}
