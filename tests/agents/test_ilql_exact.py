"""ILQL against exact values: full coverage of small tasks, tau, alpha and beta."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Echo
from models import tiny_gpt2
from offline_helpers import (
    dialogue,
    every_toy_text,
    every_walk,
    largest_error,
    learned,
    offline_agent,
    small_maze,
    solve,
)

from agents.ilql import ILQL
from text_envs import exact

TOY = "text_envs/Toy-v0"
FAST = {"cql_weight": 0.0, "polyak": 0.1, "max_grad_norm": 100.0}
PAD = 3  # of Toy


@pytest.fixture(scope="module")
def on_toy() -> ILQL:
    """Return an agent that has learned the fixed point of tau = 0.99 on every text of Toy."""
    torch.set_num_threads(1)
    agent: ILQL = offline_agent(
        ILQL, TOY, every_toy_text(), tau=0.99, learning_rate=lambda left: 3e-3 * left, **FAST
    )
    return agent.learn(n_epochs=300)


def test_the_solver_of_these_tests_is_right() -> None:
    """With the maximum in place of an expectile, it is `text_envs.exact`."""
    data = every_toy_text()
    v, q = solve(data, PAD, tau=1, gamma=1.0)
    optimum = exact.solve(TOY)
    for text, value in v.items():
        observation = [*text, *[PAD] * (4 - len(text))]
        assert optimum.v(observation) == value
        for action in range(3):
            assert optimum.q(observation)[action] == q[text, action]
    assert len(v) == 7


def test_toy_approaches_the_exact_optimum(on_toy: ILQL) -> None:
    """tau = 0.99: its own fixed point is met within 0.03, V* and Q* within 0.06."""
    v, q = learned(on_toy)
    fixed_v, fixed_q = solve(every_toy_text(), PAD, 0.99, 1.0)
    assert largest_error(v, fixed_v) < 0.03 and largest_error(q, fixed_q) < 0.03
    best_v, best_q = solve(every_toy_text(), PAD, 1, 1.0)
    assert largest_error(v, best_v) < 0.06 and largest_error(q, best_q) < 0.06


def test_stronger_guidance_approaches_the_best_text(on_toy: ILQL) -> None:
    """From the language model's own return at beta = 0 to the optimum, rising all the way."""
    optimum = exact.solve(TOY).value
    returns = []
    for beta in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        on_toy.beta = beta
        returns.append(exact.evaluate(TOY, on_toy.policy).mean_return)
    plain = exact.evaluate(TOY, on_toy.policy.actor).mean_return
    assert returns[0] == pytest.approx(plain, abs=1e-4)
    assert all(np.diff(returns) > 0)
    assert returns[-1] > optimum - 0.02 > plain + 0.3


def test_guidance_with_exact_values_is_the_exact_posterior(on_toy: ILQL) -> None:
    r"""exp(beta Q) tilts pi_beta as the KL penalty does, one step ahead, from the same Q."""
    on_toy.beta = 2.0
    optimum = exact.solve(TOY)
    observations = optimum.tree.observations
    obs = torch.as_tensor(observations).long()
    with torch.no_grad():
        found = on_toy.policy.get_distribution(obs).distribution.logits.double()
        hidden = on_toy.policy._encode_last(obs)
        log_pi = on_toy.policy.actor.logits(hidden).double().log_softmax(1)
    wanted = (log_pi + 2.0 * torch.from_numpy(optimum.q(observations))).log_softmax(1)
    assert float((found.exp() - wanted.exp()).abs().max()) < 0.03


def test_tau_moves_values_from_the_mean_to_the_maximum() -> None:
    """Each tau meets its own fixed point; V rises with tau, and Q with it."""
    data = every_toy_text()
    starts = []
    for tau in (0.5, 0.8):
        rate = {"learning_rate": lambda left: 3e-3 * left}
        agent = offline_agent(ILQL, TOY, data, tau=tau, **rate, **FAST)
        v, q = learned(agent.learn(n_epochs=150))
        fixed_v, fixed_q = solve(data, PAD, tau, 1.0)
        assert largest_error(v, fixed_v) < 0.05 and largest_error(q, fixed_q) < 0.05, tau
        starts.append(v[min(v, key=len)])
    assert starts[1] - starts[0] > 0.2


def test_small_maze_approaches_the_exact_optimum() -> None:
    """Values are passed back across the replies of a maze: Q* within 0.15, V* within 0.25."""
    maze = small_maze()
    walks = every_walk(maze, start=1)
    model = tiny_gpt2(maze.tokenizer.vocab_size, walks.tokens.shape[1], width=32, layers=2)
    agent = offline_agent(
        ILQL, maze, walks, tau=0.97, learning_rate=lambda left: 2e-3 * left, model=model, **FAST
    )
    before = learned(agent)
    v, q = learned(agent.learn(n_epochs=400))
    optimum = exact.solve(maze)
    pad, columns = maze.tokenizer.pad_id, walks.tokens.shape[1]
    exact_v, exact_q = {}, {}
    for state, action in q:
        prompt = sum(token != pad for token in maze.prompts(np.array([1]))[0])
        row = [pad] * (maze.prompt_length - prompt) + list(state)
        observation = row + [pad] * (columns - len(row))
        exact_v[state] = optimum.v(observation)
        exact_q[state, action] = optimum.q(observation)[action]
    assert exact_v == pytest.approx(solve(walks, pad, 1, 1.0)[0])
    assert largest_error(before[0], exact_v) > 1.0
    assert largest_error(v, exact_v) < 0.25 and largest_error(q, exact_q) < 0.15


def test_rewards_travel_back_by_gamma_a_token() -> None:
    """One deterministic dialogue: only the agent's tokens count, the reply's do not."""
    data = dialogue().select([0])
    rewards = np.zeros_like(data.rewards)
    rewards[0, 9] = 2.0
    data = replace(data, rewards=rewards)
    agent = offline_agent(ILQL, Echo(), data, learning_rate=lambda left: 4e-3 * left, **FAST)
    agent.gamma = 0.5
    agent.learn(n_epochs=160)
    _, q = learned(agent)
    by_position = [q[state, action] for state, action in sorted(q, key=lambda pair: len(pair[0]))]
    assert by_position == pytest.approx([2.0 * 0.5**k for k in (3, 2, 1, 0)], abs=0.05)


def test_utterances_travel_back_by_gamma_a_turn() -> None:
    data = dialogue().select([0])
    agent = offline_agent(ILQL, Echo(), data, variant="utterance", learning_rate=3e-3, **FAST)
    agent.gamma = 0.5
    agent.learn(n_epochs=160)
    batch, critic = agent.data, agent.policy.critic
    with torch.no_grad():
        ends = torch.tensor([[5, 9]])
        q = critic.q(critic.encode(batch.tokens, ends, torch.ones(1, 2).bool())).squeeze(2)
        starts = torch.tensor([[3, 7]])
        v = critic.v(critic.encode(batch.tokens, starts, torch.ones(1, 2).bool()))
    # -1 and then 2: the first turn is worth -1 + 2 / 2
    torch.testing.assert_close(q, torch.tensor([[0.0, 2.0]] * 2), atol=0.05, rtol=0)
    torch.testing.assert_close(v, torch.tensor([0.0, 2.0]), atol=0.05, rtol=0)


def test_a_large_alpha_makes_q_the_language_of_the_data() -> None:
    """softmax(Q) is then the behaviour in the data, whatever it earned."""
    texts = every_toy_text()
    first = texts.tokens[:, 1]
    data = texts.select(np.flatnonzero(first == 0).tolist() + np.flatnonzero(first == 2).tolist())
    counts = np.bincount(data.tokens[:, 1], minlength=3) / len(data)
    start = torch.tensor([[4, 3, 3, 3]])  # the begin token
    errors = []
    for alpha in (0.0, 100.0):
        agent = offline_agent(ILQL, TOY, data, learning_rate=3e-3, **(FAST | {"cql_weight": alpha}))
        agent.learn(n_epochs=100)
        with torch.no_grad():
            critic = agent.policy.critic
            hidden = critic.encode(start, torch.tensor([[0]]), torch.ones(1, 1).bool())
            shares = critic.q(hidden)[:, 0].softmax(dim=1).numpy()
        errors.append(np.abs(shares - counts).max())
    assert errors[1] < 0.02 < 0.2 < errors[0]


def test_without_alpha_what_is_not_in_the_data_is_over_estimated() -> None:
    """No text begins with b, which is worth 1 at best: guidance runs there unless alpha is paid."""
    texts = every_toy_text()
    data = texts.select(np.flatnonzero(texts.tokens[:, 1] != 1).tolist())
    start = torch.tensor([[4, PAD, PAD, PAD]])
    unseen, returns = [], []
    for alpha in (0.0, 0.1):
        arguments = FAST | {"cql_weight": alpha, "tau": 0.99, "learning_rate": 3e-3}
        agent = offline_agent(ILQL, TOY, data, **arguments).learn(n_epochs=100)
        target, mask = agent.policy.target, torch.ones(1, 1).bool()
        with torch.no_grad():
            q = target.q_min(target.encode(start, torch.tensor([[0]]), mask))
        unseen.append(float(q[0, 1]))
        agent.beta = 16.0
        returns.append(exact.evaluate(TOY, agent.policy).mean_return)
    assert unseen[0] > 1.3 > 0.0 > unseen[1]
    assert returns[0] < 1.3 < 1.45 < returns[1]
