"""DPG: targets, normalisers of each start, proposals, moments, warnings, saving."""

from __future__ import annotations

import inspect
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import Share, iid_lm, tiny_gpt2
from stable_baselines3.common.logger import Logger

import text_envs
from agents import DPG, dpg
from agents.training.normalisers import start_keys
from text_envs import EpisodeBatch, Task, exact
from text_envs.guides.roll_in import GuidedStarts

PRIOR = (0.5, 0.3, 0.2)  # of a, b, end


def toy(**kwargs: Any) -> DPG:
    """Return an agent on the instance whose golden numbers are known."""
    env = text_envs.make_sb3(
        "text_envs/Toy-v0", num_envs=64, seed=0, **kwargs.pop("env_kwargs", {})
    )
    arguments = {"n_episodes": 256, "seed": 0, "device": "cpu", "learning_rate": falling(1e-2)}
    return DPG("CausalLMPolicy", env, policy_kwargs={"model": iid_lm(PRIOR)}, **arguments | kwargs)


def falling(start: float) -> Any:
    """A learning rate that falls to 0: what remains is the noise of few samples."""
    return lambda progress: start * progress


def recorded(agent: Any, name: str) -> float:
    return float(agent.logger.name_to_value[name])


def test_first_estimates_are_those_of_the_prior() -> None:
    agent = toy(beta=0.5, n_episodes=16384)
    agent.learn(1)
    assert recorded(agent, "target/log_z") == pytest.approx(math.log(3.892913), abs=0.03)
    assert recorded(agent, "target/ess") == pytest.approx(0.525, abs=0.02)
    assert recorded(agent, "target/kl_p_q") == pytest.approx(0.336082, abs=0.02)
    assert recorded(agent, "target/coverage") == 1.0


def test_filter_keeps_the_prior_inside_of_it() -> None:
    """Texts with "ab" have reward 1 or more: p_b = pi0 given that, KL(p_b || pi0) = 1.309333."""
    agent = toy(accept=1.0, learning_rate=falling(2e-2))
    agent.learn(60_000)
    env = "text_envs/Toy-v0"
    found = exact.evaluate(env, agent.policy, reference=iid_lm(PRIOR))
    assert found.kl_reference == pytest.approx(1.309333, abs=0.08)
    assert recorded(agent, "target/log_z") == pytest.approx(math.log(0.27), abs=0.05)
    assert recorded(agent, "target/coverage") > 0.97


def contains_ab(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
    words = episodes.response
    return ((words[:, :-1] == 0) & (words[:, 1:] == 1)).any(axis=1).astype(float)


def test_moments_are_fitted_and_reached() -> None:
    """E phi = 1/2 for "contains ab": lambda = .994623, KL(p || pi0) = .118875."""
    agent = toy(moments={"task": 0.5}, fit_episodes=16384, env_kwargs={"reward": contains_ab})
    agent.learn(40_000)
    assert agent.multipliers == {"task": pytest.approx(0.994623, abs=0.06)}
    env = text_envs.TokenEnv("text_envs.tasks.toy:Toy", reward=contains_ab)
    found = exact.evaluate(env, agent.policy, reference=iid_lm(PRIOR))
    assert found.mean_return == pytest.approx(0.5, abs=0.03)
    assert found.kl_reference == pytest.approx(0.118875, abs=0.03)


def test_a_moment_that_never_occurs_is_refused_with_numbers() -> None:
    agent = toy(moments={"task": 0.5}, env_kwargs={"reward": "constant"})
    with pytest.raises(ValueError, match=r"'task' = 0.5 cannot be reached: in 1024 texts.*mean"):
        agent.learn(1)
    agent = toy(moments={"tusk": 0.5})
    with pytest.raises(ValueError, match="no reward term 'tusk'.*Did you mean 'task'"):
        agent.learn(1)


def test_a_filter_that_nothing_passes_is_reported_and_changes_nothing(caplog: Any) -> None:
    agent = toy(accept=7.0)
    before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    with caplog.at_level(logging.WARNING):
        agent.learn(600)
    assert "of 256 texts, 0 are in its support" in caplog.text
    after = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    assert torch.equal(before, after)
    assert recorded(agent, "target/coverage") == 0.0


def length_of_b(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
    return np.asarray((episodes.response == 1).sum(axis=1) ** 2, dtype=float)


def test_low_temperature_is_reported(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        toy(beta=0.01, n_episodes=64, seed=10, env_kwargs={"reward": length_of_b}).learn(1)
    assert "does not cover" in caplog.text and "of 64 texts, 64 are in its support" in caplog.text
    assert "1.0 count" in caplog.text


def test_each_start_has_its_own_normaliser() -> None:
    """On four prompts whose rewards differ by a constant, Z(c) differs and p* does not."""

    def by_prompt(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
        share = (episodes.response == 3).mean(axis=1)
        return np.asarray(share + episodes.example_indices)

    env = text_envs.make_sb3(Share(), num_envs=64, reward=by_prompt, seed=0)
    agent = DPG(
        "CausalLMPolicy", env, beta=0.5, group_size=16, n_episodes=64, seed=0, device="cpu",
        policy_kwargs={"model": tiny_gpt2(16)},
    )  # fmt: skip
    agent.learn(4_000)
    assert sorted(key.split(":")[0] for key in agent.normalisers.found) == ["0", "1", "2", "3"]
    means = [
        total - math.log(count) for _, (total, count) in sorted(agent.normalisers.found.items())
    ]
    np.testing.assert_allclose(np.diff(means), 2.0, atol=0.3)  # one more unit of reward / beta


def shared(reward: Any, **kwargs: Any) -> DPG:
    """Return an agent on four prompts whose texts are one of 13 equally likely actions."""
    env = text_envs.make_sb3(Share(max_tokens=1), num_envs=64, reward=reward, seed=0)
    model = tiny_gpt2(16)
    torch.nn.init.zeros_(model.transformer.wte.weight)
    arguments = {"group_size": 16, "n_episodes": 64, "seed": 0, "device": "cpu"}
    return DPG("CausalLMPolicy", env, policy_kwargs={"model": model}, **arguments | kwargs)


def test_a_start_that_is_paid_more_is_not_all_there_is(caplog: Any) -> None:
    """Weights count in units of their own start's Z: here each text of a start is as good."""
    agent = shared(lambda episodes: 100.0 * episodes.example_indices, beta=0.5)
    with caplog.at_level(logging.WARNING):
        agent.learn(1)
    assert recorded(agent, "target/ess") == pytest.approx(1.0)
    assert recorded(agent, "target/kl_p_pi") == pytest.approx(0.0, abs=1e-4)
    assert not caplog.text


def test_a_start_without_support_is_reported(caplog: Any) -> None:
    agent = shared(lambda episodes: (episodes.example_indices > 0).astype(float), accept=1.0)
    with caplog.at_level(logging.WARNING):
        agent.learn(200)
    assert re.search("support for [1-4] of 4 starts of this roll-out", caplog.text)
    assert caplog.text.count("teach nothing") == 1


def test_one_normaliser_for_several_starts_is_remarked(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        shared("length", beta=1.0, group_size=1)
        assert "one normaliser Z for all 4 starts" in caplog.text
        caplog.clear()
        shared("length", beta=1.0)
        toy(beta=1.0)
        assert not caplog.text


def test_moments_are_means_over_starts_each_with_its_own_normaliser() -> None:
    """Of base rates 1/13 and 10/13, lambda tilts each; the tilted rates have the wanted mean."""

    def often_or_rarely(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
        first = np.pad(episodes.response, ((0, 0), (0, 1)), constant_values=99)[:, 0]
        words = np.where(episodes.example_indices % 2, 1, 10)
        return np.asarray(first < words, dtype=float)

    agent = shared(often_or_rarely, moments={"task": 0.6}, fit_episodes=4096)
    agent.learn(1)
    assert agent.multipliers is not None
    tilted = [math.log(n / (13 - n)) + agent.multipliers["task"] for n in (1, 10)]
    assert np.mean([1 / (1 + math.exp(-one)) for one in tilted]) == pytest.approx(0.6, abs=0.02)


def test_the_reference_as_proposal_is_the_one_that_was_given(tmp_path: Path) -> None:
    """Its weights P / (Z q) are then e^(r/beta) / Z, whatever is trained."""
    other = tiny_gpt2(iid_lm(PRIOR).config.vocab_size, width=32)
    agent = toy(beta=1e6, proposal="reference", reference=other, learning_rate=1e-3)
    agent.learn(1)
    assert recorded(agent, "target/ess") == pytest.approx(1.0, abs=1e-4)
    assert recorded(agent, "target/kl_p_q") == pytest.approx(0.0, abs=1e-4)
    assert recorded(agent, "target/kl_p_pi") > 0.1
    agent.save(tmp_path / "model")
    again = DPG.load(tmp_path / "model", env=text_envs.make_sb3("text_envs/Toy-v0", num_envs=64))
    again.learn(1, reset_num_timesteps=False)
    assert recorded(again, "target/ess") == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="DPG has no environment to learn in: give load"):
        DPG.load(tmp_path / "model").learn(1)


def test_a_divergence_that_overflows_leaves_the_policy_alone() -> None:
    agent = toy(beta=1e-3, divergence="reverse_chi2")
    before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach().clone()
    with pytest.raises(ValueError, match="'reverse_chi2' overflows"):
        agent.learn(1)
    after = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    assert torch.equal(before, after)


@pytest.mark.parametrize("proposal", ["adaptive", "reference"])
def test_proposals(proposal: str) -> None:
    agent = toy(beta=0.5, proposal=proposal, proposal_interval=2)
    start = next(iter(agent.behaviour.parameters())).clone()
    agent.learn(30_000)
    moved = not torch.equal(start, next(iter(agent.behaviour.parameters())))
    assert agent.behaviour is not agent.policy
    assert moved == (proposal == "adaptive")
    assert recorded(agent, "target/kl_p_pi") < 0.1


@pytest.mark.parametrize("divergence", ["reverse_kl", "reverse_chi2"])
def test_infinite_divergences_are_refused(divergence: str) -> None:
    with pytest.raises(ValueError, match=f"excludes texts: it is infinite, got '{divergence}'"):
        toy(accept=1.0, divergence=divergence)
    with pytest.raises(ValueError, match=f"excludes texts: it is infinite, got '{divergence}'"):
        toy(accept=0.5, moments={"reward": 1.2}, divergence=divergence)


@pytest.mark.parametrize(
    "extra", [{"beta": 0.5, "proposal": "adaptive"}, {"moments": {"task": 0.8}}]
)
def test_saves_and_goes_on_exactly(extra: dict[str, Any], tmp_path: Path) -> None:
    def weights(agent: Any) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()

    straight = toy(learning_rate=1e-3, proposal_interval=2, **extra)
    straight.learn(2_500)
    straight.save(tmp_path / "model")
    straight.learn(2_500, reset_num_timesteps=False)
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=64)
    again = DPG.load(tmp_path / "model", env=env)
    assert again.multipliers == straight.multipliers
    again.learn(2_500, reset_num_timesteps=False)
    assert again.normalisers.found == straight.normalisers.found
    assert torch.equal(weights(straight), weights(again))
    assert torch.equal(*(next(iter(a.behaviour.parameters())) for a in (straight, again)))


def test_card_lists_the_metrics_that_are_logged() -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = toy(moments={"task": 0.8})
    agent.set_logger(Spy(None, []))
    agent.learn(100)
    card = inspect.getdoc(dpg)
    section = card.split("**Metrics**")[1].split("**References**")[0]  # type: ignore[union-attr]
    listed = set(re.findall(r"`((?:target|train)/[\w<>]+)`", section))
    listed = {name.replace("<term>", "task") for name in listed}
    assert {name for name in logged if name.startswith(("target", "train"))} == listed
    assert {"rollout/ep_rew_mean", "rollout/kl_ref", "time/fps"} <= logged


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "exactly one of beta, accept and moments.*got none"),
        ({"beta": 1.0, "accept": 1.0}, "got beta and accept"),
        ({"beta": 0.0}, "beta must be above 0 and finite, got 0.0"),
        ({"beta": -1.0}, "beta must be above 0 and finite, got -1.0"),
        ({"beta": 1.0, "divergence": "kl2"}, "divergence must be kl, reverse_kl, tv"),
        ({"beta": 1.0, "proposal": "prior"}, "proposal must be policy, adaptive, reference"),
        ({"beta": 1.0, "batch_size": 999}, "batch_size must be None or 1..n_episodes=256"),
        ({"beta": math.inf}, "beta must be above 0 and finite, got inf"),
        ({"accept": math.nan}, "accept must be a finite reward, got nan"),
        ({"beta": "0.5"}, "beta must be a number, got '0.5'"),
        ({"accept": "1"}, "accept must be a number, got '1'"),
        ({"moments": {"task": "0.5"}}, r"moments\['task'\] must be a number, got '0.5'"),
        ({"beta": 1.0, "proposal_interval": 1.5}, "proposal_interval must be an integer"),
        ({"moments": {}}, "moments must name a term of the ledger"),
        ({"moments": {"task": math.inf}}, "moment 'task' must be finite, got inf"),
        ({"moments": {"task": 0.5}, "multipliers": {"x": 1.0}}, "do not fit moments"),
        ({"beta": 1.0, "multipliers": {"x": 1.0}}, "go with moments, got beta"),
        ({"beta": 1.0, "n_episodes": 64.0}, "n_episodes must be an integer of at least 1, got 64"),
        ({"beta": 1.0, "batch_size": 2.5}, "batch_size must be None or 1..n_episodes=256"),
    ],
)
def test_bad_arguments_are_explained(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**kwargs)


# -- what belongs to which target ----------------------------------------------------------------


@pytest.mark.parametrize("bar", [0.1, 0.7, 0.9, 0.95, 1.4])
def test_a_text_that_earns_just_the_bar_passes(bar: float) -> None:
    """Rewards are float32 by then, in which .7 is a little less than .7."""

    def begins_with_a(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
        return bar * (episodes.response[:, 0] == 0)

    agent = toy(accept=bar, env_kwargs={"reward": begins_with_a})
    agent.learn(1)
    assert recorded(agent, "target/coverage") == pytest.approx(0.5, abs=0.1)


def test_moments_among_the_texts_that_pass() -> None:
    """E[number of b] = 3/2 among texts with "ab"; by hand, over the 22 texts."""

    def b(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
        return np.asarray((episodes.response == 1).sum(axis=1), dtype=float)

    def ab(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
        return contains_ab(episodes) - 1e-9  # so that the filter reads the sum of the two

    task = {"reward": {"b": [1e-6, b], "ab": [1.0, ab]}}
    agent = toy(
        accept=0.9,
        moments={"b": 1.5e-6},
        fit_episodes=16384,
        env_kwargs=task,
        learning_rate=falling(2e-2),
    )
    agent.learn(60_000)
    assert recorded(agent, "target/coverage") > 0.95
    assert recorded(agent, "target/moment_b") == pytest.approx(1.5e-6, abs=1e-7)
    with pytest.raises(ValueError, match="none of 1024 texts of the proposal has a reward of acc"):
        toy(accept=9.0, moments={"task": 1.0}).learn(1)


def test_what_was_fitted_to_another_target_is_forgotten(tmp_path: Path) -> None:
    agent = toy(moments={"task": 1.2}, learning_rate=1e-3)
    agent.learn(600)
    agent.save(tmp_path / "moments")
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=64)
    again = DPG.load(tmp_path / "moments", env=env, moments={"task": 0.6})
    assert again.multipliers is None
    again.learn(600, reset_num_timesteps=False)
    assert again.multipliers is not None and again.multipliers["task"] < agent.multipliers["task"]
    agent = toy(beta=0.05, learning_rate=1e-4)
    agent.learn(600)
    agent.save(tmp_path / "beta")
    again = DPG.load(tmp_path / "beta", env=env, beta=1.0)
    again.learn(600, reset_num_timesteps=False)
    assert recorded(again, "target/log_z") == pytest.approx(0.596, abs=0.1)
    with pytest.raises(AttributeError):  # the target was made of it
        agent.beta = 0.1


def test_normalisers_belong_to_prompts_not_to_their_numbers(tmp_path: Path) -> None:
    class Turned(Share):
        """The same prompts, in the other order."""

        def __init__(self) -> None:
            examples = [Share().example(i) for i in (3, 2, 1, 0)]
            Task.__init__(
                self, examples, tokenizer=Share().tokenizer, prompt_length=6, max_tokens=6
            )

    def agent_on(task: Any) -> DPG:
        env = text_envs.make_sb3(task, num_envs=64, seed=0)
        return DPG(
            "CausalLMPolicy", env, beta=0.5, group_size=16, n_episodes=64, seed=0, device="cpu",
            policy_kwargs={"model": tiny_gpt2(16)},
        )  # fmt: skip

    agent = agent_on(Share())
    agent.learn(2_000)
    agent.save(tmp_path / "agent")
    before = set(agent.normalisers.found)
    again = DPG.load(tmp_path / "agent", env=text_envs.make_sb3(Turned(), num_envs=64))
    again.learn(2_000, reset_num_timesteps=False)
    digests = [{key.split(":")[1] for key in keys} for keys in (before, again.normalisers.found)]
    assert digests[0] == digests[1] and not before & set(again.normalisers.found)


def test_moments_are_fitted_for_each_start_that_a_guide_wrote(tmp_path: Path) -> None:
    """The multipliers are of the target that is then aimed at: one Z for each start."""

    def guide(query: Any) -> list[list[int]]:
        return [([3] * 3 if rng.random() < 0.5 else [5] * 3) for rng in query.rngs]

    starts = GuidedStarts(guide, beta=0.9)
    env = text_envs.make_sb3(Share(), num_envs=64, seed=0, starts=starts)
    agent = DPG(
        "CausalLMPolicy", env, moments={"reward": 0.3}, group_size=8, n_episodes=256, seed=0,
        fit_episodes=2048, device="cpu", policy_kwargs={"model": tiny_gpt2(16)},
    )  # fmt: skip
    agent._setup_learn(1)
    agent.collect_rollouts(agent.env, agent._setup_learn(1)[1])  # type: ignore[arg-type]
    agent.train()
    keys = start_keys(agent.rollout, 1)  # type: ignore[arg-type]
    assert len(set(keys)) > 8  # more than there are prompts
    fitted = agent.target.log_potential(agent.rollout)  # type: ignore[arg-type]
    weights, reward = fitted.exp(), agent.rollout.episode_rewards.double()  # type: ignore[union-attr]
    groups = np.unique(keys, return_inverse=True)[1]
    means = [
        float((weights[groups == g] * reward[groups == g]).sum() / weights[groups == g].sum())
        for g in groups
    ]
    assert np.mean(means) == pytest.approx(0.3, abs=0.06)


def test_another_reference_or_reward_is_another_target(tmp_path: Path) -> None:
    agent = toy(moments={"task": 0.8}, learning_rate=1e-3)
    agent.learn(600)
    agent.save(tmp_path / "agent")
    iid_lm((0.2, 0.2, 0.6)).save_pretrained(tmp_path / "other")

    def fitted(**kwargs: Any) -> float:
        env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=64, **kwargs.pop("env", {}))
        again = DPG.load(tmp_path / "agent", env=env, **kwargs)
        again.learn(256, reset_num_timesteps=False)
        assert again.multipliers is not None
        return again.multipliers["task"]

    kept = agent.multipliers["task"]  # type: ignore[index]
    assert fitted() == kept
    assert fitted(reference=tmp_path / "other") != kept
    assert fitted(env={"reward": length_of_b}) != kept
    assert fitted(reference=tmp_path / "other", multipliers={"task": 9.0}) == 9.0  # as given


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    agent = toy(beta=np.float32(0.5), learning_rate=1e-3)
    agent.learn(600)
    agent.save(tmp_path / "agent")
    again = DPG.load(tmp_path / "agent", env=text_envs.make_sb3("text_envs/Toy-v0", num_envs=64))
    again.learn(1, reset_num_timesteps=False)
    assert again.normalisers.found["all"][1] == agent.normalisers.found["all"][1] + 1
