r"""FARL, fine-tuning on the agent's own correct answers: hindsight that throws failures away.

The loop is that of `agents.hir`: sample, judge, train on the history. Of the history only the
answers that reached the best goal are used, each under the instruction that asked for it, and there
is no contrast and no entropy loss unless asked for. What is missing against HIR is what wrong
answers teach; where nothing is shared between instructions and HIR's $\alpha$ is 0, that is
nothing, and the two take equal steps.

An iteration without a single correct answer has nothing to train on: the policy stays as it is, a
warning says so once, and `hindsight/used` is 0.

**References**: Zhang et al. 2023, arXiv 2302.05206, where it is a baseline.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.hir import HIR

__all__ = ["FARL"]


class FARL(HIR):
    """Fine-tuning on correct samples only; arguments as in `HIR`, both weights 0 by default.

    ```python
    agent = FARL("CausalLMPolicy", "text_envs/WordSortingGoal-v0", n_episodes=256)
    ```
    """

    default_contrastive_coef = 0.0
    default_ent_coef = 0.0
    nothing_hint: ClassVar[str] = (
        ": none of these reached the best goal. Sample more, begin with an easier task, or start "
        "from a model that answers right now and then"
    )

    def useful(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows of the history reached the best goal."""
        best: NDArray[np.bool_] = self.history.goals[rows] == self.policy.num_goals - 1
        return best
