"""Logistic regression in numpy: Newton's method on the penalised log-likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_logistic"]


def fit_logistic(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], penalty: float, steps: int = 50
) -> NDArray[np.float64]:
    """Return the weights w `(F,)` that minimise the sum of -log p(target) + penalty/2 |w|^2.

    Args:
        inputs: `(N, F)`.
        targets: `(N,)` probabilities of a one, 0 or 1 for plain labels.
        penalty: strength of the penalty, above 0.
        steps: most Newton steps; it stops when the weights no longer move.
    """
    weights = np.zeros(inputs.shape[1])
    for _ in range(steps):
        p = (1 + np.tanh(inputs @ weights / 2)) / 2
        gradient = inputs.T @ (p - targets) + penalty * weights
        hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs
        step = np.linalg.solve(hessian + penalty * np.eye(len(weights)), gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights
