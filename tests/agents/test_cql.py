"""Token CQL and Monte-Carlo values: losses against a loop, exact fixed points, bookkeeping."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Echo
from offline_helpers import (
    Passes,
    dialogue,
    every_toy_text,
    largest_error,
    learned,
    offline_agent,
    shake,
    solve,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from torch import Tensor

from agents import cql, mc
from agents.cql import CQL
from agents.mc import MCValues
from text_envs import exact

TOY = "text_envs/Toy-v0"
PAD = 3  # of Toy
LEARN = {"learning_rate": lambda left: 3e-3 * left, "cql_weight": 0.0, "max_grad_norm": 100.0}


def state(trunk: Any, row: Tensor, column: int) -> Tensor:
    ids = row[(row != 5) & (torch.arange(len(row)) <= column)]
    return trunk.actor.lm.base_model(input_ids=ids[None]).last_hidden_state[0, -1:]


def test_cql_losses_equal_a_loop_over_positions() -> None:
    """The target is the maximum of the smaller target head, over what may be written."""
    agent = offline_agent(
        CQL, Echo(), dialogue(), gamma=0.9, cql_weight=0.3, policy_kwargs={"forbidden": [0]}
    )
    shake(agent.policy.critic, 1)
    shake(agent.policy.target, 2)
    batch, critic, target = agent.data, agent.policy.critic, agent.policy.target
    q_loss = cql_loss = 0.0
    forbidden_wins = False
    with torch.no_grad():
        for b in range(3):
            n, row = int(batch.mask[b].sum()), batch.tokens[b]
            columns = [*batch.columns[b, :n].tolist(), int(batch.last_column[b])]
            for k in range(n):
                u, y = int(batch.actions[b, k]), float(batch.rewards[b, k])
                if k < n - 1 or not bool(batch.terminated[b]):
                    scores = target.q(state(target, row, columns[k + 1]))[:, 0].amin(dim=0)
                    forbidden_wins |= bool(scores.argmax() == 0)
                    y += 0.9 * float(scores[1:].max())
                q = critic.q(state(critic, row, columns[k]))[:, 0]
                q_loss += float((q[:, u] - y).square().sum())
                cql_loss += float((q.logsumexp(1) - q[:, u]).sum())
    loss, metrics = agent.losses(batch)
    assert forbidden_wins, "or leaving it out would not be tested"
    assert metrics["q_loss"].item() == pytest.approx(q_loss / batch.num_steps, rel=1e-4)
    assert metrics["cql_loss"].item() == pytest.approx(cql_loss / batch.num_steps, rel=1e-4)
    assert loss.item() == pytest.approx((q_loss + 0.3 * cql_loss) / batch.num_steps, rel=1e-4)


def test_monte_carlo_losses_equal_a_loop_over_positions() -> None:
    agent = offline_agent(MCValues, Echo(), dialogue(), gamma=0.9, cql_weight=0.3)
    shake(agent.policy.critic, 1)
    batch, critic = agent.data, agent.policy.critic
    q_loss = v_loss = cql_loss = 0.0
    with torch.no_grad():
        for b in range(3):
            row = batch.tokens[b]
            g = float(critic.v(state(critic, row, int(batch.last_column[b]))))
            g *= not bool(batch.terminated[b])
            for k in range(int(batch.mask[b].sum()) - 1, -1, -1):
                g = float(batch.rewards[b, k]) + 0.9 * g
                hidden = state(critic, row, int(batch.columns[b, k]))
                u, q = int(batch.actions[b, k]), critic.q(hidden)[:, 0]
                q_loss += float((q[:, u] - g).square().sum())
                cql_loss += float((q.logsumexp(1) - q[:, u]).sum())
                v_loss += float(0.5 * (critic.v(hidden) - g) ** 2)
    loss, _ = agent.losses(batch)
    total = (q_loss + v_loss + 0.3 * cql_loss) / batch.num_steps
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_cql_without_its_term_is_q_learning() -> None:
    """On every text of Toy it meets Q*, and the greedy policy is the best text."""
    agent = offline_agent(CQL, TOY, every_toy_text(), polyak=0.2, **LEARN).learn(n_epochs=300)
    _, q = learned(agent)
    assert largest_error(q, solve(every_toy_text(), PAD, 1, 1.0)[1]) < 0.05
    agent.beta = 64.0
    assert exact.evaluate(TOY, agent.policy).mean_return > 1.48


def test_monte_carlo_values_are_mean_returns() -> None:
    """They are one step of improvement on the data, not the optimum."""
    agent = offline_agent(MCValues, TOY, every_toy_text(), **LEARN).learn(n_epochs=200)
    v, q = learned(agent)
    data = every_toy_text()
    returns = data.returns
    start = (4,)
    assert v[start] == pytest.approx(returns.mean(), abs=0.03)
    for action in range(3):
        mean = returns[data.tokens[:, 1] == action].mean()
        assert q[start, action] == pytest.approx(mean, abs=0.03)
    best = solve(data, PAD, 1, 1.0)[1]
    assert q[start, 0] < best[start, 0] - 0.3


@pytest.mark.parametrize(("cls", "wanted"), [(CQL, (0, 1, 1)), (MCValues, (0, 1, 0))])
def test_one_pass_a_sequence_and_trunk(cls: Any, wanted: tuple[int, ...]) -> None:
    agent = offline_agent(cls, Echo(), dialogue())
    passes = Passes(agent.policy)
    agent.train_step(agent.data)
    assert tuple(passes.take().values()) == tuple(3 * n for n in wanted)


def test_value_of_a_critic_without_v() -> None:
    """V(s) is the maximum of Q over what may be written; a clip is then relative to it."""
    agent = offline_agent(CQL, Echo(), dialogue(), policy_kwargs={"forbidden": [0]})
    shake(agent.policy.target, 2)
    policy = agent.policy
    obs = torch.from_numpy(np.where(np.arange(16) < 4, dialogue().tokens, 5))
    with torch.no_grad():
        values = policy.predict_values(obs)
        hidden = policy.target.encode(obs, torch.full((3, 1), 3), torch.ones(3, 1).bool())
        scores = policy.target.q(hidden).amin(dim=0)[:, 1:]
    torch.testing.assert_close(values[:, 0], scores.max(dim=1).values, rtol=1e-4, atol=1e-4)
    policy.beta, policy.advantage_clip = 1.0, 1e-6
    with torch.no_grad():
        logits = policy.get_distribution(obs).distribution.logits
        plain = policy.actor.logits(policy._encode_last(obs)).log_softmax(1)
    torch.testing.assert_close(logits[:, 1:], plain[:, 1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cls", [CQL, MCValues])
def test_saving_and_playing(cls: Any, tmp_path: Path) -> None:
    agent = offline_agent(cls, Echo(), dialogue(), beta=2.0).learn(n_epochs=3)
    agent.save(tmp_path / "agent.zip")
    loaded = cls.load(tmp_path / "agent.zip", agent.env, device="cpu")
    assert loaded.beta == 2.0
    results = []
    for each in (agent, loaded):
        agent.env.seed(0)
        torch.manual_seed(0)
        results.append(evaluate_policy(each, agent.env, 8, deterministic=False))
    assert results[0] == results[1]


@pytest.mark.parametrize(("cls", "module"), [(CQL, cql), (MCValues, mc)])
def test_card_lists_the_metrics_that_are_logged(cls: Any, module: Any) -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = offline_agent(cls, Echo(), dialogue())
    agent.set_logger(Spy(None, []))
    agent.learn(n_epochs=2)
    section = (inspect.getdoc(module) or "").split("**Metrics**")[1].split("**References**")[0]
    assert logged == set(re.findall(r"`((?:train|time)/\w+)`", section))


@pytest.mark.parametrize("cls", [CQL, MCValues])
def test_arguments_are_checked(cls: Any) -> None:
    with pytest.raises(ValueError, match="cql_weight must be at least 0.*, got -1"):
        offline_agent(cls, TOY, every_toy_text(), cql_weight=-1.0)
    with pytest.raises(ValueError, match="candidates"):
        offline_agent(cls, TOY, every_toy_text(), policy_kwargs={"candidates": 0})
