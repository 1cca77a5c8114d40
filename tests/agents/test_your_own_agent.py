"""The page on writing an agent: its code runs, saves, loads, and resumes exactly."""

from __future__ import annotations

import inspect
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.training import EpisodicAlgorithm, OfflineAlgorithm
from text_envs import datasets, exact

PAGE = Path(__file__).parents[2] / "docs" / "your_own_agent.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
TOY = "text_envs/Toy-v0"


@pytest.fixture
def reinforce(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the page, in a module as another package would have it."""
    module = types.ModuleType("another_package")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(BLOCKS[0], str(PAGE), "exec"), vars(module))
    return module.__dict__["Reinforce"]


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


def test_the_page_runs(reinforce: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    scope = {"Reinforce": reinforce}
    exec(compile(BLOCKS[1], str(PAGE), "exec"), scope)
    agent: Any = scope["again"]
    assert exact.evaluate(TOY, agent).mean_return > 1.2  # of at most 1.5
    assert agent.decay == 0.9 and agent.average > 0.5


def test_it_is_short() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 48


def test_resuming_is_exact(reinforce: Any, tmp_path: Path) -> None:
    whole = reinforce("CausalLMPolicy", TOY, 3e-3, 32, decay=0.5, seed=1)
    whole.learn(200)
    whole.save(tmp_path / "agent")
    average = whole.average
    whole.learn(200, reset_num_timesteps=False)
    again = reinforce.load(tmp_path / "agent", env=TOY)
    assert again.decay == 0.5 and again.n_episodes == 32 and again.average == average
    again.learn(200, reset_num_timesteps=False)
    torch.testing.assert_close(weights(whole), weights(again), rtol=0, atol=0)


def test_it_shows_all_its_arguments(reinforce: Any) -> None:
    parameters = inspect.signature(reinforce).parameters
    assert list(parameters)[:5] == ["policy", "env", "learning_rate", "n_episodes", "decay"]
    assert parameters["kl_coef"].default == 0.0
    doc = inspect.getdoc(reinforce)
    assert doc is not None
    for name in parameters:
        assert name.startswith("_") or f"\n    {name}: " in doc, name
    with pytest.raises(TypeError, match="keyword argument 'decya'.*Did you mean 'decay'"):
        reinforce("CausalLMPolicy", TOY, decya=0.5)


def test_train_is_all_that_is_needed(tmp_path: Path) -> None:
    class Idle(EpisodicAlgorithm):
        def train(self) -> None:
            self._n_updates += 1

    agent = Idle("CausalLMPolicy", TOY, n_episodes=8, kl_coef=0.1)
    agent.learn(30)
    agent.save(tmp_path / "agent.zip")
    again = Idle.load(tmp_path / "agent.zip", env=TOY)
    again.learn(30, reset_num_timesteps=False)
    assert again.num_timesteps >= 60 and again.kl_coef == 0.1
    torch.testing.assert_close(weights(agent), weights(again))


def test_an_argument_that_is_no_attribute_is_saved_as_given(tmp_path: Path) -> None:
    class Forgetful(EpisodicAlgorithm):
        def __init__(self, policy: Any, env: Any, steps: int = 1, **kwargs: Any) -> None:
            self.doubled = 2 * steps
            super().__init__(policy, env, **kwargs)

        def train(self) -> None:
            self._n_updates += 1

    Forgetful("CausalLMPolicy", TOY, 3, n_episodes=8).save(tmp_path / "agent")
    assert Forgetful.load(tmp_path / "agent").doubled == 6


def test_offline_algorithms_need_train_step_alone(tmp_path: Path) -> None:
    class Cloning(OfflineAlgorithm):
        def train_step(self, batch: Any) -> dict[str, torch.Tensor]:
            actor = self.policy.actor
            hidden = actor.encode(batch.tokens, batch.columns, batch.mask)
            loss = -actor.log_probs(hidden, batch.actions[batch.mask])[0].mean()
            return {"grad_norm": self.optimize(loss), "loss": loss}

    data = datasets.collect(TOY, "expert", 32, seed=0)
    arguments: dict[str, Any] = {"dataset": data, "policy_kwargs": {"model": "scratch"}, "seed": 0}
    agent = Cloning("CausalLMPolicy", batch_size=8, **arguments)
    agent.learn(n_epochs=2)
    agent.save(tmp_path / "agent")
    again = Cloning.load(tmp_path / "agent", dataset=data)
    for one in (agent, again):
        one.learn(n_epochs=1, reset_num_timesteps=False)
    torch.testing.assert_close(weights(agent), weights(again), rtol=0, atol=0)
