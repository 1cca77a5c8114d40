"""Where agents end up on Toy-v0, against the exact optimum: collapse, posterior, discount."""

from __future__ import annotations

from typing import Any

import pytest
from models import iid_lm

from agents import DPG, PPO, REINFORCE, RLOO
from text_envs import exact

ENV = "text_envs/Toy-v0"
BETA = 0.5
PRIOR = (0.5, 0.3, 0.2)  # of a, b, end


def train(cls: Any, tokens: int, **kwargs: Any) -> Any:
    arguments: dict[str, Any] = {
        "learning_rate": lambda progress: 1e-2 * progress, "n_episodes": 256, "num_envs": 64,
        "seed": 0, "device": "cpu", "policy_kwargs": {"model": iid_lm(PRIOR)},
    }  # fmt: skip
    return cls("CausalLMPolicy", ENV, **arguments | kwargs).learn(tokens)


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (PPO, {"kl_coef": BETA, "gae_lambda": 1.0, "batch_size": 256}),
        (REINFORCE, {"kl_coef": BETA}),
        (RLOO, {"kl_coef": BETA, "group_size": 4}),
        (DPG, {"beta": BETA}),
        (DPG, {"beta": BETA, "proposal": "adaptive", "baseline": False}),
        (DPG, {"beta": BETA, "divergence": "js"}),
    ],
)
def test_the_posterior_is_approached(cls: Any, kwargs: dict[str, Any]) -> None:
    """From KL(pi || p*) = .331 and KL(p* || pi) = .336 to a hundredth of it, or less."""
    prior = exact.evaluate(ENV, iid_lm(PRIOR), reference=iid_lm(PRIOR), beta=BETA)
    assert prior.reverse_kl == pytest.approx(0.331, abs=1e-3)
    assert prior.forward_kl == pytest.approx(0.336082, abs=1e-5)
    agent = train(cls, 60_000, **kwargs)
    found = exact.evaluate(ENV, agent, reference=iid_lm(PRIOR), beta=BETA)
    assert found.reverse_kl is not None and found.reverse_kl < 3e-3
    assert found.forward_kl is not None and found.forward_kl < 3e-3
    assert found.mean_return == pytest.approx(0.847620, abs=0.02)
    assert found.entropy == pytest.approx(2.383438, abs=0.05)
    # J = beta log Z - beta KL(pi || p*): the gap to the optimal objective is the divergence.
    assert found.objective == pytest.approx(0.679579 - BETA * found.reverse_kl, abs=1e-6)


@pytest.mark.parametrize(
    ("cls", "kwargs"), [(PPO, {"batch_size": 64}), (REINFORCE, {}), (RLOO, {})]
)
def test_reward_alone_collapses_to_the_best_text(cls: Any, kwargs: dict[str, Any]) -> None:
    """The maximiser is unique here; among several best texts, any mixture would be optimal."""
    agent = train(cls, 40_000, learning_rate=1e-2, **kwargs)
    found = exact.evaluate(ENV, agent, reference=iid_lm(PRIOR))
    assert found.mean_return > 1.49 and found.entropy < 0.1
    assert found.kl_reference == pytest.approx(3.5066, abs=0.1)  # log(1 / .03)


def test_discounting_moves_the_optimum() -> None:
    """gamma = .9: the policy is not p* but the optimum of the discounted problem."""
    agent = train(REINFORCE, 100_000, kl_coef=BETA, credit="to_go", gamma=0.9)
    discounted = exact.solve(ENV, reference=iid_lm(PRIOR), beta=BETA, gamma=0.9)
    apart = exact.evaluate(ENV, discounted, reference=iid_lm(PRIOR), beta=BETA)
    assert apart.reverse_kl == pytest.approx(9.2e-3, abs=1e-4)
    found = exact.evaluate(ENV, agent, reference=discounted)
    assert found.kl_reference < 2e-3 < apart.reverse_kl / 4
