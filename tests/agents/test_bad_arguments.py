"""Each bad argument gets one clear sentence, before anything is made."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import stable_baselines3
from stable_baselines3.common import logger as sb3_logger

import agents
import text_envs
from agents.checkpoints.storage import CheckpointError
from text_envs import datasets

TOY = "text_envs/Toy-v0"
SCRATCH = {"model": {"layers": 1, "width": 8}}


NAN = float("nan")
SHARED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"policy": "MlpPolicyy"}, ValueError, "Policy MlpPolicyy unknown.*Accepted: 'CausalLMPolicy'"),
    ({"policy": "MlpPolicy"}, ValueError, "Policy MlpPolicy unknown.*Accepted: 'CausalLMPolicy'"),
    ({"policy": "CausalLMPolcy"}, ValueError, "Did you mean 'CausalLMPolicy'"),
    ({"policy": stable_baselines3.ppo.MlpPolicy}, ValueError, "a subclass of CausalLMPolicy"),
    ({"policy": 3}, ValueError, "policy must be a name or a subclass"),
    ({"learning_rate": -1e-3}, ValueError, "learning_rate must be a number of at least 0"),
    ({"learning_rate": NAN}, ValueError, "learning_rate must be .* got nan"),
    ({"learning_rate": "1e-3"}, ValueError, "learning_rate must be .* got '1e-3'"),
    ({"learning_rate": True}, ValueError, "learning_rate must be .* got True"),
    ({"learning_rate": float("inf")}, ValueError, "learning_rate must be .* got inf"),
    ({"seed": "0"}, ValueError, "seed must be None or an integer in .* got '0'"),
    ({"seed": 1.5}, ValueError, "seed must be None or an integer"),
    ({"seed": -1}, ValueError, "seed must be None or an integer"),
    ({"seed": True}, ValueError, "seed must be None or an integer"),
    ({"device": "gpu"}, ValueError, "device must be 'auto' or one that is here: 'cpu'"),
    ({"device": 3.5}, ValueError, "device must be 'auto' or one that is here"),
    ({"num_envs": 0}, ValueError, "num_envs must be an integer of at least 1"),
    ({"num_envs": 2.0}, ValueError, "num_envs must be an integer"),
    ({"verbose": -1}, ValueError, "verbose must be an integer of at least 0"),
    ({"stats_window_size": 0}, ValueError, "stats_window_size must be an integer"),
    ({"tensorboard_log": 3}, ValueError, "tensorboard_log must be a folder, got 3"),
    ({"policy_kwargs": 3}, ValueError, "policy_kwargs must be None or a dictionary"),
    ({"policy_kwargs": {"temprature": 1}}, TypeError, "'temprature'.*Did you mean 'temperature'"),
    ({"policy_kwargs": {"net_arch": []}}, TypeError, "policy_kwargs has 'net_arch', which"),
    ({"env": 3}, ValueError, "env must be an id such as 'text_envs/Toy-v0'.* got 3"),
    ({"max_grad_norm": 0}, ValueError, "max_grad_norm must be above 0"),
    ({"max_grad_norm": "1"}, ValueError, "max_grad_norm must be above 0, got '1'"),
    ({"sed": 3}, TypeError, "unexpected keyword argument 'sed'.*'seed'"),
]
ONLINE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"env": None}, ValueError, "PPO needs env; accepted: an id such as"),
    ({"n_episodes": 4, "batch_size": 5}, ValueError, r"batch_size must be 1\.\.n_episodes=4"),
    ({"batch_size": 0}, ValueError, r"batch_size must be 1\.\.n_episodes=64 sequences, got 0"),
    ({"batch_size": -1}, ValueError, "batch_size must be .* got -1"),
    ({"batch_size": True}, ValueError, "batch_size must be .* got True"),
    ({"batch_size": 2.5}, ValueError, "batch_size must be .* got 2.5"),
    ({"batch_size": None}, ValueError, "batch_size must be .* got None"),
    ({"n_episodes": 2.5}, ValueError, "n_episodes must be an integer of at least 1, got 2.5"),
    ({"n_episodes": True}, ValueError, "n_episodes must be an integer of at least 1, got True"),
    ({"n_episodes": 0}, ValueError, "n_episodes must be an integer of at least 1, got 0"),
    ({"n_episodes": "8"}, ValueError, "n_episodes must be an integer of at least 1, got '8'"),
    ({"n_epochs": 0}, ValueError, "n_epochs must be an integer of at least 1"),
    ({"gamma": 2}, ValueError, r"gamma must be in \[0, 1\], got 2"),
    ({"gamma": NAN}, ValueError, r"gamma must be in \[0, 1\], got nan"),
    ({"clip_range": -0.1}, ValueError, "clip_range must be above 0 or a schedule"),
    ({"kl_coef": "x"}, ValueError, "kl_coef must be at least 0 and finite, got 'x'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), [*SHARED, *ONLINE])
def test_of_an_algorithm_that_plays(
    changes: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was made before the argument was refused")

    monkeypatch.setattr("agents.common.envs.make_lm", made)
    monkeypatch.setattr("text_envs.make_sb3", made)
    given: dict[str, Any] = {"policy": "CausalLMPolicy", "env": TOY, "policy_kwargs": SCRATCH}
    with pytest.raises(error, match=message) as caught:
        agents.PPO(**(given | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "error", "message"), SHARED)
@pytest.mark.parametrize("name", ["BC", "ILQL", "DecisionTransformer", "HIR"])
def test_of_the_others(
    name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    policy = "ValueGuidedPolicy" if name == "ILQL" else "CausalLMPolicy"
    given: dict[str, Any] = {"policy": policy, "env": TOY, "policy_kwargs": SCRATCH}
    if name == "DecisionTransformer":
        given["policy_kwargs"] = SCRATCH | {"returns": [0.0, 1.0]}
    message = message if "policy" not in changes else "[Pp]olicy .*(unknown|must be)"
    with pytest.raises(error, match=message):
        getattr(agents, name)(**(given | changes))


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "8", None])
def test_batches_of_recorded_episodes(value: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got"):
        agents.BC("CausalLMPolicy", TOY, batch_size=value)


def test_an_absent_device_names_those_that_are_here(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    agent = small()
    agent.save(tmp_path / "a")
    for call in (
        lambda: agents.PPO("CausalLMPolicy", TOY, device="cuda"),
        lambda: agents.PPO("CausalLMPolicy", TOY, device=torch.device("cuda:0")),
        lambda: agents.PPO.load(tmp_path / "a", device="cuda"),
        lambda: agents.CausalLMPolicy.load(tmp_path / "a", device="cuda"),
    ):
        with pytest.raises(ValueError, match="device must be 'auto' or one that is here: 'cpu'"):
            call()


def test_environments_of_another_kind() -> None:
    for env in (gym.make("CartPole-v1"), object()):
        with pytest.raises(ValueError, match="accepted: environments of text_envs|env must be an"):
            agents.PPO("CausalLMPolicy", env)
    with pytest.raises(gym.error.NameNotFound, match="Toy"):
        agents.PPO("CausalLMPolicy", "text_envs/Toyy-v0")


def small(**kwargs: Any) -> Any:
    given: dict[str, Any] = {"n_episodes": 8, "policy_kwargs": SCRATCH, "device": "cpu"}
    return agents.PPO("CausalLMPolicy", TOY, **(given | kwargs))


@pytest.mark.parametrize("value", [-1, 2.5, "100", None, True, float("nan"), float("inf")])
def test_how_long_to_learn(value: Any) -> None:
    agent = small()
    with pytest.raises(ValueError, match="total_timesteps must be a finite number of steps"):
        agent.learn(value)
    assert agent._last_obs is None, "nothing was done"


def test_whole_floats_are_lengths() -> None:
    assert small().learn(3e1).num_timesteps >= 30


@pytest.mark.parametrize("value", ["x", 3, ["x"], [3], [None], {"a": 1}])
def test_what_a_callback_is(value: Any) -> None:
    data = datasets.collect(TOY, "random", 8, seed=0)
    recorded = agents.BC("CausalLMPolicy", dataset=data, policy_kwargs=SCRATCH)
    for agent in (small(), recorded):
        with pytest.raises(ValueError, match="callback must be None, a BaseCallback, a list"):
            agent.learn(8, callback=value)


@pytest.mark.parametrize("name", ["BC", "ILQL", "CQL", "MCValues", "DecisionTransformer"])
def test_recorded_episodes_are_missing(name: str) -> None:
    cls: Any = getattr(agents, name)
    policy = "CausalLMPolicy" if name in ("BC", "DecisionTransformer") else "ValueGuidedPolicy"
    kwargs: dict[str, Any] = SCRATCH | (
        {"returns": [0.0, 1.0]} if name == "DecisionTransformer" else {}
    )
    with pytest.raises(ValueError, match=f"{name} needs env, or a dataset that says which"):
        cls(policy, policy_kwargs=kwargs)
    with pytest.raises(ValueError, match=f"{name} was made without a data set; pass dataset="):
        cls(policy, TOY, policy_kwargs=kwargs).learn(n_epochs=1)
    with pytest.raises((TypeError, ValueError), match="a data set is a file, the id"):
        cls(policy, TOY, dataset=3, policy_kwargs=kwargs)


@pytest.mark.parametrize("value", [-1, "1", None, float("inf"), True])
def test_epochs_of_recorded_episodes(value: Any) -> None:
    data = datasets.collect(TOY, "random", 8, seed=0)
    agent = agents.BC("CausalLMPolicy", dataset=data, policy_kwargs=SCRATCH)
    with pytest.raises(ValueError, match="n_epochs must be a finite number|give either total"):
        agent.learn(n_epochs=value)


def test_tensorboard_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sb3_logger, "SummaryWriter", None)
    with pytest.raises(ImportError, match=r"pip install 'text_envs\[tensorboard\]'"):
        small(tensorboard_log=str(tmp_path))
    agent = small()
    agent.tensorboard_log = str(tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'text_envs\[tensorboard\]'"):
        agent.learn(8)
    text = (Path(text_envs.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert "\ntensorboard = [" in text
    readme = (Path(text_envs.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert "text_envs[tensorboard]" in readme


@pytest.mark.parametrize("name", ["PPO", "HIR"])
def test_an_untrained_model_is_announced_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    cls: Any = getattr(agents, name)
    with caplog.at_level(logging.WARNING):
        cls("CausalLMPolicy", TOY, n_episodes=8, **({"group_size": 2} if name == "HIR" else {}))
    said = [r.getMessage() for r in caplog.records if "untrained" in r.getMessage()]
    assert len(said) == 1
    assert "GPT2LMHeadModel, 2 layers of width 64" in said[0] and "parameters" in said[0]
    assert "'model': " in said[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cls("CausalLMPolicy", TOY, n_episodes=8, policy_kwargs={"model": "scratch"},
            **({"group_size": 2} if name == "HIR" else {}))  # fmt: skip
        agents.PPO("CausalLMPolicy", "text_envs/Reviews-v0", n_episodes=8)
    assert not [r for r in caplog.records if "untrained" in r.getMessage()]


def test_an_unknown_reference() -> None:
    with pytest.raises(ValueError, match="no language model 'reviewz'. Did you mean 'reviews'"):
        small(reference="reviewz", kl_coef=0.1)
    with pytest.raises(TypeError, match="model must be 'reviews', a folder"):
        small(reference=3)


def test_where_to_save_and_what_to_load(tmp_path: Path) -> None:
    agent = small()
    for save in (agent.save, agent.policy.save):
        with pytest.raises(TypeError, match=r"path must be a folder or a \.zip file, got int"):
            save(3)
    with pytest.raises(TypeError, match="path must be a folder"):
        agents.SaveEvery(3)  # type: ignore[arg-type]
    for iterations in (0, True, 1.5):
        with pytest.raises(ValueError, match="iterations must be an integer of at least 1"):
            agents.SaveEvery(tmp_path / "x", iterations)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path must be a folder or a"):
        agents.PPO.load(3)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nowhere"):
        agents.PPO.load(tmp_path / "nowhere")
    agent.save(tmp_path / "a")
    with pytest.raises(CheckpointError, match="was saved by PPO, not by RLOO"):
        agents.RLOO.load(tmp_path / "a")
    with pytest.raises(TypeError, match="'learning_rat'.*Did you mean 'learning_rate'"):
        agents.PPO.load(tmp_path / "a", learning_rat=1)
    with pytest.raises(ValueError, match="learning_rate must be a number"):
        agents.PPO.load(tmp_path / "a", learning_rate="x")
    with pytest.raises(ValueError, match="num_envs=3 is for environments given by id"):
        agents.PPO("CausalLMPolicy", text_envs.make_sb3(TOY, num_envs=8), num_envs=3)
