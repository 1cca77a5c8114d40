"""PPO++, AggreVaTeD, LOLS and D2LOLS on Toy-v0, where what they approach is known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import iid_lm
from stable_baselines3.common.utils import LinearSchedule

from agents import D2LOLS, LOLS, AggreVaTeD, PPOPlusPlus
from text_envs import exact

TOY = "text_envs/Toy-v0"
PRIOR, GUIDE = (0.5, 0.3, 0.2), (0.3, 0.4, 0.3)  # of a, b and the end: the golden instance
BAD_GUIDE = (0.1, 0.8, 0.1)
K = 0.5


def train(
    cls: Any, tokens: int = 20_000, texts: int = 256, guide: Any = GUIDE, **kwargs: Any
) -> tuple[Any, exact.Evaluation]:
    """Train with a learning rate that falls to 0, and evaluate exactly."""
    agent = cls(
        "CausalLMPolicy", TOY, guide=iid_lm(guide), n_episodes=texts, batch_size=texts, n_epochs=4,
        kl_coef=K, gae_lambda=1.0, learning_rate=LinearSchedule(1e-2, 0.0, 1.0), seed=0,
        device="cpu", policy_kwargs={"model": iid_lm(PRIOR)}, **kwargs,
    )  # fmt: skip
    agent.learn(tokens)
    return agent, judge(agent)


def judge(policy: Any) -> exact.Evaluation:
    return exact.evaluate(TOY, policy, reference=iid_lm(PRIOR), beta=K)


@pytest.mark.parametrize(("beta", "guide"), [(0.8, (0.3, 0.3, 0.4)), (1.0, (0.3, 0.3, 0.4))])
def test_mixed_starts_do_not_move_the_optimum(beta: float, guide: Any) -> None:
    _, found = train(PPOPlusPlus, beta=beta, guide=guide)
    assert found.objective == pytest.approx(0.679579, abs=1e-3)
    assert found.reverse_kl is not None and found.reverse_kl < 2e-3  # of .331 at the start


@pytest.mark.parametrize(("cls", "kwargs"), [(LOLS, {}), (D2LOLS, {"tau": 10})])
def test_mixtures_reach_the_optimum(cls: Any, kwargs: Any) -> None:
    _, found = train(cls, **kwargs)
    assert found.objective == pytest.approx(0.679579, abs=2e-3)


def one_step(guide: Any) -> tuple[exact.Tree, Any]:
    """Return `(N, A)` of pi0 exp(Q / k): the guide pays no penalty, so Q is of the reward alone."""
    q = exact.q_of(TOY, iid_lm(guide))
    scores = q.tree.log_probs(iid_lm(PRIOR)) + q.action_values / K
    return q.tree, scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("guide", "at_first", "after"), [(GUIDE, 0.4411, 0.6784), (BAD_GUIDE, -0.4637, 0.6325)]
)
def test_the_numbers_of_one_step(guide: Any, at_first: float, after: float) -> None:
    tree, step = one_step(guide)
    assert judge(iid_lm(guide)).objective == pytest.approx(at_first, abs=5e-5)
    assert judge(tree.as_policy(step, "step")).objective == pytest.approx(after, abs=5e-5)
    if guide == GUIDE:  # as if the guide paid: the golden number
        penalised = exact.q_of(TOY, iid_lm(guide), iid_lm(PRIOR), K)
        assert judge(penalised.improved).objective == pytest.approx(0.6763, abs=5e-5)


@pytest.mark.parametrize("guide", [GUIDE, BAD_GUIDE])
def test_strict_aggrevated_is_one_step_better_than_the_guide(guide: Any) -> None:
    size = (40_000, 512) if guide == BAD_GUIDE else (20_000, 256)
    agent, found = train(AggreVaTeD, *size, guide=guide, strict=True, beta=0.9)
    tree, step = one_step(guide)
    reach = np.exp(tree.log_reach(step))

    def distance(policy: Any) -> float:
        terms = (np.exp(step) * (step - tree.log_probs(policy))).sum(axis=1)
        return float((reach * terms).sum())

    assert distance(agent) < 0.006 < 0.05 < distance(iid_lm(PRIOR))
    optimum = judge(tree.as_policy(step, "step"))
    assert found.objective == pytest.approx(optimum.objective, abs=0.01)
    if guide == BAD_GUIDE:  # one step from it is not the optimum
        assert found.reverse_kl == pytest.approx(0.0941, abs=0.025)


def test_by_default_a_bad_guide_is_no_limit() -> None:
    _, found = train(AggreVaTeD, guide=BAD_GUIDE)
    assert found.objective is not None and found.objective > 0.65  # of .6325 after one step


def test_the_papers_roll_ins_never_learn_when_to_end() -> None:
    """h <= l - 1: .514 at the start, below .45 in the end; with h <= l it comes to .65 and more."""
    _, paper = train(AggreVaTeD, to_the_end=False, normalize_advantage=False)
    assert judge(iid_lm(PRIOR)).objective == pytest.approx(0.514)
    assert paper.objective is not None and paper.objective < 0.45
