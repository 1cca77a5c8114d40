"""The embedding extractor reads ids as ids in every stock algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import text_envs
from agents import IdEmbedding

BOX = spaces.Box(0, 9, (6,), np.int64)
PAD = 7
NETWORKS = ("flatten", "gru")


def ids(*rows: list[int]) -> torch.Tensor:
    """Return rows as Stable-Baselines3 hands them over: floats."""
    return torch.tensor(rows, dtype=torch.float32)


def extractor(network: str, space: Any = BOX, **kwargs: Any) -> IdEmbedding:
    torch.manual_seed(0)
    return IdEmbedding(space, PAD, network=network, **{"width": 8, "features_dim": 16, **kwargs})


@pytest.mark.parametrize("network", NETWORKS)
def test_shape_and_gradient(network: str) -> None:
    net = extractor(network)
    features = net(ids([7, 7, 1, 2, 3, 7], [7, 1, 1, 4, 7, 7]))
    assert features.shape == (2, net.features_dim) == (2, 16)
    features.square().sum().backward()
    (table,) = [p for n, p in net.named_parameters() if n.endswith("ids.weight")]
    assert table.grad is not None
    reached = table.grad.abs().sum(dim=1) > 0  # one row an id
    assert reached.tolist() == [i in (1, 2, 3, 4) for i in range(10)]


@pytest.mark.parametrize("network", NETWORKS)
def test_ids_are_no_numbers(network: str) -> None:
    """The features of 2 do not lie between those of 1 and 3, as those of numbers would."""
    net = extractor(network)
    one, two, three = net(ids([7, 7, 1, 7, 7, 7], [7, 7, 2, 7, 7, 7], [7, 7, 3, 7, 7, 7]))
    assert not torch.allclose(two, (one + three) / 2, atol=1e-2)


@pytest.mark.parametrize("network", NETWORKS)
def test_padding_is_zero_and_stays_it(network: str) -> None:
    net = extractor(network)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(ids([7, 7, 1, 2, 7, 7])).square().sum().backward()
        optimizer.step()
    (table,) = [p for n, p in net.named_parameters() if n.endswith("ids.weight")]
    assert (table[PAD] == 0).all() and (table[1] != 0).all()
    empty = net(ids([PAD] * 6))
    assert torch.isfinite(empty).all()
    if network == "flatten":  # places of empty columns count for nothing
        assert torch.equal(empty[0], torch.relu(net.networks[0].last.bias))


def test_gru_does_not_see_where_padding_stands() -> None:
    net = extractor("gru")
    rows = ids([1, 2, 3, 7, 7, 7], [7, 7, 7, 1, 2, 3], [7, 1, 2, 7, 3, 7], [3, 2, 1, 7, 7, 7])
    first, last, spread, reversed_ = net(rows)
    assert torch.allclose(first, last) and torch.allclose(first, spread)
    assert not torch.allclose(first, reversed_)
    wide = extractor("gru", spaces.Box(0, 9, (11,), np.int64))(ids([7] * 8 + [1, 2, 3]))
    assert torch.allclose(first, wide[0])  # neither how much of it there is


def test_columns_of_one_row_do_not_depend_on_the_others() -> None:
    for network in NETWORKS:
        net = extractor(network)
        alone, long = [7, 1, 7, 7, 7, 7], [1, 2, 3, 4, 5, 6]
        assert torch.allclose(net(ids(alone)), net(ids(alone, long))[:1], atol=1e-6)


def test_goals_are_joined_on() -> None:
    venv = text_envs.make_sb3("text_envs/WordSortingGoal-v0", num_envs=2, seed=0)
    agent = DQN(
        "MultiInputPolicy", venv, learning_starts=4, buffer_size=50,
        policy_kwargs=IdEmbedding.policy_kwargs(venv, features_dim=32),
    ).learn(12)  # fmt: skip
    net = agent.q_net.features_extractor
    assert isinstance(net, IdEmbedding) and net.features_dim == 32 + 3 + 3
    observation: Any = venv.reset()
    assert agent.predict(observation)[0].shape == (2,)
    other = {**observation, "desired_goal": (observation["desired_goal"] + 1) % 3}
    q = [agent.q_net(agent.policy.obs_to_tensor(o)[0]) for o in (observation, other)]
    assert not torch.allclose(*q)


@pytest.mark.parametrize("algorithm", [DQN, A2C, PPO])
@pytest.mark.parametrize("network", NETWORKS)
def test_save_and_load(algorithm: Any, network: str, tmp_path: Path) -> None:
    venv = text_envs.make_sb3("text_envs/TargetWords-v0", num_envs=2, seed=0)
    kwargs = {"n_steps": 8} if algorithm is PPO else {}
    kwargs |= {"batch_size": 8} if algorithm is PPO else {}
    policy_kwargs = IdEmbedding.policy_kwargs(venv, network=network)
    agent = algorithm("MlpPolicy", venv, seed=0, policy_kwargs=policy_kwargs, **kwargs).learn(32)
    agent.save(tmp_path / "agent")
    again = algorithm.load(tmp_path / "agent", env=venv)
    observation = venv.reset()
    weights, others = agent.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    chosen = [a.predict(observation, deterministic=True)[0] for a in (agent, again)]
    assert np.array_equal(*chosen)


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        (A2C, {"n_steps": 3}),
        (DQN, {"learning_rate": 1e-3, "learning_starts": 200, "train_freq": 1,
               "target_update_interval": 200, "exploration_fraction": 0.5}),
    ],
    ids=["A2C", "DQN"],
)  # fmt: skip
def test_learns_the_trivial(algorithm: Any, kwargs: dict[str, Any]) -> None:
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=0)
    agent = algorithm(
        "MlpPolicy", venv, gamma=1.0, seed=0, policy_kwargs=IdEmbedding.policy_kwargs(venv),
        **kwargs,
    ).learn(4_000)  # fmt: skip
    assert evaluate_policy(agent, venv, n_eval_episodes=16)[0] == 1.5


def test_policy_kwargs_of_every_face() -> None:
    import gymnasium as gym

    single = gym.make("text_envs/Toy-v0")
    batch = gym.make_vec("text_envs/Toy-v0", num_envs=2)
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2)
    for env in (single, batch, venv):
        kwargs = IdEmbedding.policy_kwargs(env, width=4)["features_extractor_kwargs"]
        assert kwargs == {"pad_id": single.unwrapped.tokenizer.pad_id, "width": 4}
    with pytest.raises(ValueError, match="no tokenizer; accepted: environments of text_envs"):
        IdEmbedding.policy_kwargs(gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("space", "kwargs", "message"),
    [
        (spaces.Box(0, 1, (3,), np.float32), {}, "observation_space must be a flat Box of ids"),
        (spaces.Box(-1, 4, (3,), np.int64), {}, "observation_space must be a flat Box of ids"),
        (spaces.Box(0, 255, (3, 8, 8), np.uint8), {}, "observation_space must be"),
        (spaces.Discrete(4), {}, "observation_space must be"),
        (spaces.Dict({"goal": spaces.Discrete(3)}), {}, "observation_space must be"),
        (BOX, {"network": "grU"}, "network must be 'flatten' or 'gru', got 'grU'"),
        (BOX, {"network": None}, "network must be 'flatten' or 'gru', got None"),
        (BOX, {"network": ["gru"]}, "network must be"),
        (BOX, {"width": 0}, "width must be an integer of at least 1, got 0"),
        (BOX, {"features_dim": 1.5}, "features_dim must be an integer of at least 1, got 1.5"),
        (BOX, {"pad_id": -1}, "pad_id must be an integer of at least 0, got -1"),
    ],
)
def test_what_cannot_be_used_is_refused(space: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IdEmbedding(space, **{"pad_id": PAD, **kwargs})


def test_padding_beyond_the_box_has_a_row() -> None:
    for network in NETWORKS:
        net = IdEmbedding(BOX, 12, network=network)
        assert net(ids([12, 1, 2, 9, 12, 12])).shape == (1, 128)


def test_normalised_observations_are_refused() -> None:
    venv = VecNormalize(text_envs.make_sb3("text_envs/Toy-v0", num_envs=2, seed=0))
    agent = A2C("MlpPolicy", venv, policy_kwargs=IdEmbedding.policy_kwargs(venv), seed=0)
    with pytest.raises(ValueError, match="must be token ids, got fractions; .*norm_obs=False"):
        agent.learn(20)
    kept = VecNormalize(text_envs.make_sb3("text_envs/Toy-v0", num_envs=2), norm_obs=False)
    A2C("MlpPolicy", kept, policy_kwargs=IdEmbedding.policy_kwargs(kept)).learn(20)
