"""Return-conditioned cloning: it conditions, it decodes with a cache, it is saved with its goal."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import tiny_gpt2
from stable_baselines3.common.logger import Logger

import text_envs
from agents import DecisionTransformer, decision_transformer
from agents.policies import return_conditioned
from agents.policies.return_conditioned import ReturnConditionedPolicy, return_levels
from text_envs import exact
from text_envs.datasets import EpisodeDataset, collect
from text_envs.tasks.maze import Maze

TOY = "text_envs/Toy-v0"


@pytest.fixture(scope="module")
def data() -> EpisodeDataset:
    return collect(TOY, "random", 300, seed=0)


@pytest.fixture(scope="module")
def trained(data: EpisodeDataset) -> DecisionTransformer:
    return make(data, learning_rate=3e-3).learn(n_epochs=40)


def make(data: Any, env: Any = TOY, **kwargs: Any) -> DecisionTransformer:
    policy_kwargs = {"model": {"layers": 1, "width": 16}, **kwargs.pop("policy_kwargs", {})}
    arguments = {"batch_size": 32, "seed": 0, "device": "cpu"} | kwargs
    return DecisionTransformer(
        "CausalLMPolicy", env, dataset=data, policy_kwargs=policy_kwargs, **arguments
    )


@pytest.mark.parametrize("wanted", [0.0, 0.5, 1.0, 1.5])
def test_writes_what_is_asked_for(trained: DecisionTransformer, wanted: float) -> None:
    """The return decides the text: asked for little it earns little, asked for much, much."""
    assert trained.policy.returns.tolist() == [0.0, 0.5, 1.0, 1.5]
    trained.policy.target_return = wanted
    found = exact.evaluate(TOY, trained)
    assert found.mean_return == pytest.approx(wanted, abs=0.1)


def test_the_return_of_a_multi_turn_game_is_asked_for() -> None:
    task = Maze(dataset=["########", "#.....G#", "########"], max_moves=6)
    env = text_envs.make_sb3(task, num_envs=16, seed=0)
    agent = make(collect(env, "mixed", 300, seed=0), env, learning_rate=5e-3, levels=4)
    agent.learn(n_epochs=15)
    means = []
    for wanted in (-6.0, 0.0):
        agent.policy.target_return = wanted
        means.append(collect(env, agent, 64, seed=1).returns.mean())
    assert means[1] - means[0] > 2


# -- equality with plain prefixes --------------------------------------------------------------


@pytest.mark.parametrize("env_name", ["toy", "share", "echo"])
def test_cached_decoding_gives_the_trained_distribution(
    env_name: str, request: pytest.FixtureRequest
) -> None:
    """Every way to a log-probability agrees with the model fed by hand: token, then text."""
    env = text_envs.make_sb3(
        TOY if env_name == "toy" else request.getfixturevalue(env_name), num_envs=6, seed=0
    )
    tokenizer = env.get_attr("tokenizer")[0]
    forbidden = np.flatnonzero(tokenizer.forbidden).tolist()
    allowed = [a for a in range(env.action_space.n) if a not in forbidden]  # type: ignore[attr-defined]

    def uniform(obs: Any) -> Any:
        scores = np.full((len(obs), env.action_space.n), -np.inf)  # type: ignore[attr-defined]
        scores[:, allowed] = -np.log(len(allowed))
        return scores

    data = collect(env, uniform, 12, seed=0)
    model = tiny_gpt2(tokenizer.vocab_size, positions=40)
    agent = make(data, env, policy_kwargs={"model": model}, levels=3)
    policy, lm = agent.policy, agent.policy.actor.lm
    assert isinstance(policy, ReturnConditionedPolicy) and agent.data is not None
    assert model.config.vocab_size == tokenizer.vocab_size  # the caller's model is left alone
    batch = agent.data
    found = agent.log_probs(batch).detach()
    levels = policy.levels(batch.returns.numpy())
    by_hand, cached = [], []
    for row in range(len(batch)):
        policy.target_return = float(policy.returns[levels[row]])
        for k in range(int(batch.lengths[row])):
            column, action = int(batch.columns[row, k]), int(batch.actions[row, k])
            obs = np.full((1, env.observation_space.shape[0]), tokenizer.pad_id)  # type: ignore[index]
            obs[0, : column + 1] = batch.tokens[row, : column + 1].numpy()
            text = obs[0][obs[0] != tokenizer.pad_id].tolist()
            ids = torch.tensor([[policy.arguments["first_id"] + levels[row], *text]])
            with torch.no_grad():
                logits = lm(ids).logits[0, -1, : env.action_space.n]  # type: ignore[attr-defined]
                logits[forbidden] = -torch.inf
                by_hand.append(logits.log_softmax(dim=0)[action])
                distribution = policy.get_distribution(torch.from_numpy(obs))
                cached.append(distribution.log_prob(torch.tensor([action]))[0])
    torch.testing.assert_close(found, torch.stack(by_hand), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(cached), found, rtol=1e-4, atol=1e-5)
    assert policy.actor._cacheable
    # With gradients, and over whole episodes: for the return that is asked for.
    same = batch.select(np.flatnonzero(levels == levels[-1]))
    arguments = (same.tokens, same.columns, same.actions, same.mask)
    log_probs, _, _ = policy.evaluate_episodes(*arguments)
    torch.testing.assert_close(log_probs[same.mask], agent.log_probs(same), rtol=1e-4, atol=1e-5)
    row = same.select(np.array([0]))
    _, one, _ = policy.evaluate_actions(
        torch.where(torch.arange(row.tokens.shape[1]) <= row.columns[0, 0], row.tokens,
                    tokenizer.pad_id), row.actions[:, 0],
    )  # fmt: skip
    torch.testing.assert_close(one, log_probs[0, :1], rtol=1e-4, atol=1e-5)


def test_a_new_wish_is_heard_in_mid_text(trained: DecisionTransformer) -> None:
    """The cache holds states of the old return; none of them may be used for the new one."""
    obs = np.array([[4, 0, 3, 3], [4, 1, 3, 3]])

    def probs(wanted: float, fresh: bool) -> torch.Tensor:
        if fresh:
            trained.policy.actor.invalidate()
        trained.policy.target_return = wanted
        with torch.no_grad():
            return trained.policy.get_distribution(torch.from_numpy(obs)).distribution.probs  # type: ignore[no-any-return]

    alone = [probs(wanted, True) for wanted in (0.0, 1.5)]
    assert not torch.allclose(*alone, atol=0.1)
    for _ in range(2):
        for wanted, expected in zip((0.0, 1.5), alone, strict=True):
            torch.testing.assert_close(probs(wanted, False), expected)


def test_padding_beyond_the_model_s_rows() -> None:
    """Padding is never fed, so its id may be the first free one; returns then come after it."""
    policy = ReturnConditionedPolicy(
        spaces.Box(0, 3, (4,), np.int64), spaces.Discrete(3), lambda _: 1e-3, model=tiny_gpt2(3),
        pad_id=3, eos_id=2, returns=[0.0, 1.0],
    )  # fmt: skip
    assert policy.arguments["first_id"] == 4  # of ids 0..2, padding is 3
    env = text_envs.make_sb3(TOY, num_envs=2)
    data = collect(TOY, "mixed", 10, seed=0)
    agent = make(data, env, policy_kwargs={"model": tiny_gpt2(9)})
    assert agent.policy.arguments["first_id"] == 9


# -- levels ------------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-50, 50)), st.integers(1, 20))
def test_levels(returns: Any, most: int) -> None:
    levels = return_levels(returns, most)
    assert 1 <= len(levels) <= most and (np.diff(levels) > 0).all()
    assert returns.min() - 1e-5 <= levels[0] <= levels[-1] <= returns.max() + 1e-5
    if len(np.unique(returns.round(6))) <= most:
        np.testing.assert_allclose(levels, np.unique(returns.round(6)))


def test_levels_examples() -> None:
    import doctest

    assert doctest.testmod(return_conditioned).failed == 0


def test_returns_belong_to_the_nearest_level(trained: DecisionTransformer) -> None:
    policy = trained.policy
    returns = np.array([-9, 0.2, 0.3, 0.74, 1.26, 99])
    assert policy.levels(returns).tolist() == [0, 0, 1, 1, 3, 3]
    policy.target_return = 99.0
    assert policy.target_return == 99.0 and policy.actor.level == 3
    with pytest.raises(ValueError, match="target_return must be finite"):
        policy.target_return = float("inf")


# -- saving, messages --------------------------------------------------------------------------


def test_saving_and_resuming(data: EpisodeDataset, tmp_path: Path) -> None:
    agent = make(data, levels=3, target_return=0.5).learn(100)
    agent.save(tmp_path / "x")
    loaded = DecisionTransformer.load(tmp_path / "x", env=TOY, dataset=data, device="cpu")
    rows = agent.policy.actor.lm.transformer.wte.weight.shape
    assert loaded.policy.actor.lm.transformer.wte.weight.shape == rows == (9, 16)
    assert loaded.policy.target_return == loaded.target_return == 0.5 and loaded.levels == 3
    np.testing.assert_array_equal(loaded.policy.returns, agent.policy.returns)
    for one in (agent, loaded):
        one.learn(100, reset_num_timesteps=False)
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name]), name
    other = DecisionTransformer.load(tmp_path / "x", target_return=1.5, device="cpu")
    assert other.policy.target_return == 1.5
    alone = ReturnConditionedPolicy.load(tmp_path / "x", device="cpu")
    assert alone.target_return == 0.5 and len(alone.returns) == 3


def test_target_is_the_highest_by_default(data: EpisodeDataset) -> None:
    assert make(data).target_return == 1.5
    agent = make(data, target_return=0.0)
    assert agent.policy.actor.level == 0
    agent.target_return = 1.4
    assert agent.policy.target_return == agent.target_return == 1.4
    assert agent.policy.actor.level == len(agent.policy.returns) - 1


def test_card_lists_the_metrics_that_are_logged(data: EpisodeDataset) -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = make(data, held_out=0.2, label_smoothing=0.1)
    agent.set_logger(Spy(None, []))
    agent.learn(n_epochs=1)
    section = inspect.getdoc(decision_transformer).split("**Metrics**")[1].split("**Ref")[0]  # type: ignore[union-attr]
    assert logged == set(re.findall(r"`((?:train|time)/\w+)`", section))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": 0}, "levels must be an integer of at least 1, got 0"),
        ({"levels": 2.5}, "levels must be an integer of at least 1, got 2.5"),
        ({"dataset": None}, r"needs dataset.*policy_kwargs\['returns'\]"),
        ({"target_return": "best"}, "target_return must be finite, got 'best'"),
        ({"policy_kwargs": {"model": tiny_gpt2(2)}}, "knows 2 tokens, the environment has 3"),
        ({"policy_kwargs": {"returns": [1.0, 1.0]}}, "ascending finite numbers"),
        ({"policy_kwargs": {"returns": []}}, "ascending finite numbers"),
        ({"target_return": float("nan")}, "target_return must be finite"),
    ],
)
def test_arguments(data: EpisodeDataset, kwargs: dict[str, Any], message: str) -> None:
    given_data = kwargs.pop("dataset", data)
    with pytest.raises(ValueError, match=message):
        make(given_data, **kwargs)
