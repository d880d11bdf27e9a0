"""Logistic regressions, one a label, that share their inputs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear layer followed by sigmoids.

    Attributes:
        weight: float32 [labels, hidden size].
        bias: float32 [labels].
    """

    weight: Matrix
    bias: Matrix

    def probabilities(self, inputs: Matrix) -> NDArray[np.float64]:
        """Return float64 [texts, labels]."""
        logits = inputs.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def fit(inputs: Matrix, targets: Matrix, weights: NDArray[np.float64], *, l2: float) -> LinearHead:
    """Minimise weighted cross-entropy plus ``l2``·|weight|² by L-BFGS; convex, so the result needs no seed.

    Args:
        inputs: float32 [texts, hidden size].
        targets: float32 [texts, labels]: 1, 0, or NaN where nobody knows.
        weights: weight of each text; only their ratios matter.
        l2: strength of the penalty on the weights (not on the biases), against a mean loss.
    """
    x = torch.from_numpy(inputs).double()
    y = torch.from_numpy(targets).double()
    known = (~torch.isnan(y)) * torch.from_numpy(weights).unsqueeze(1)
    known = known / known.sum(0, keepdim=True)
    y = torch.nan_to_num(y)
    weight = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-11, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        each = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight.T + bias, y, reduction="none")
        total = (each * known).sum() + l2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return LinearHead(weight.detach().float().numpy(), bias.detach().float().numpy())
