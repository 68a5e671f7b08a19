"""A generative adversarial network (Goodfellow et al. 2014) on a mixture of two Gaussians in one dimension."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdexp.data import TensorData


def mixture(rows: int) -> TensorData:
    """Draw (rows, 1) numbers around -2 and 2, deviation 0.5."""
    signs = torch.randint(0, 2, (rows, 1)) * 2 - 1
    return TensorData(2 * signs + 0.5 * torch.randn(rows, 1))


class GAN(nn.Module):
    """A generator and a discriminator, each with its optimizer: a learner of its own."""

    def __init__(self, latent: int, hidden: int, lr: float) -> None:
        super().__init__()
        self.latent = latent
        self.generator = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.discriminator = nn.Sequential(nn.Linear(1, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))
        self.steps = [torch.optim.Adam(m.parameters(), lr, (0.5, 0.999)) for m in (self.generator, self.discriminator)]
        self.register_buffer("noise", torch.randn(1000, latent))  # the same for every measurement

    def train_step(self, real: Tensor) -> dict[str, Tensor]:
        fake = self.generator(torch.randn(len(real), self.latent, dtype=real.dtype, device=real.device))
        seen, judged = self.discriminator(real), self.discriminator(fake.detach())
        loss = F.softplus(-seen).mean() + F.softplus(judged).mean()
        self._update(self.steps[1], loss)
        generator_loss = F.softplus(-self.discriminator(fake)).mean()
        self._update(self.steps[0], generator_loss)
        return {"train_loss": loss, "generator_loss": generator_loss}

    def evaluate(self, real: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.generator(self.noise[: len(real)])
        return {"distance": (fake.sort(0).values - real.sort(0).values[: len(fake)]).abs().mean()}

    def weights(self) -> dict[str, Tensor]:
        return self.state_dict(keep_vars=True)

    def _update(self, step: torch.optim.Optimizer, loss: Tensor) -> None:
        step.zero_grad()
        loss.backward()
        step.step()
