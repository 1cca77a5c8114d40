"""PPO: the same numbers as Stable-Baselines3, thresholds, exactness, bookkeeping, messages."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from models import iid_lm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger

import text_envs
from agents import PPO, CausalLMPolicy, policy_kwargs_for, ppo
from agents.rollouts.episodes import collect_episodes


class Stop(BaseCallback):
    """Stop before iteration number `after` ends."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.count = after, 0

    def _on_rollout_start(self) -> None:
        self.count += 1

    def _on_step(self) -> bool:
        return self.count <= self.after


# -- against Stable-Baselines3 -----------------------------------------------------------------


def transitions(rollout: Any, agent: Any, pad: int) -> list[tuple[Any, ...]]:
    """Return the roll-out as single steps, episode after episode."""
    steps = []
    for row, t in rollout.mask.nonzero().tolist():
        seen = rollout.tokens[row].clone()
        seen[rollout.columns[row, t] + 1 :] = pad
        steps.append(
            (
                seen.numpy()[None],
                rollout.actions[row, t].numpy()[None],
                rollout.rewards[row, t].numpy()[None],
                np.array([t == 0]),
                rollout.values[row, t][None],
                rollout.log_probs[row, t][None],
            )
        )
    return steps


@pytest.mark.parametrize("task_name", ["share", "echo"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("clip_range_vf", [None, 0.1])
@pytest.mark.parametrize("ent_coef", [0.0, 0.05])
def test_same_loss_and_gradient_as_stable_baselines3(
    gpt2: Any,
    request: pytest.FixtureRequest,
    task_name: str,
    normalize: bool,
    clip_range_vf: float | None,
    ent_coef: float,
) -> None:
    env = text_envs.make_sb3(request.getfixturevalue(task_name), num_envs=4, seed=0)
    tokenizer = env.get_attr("tokenizer")[0]
    common: dict[str, Any] = {
        "gamma": 0.95, "gae_lambda": 0.9, "n_epochs": 1, "learning_rate": 0.0, "clip_range": 0.2,
        "clip_range_vf": clip_range_vf, "ent_coef": ent_coef, "max_grad_norm": 1e9,
        "normalize_advantage": normalize, "device": "cpu", "seed": 0,
    }  # fmt: skip
    kwargs = policy_kwargs_for(env, gpt2(tokenizer.vocab_size))
    ours = PPO("CausalLMPolicy", env, n_episodes=8, batch_size=8, policy_kwargs=kwargs, **common)
    torch.nn.init.normal_(ours.policy.value_net[-1].weight)
    rollout = collect_episodes(ours.policy, env, 8, env.reset()).rollout
    # As if the policy had moved since: ratios and values leave the clipping ranges.
    rollout.log_probs += 0.4 * torch.randn_like(rollout.log_probs) * rollout.mask
    rollout.values += 0.3 * torch.randn_like(rollout.values) * rollout.mask
    ours.rollout = rollout

    steps = transitions(rollout, ours, tokenizer.pad_id)
    single = text_envs.make_sb3(request.getfixturevalue(task_name), num_envs=1)
    stock = stable_baselines3.PPO(
        CausalLMPolicy, single, n_steps=len(steps), batch_size=len(steps),
        policy_kwargs=policy_kwargs_for(single, gpt2(tokenizer.vocab_size)), **common,
    )  # fmt: skip
    stock.policy.load_state_dict(ours.policy.state_dict())
    for step in steps:
        stock.rollout_buffer.add(*step)
    stock.rollout_buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))

    for agent in (ours, stock):
        agent.set_logger(Logger(None, []))
        agent.train()
    found, wanted = ours.logger.name_to_value, stock.logger.name_to_value
    names = ["policy_gradient_loss", "value_loss", "loss", "approx_kl", "clip_fraction"]
    names += ["explained_variance"] + (["entropy_loss"] if ent_coef else [])
    for name in names:
        assert found[f"train/{name}"] == pytest.approx(wanted[f"train/{name}"], rel=1e-4), name
    assert found["train/clip_fraction"] > 0.1
    theirs = dict(stock.policy.named_parameters())
    for name, parameter in ours.policy.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)


# -- learning ----------------------------------------------------------------------------------


def test_learns_the_trivial(make_agent: Any) -> None:
    """Write nothing but `w3`: from 1/13 to 0.9."""
    agent = make_agent(n_episodes=32, batch_size=16, learning_rate=3e-3, target_kl=0.05)
    agent.learn(12_000)
    assert agent.rollout.episode_rewards.mean() > 0.9
    mean, _ = evaluate_policy(agent, agent.get_env(), n_eval_episodes=16)
    assert mean > 0.9


A, B, END = 0, 1, 2
TEXTS = [t for n in (1, 2, 3) for t in itertools.product((A, B, END), repeat=n)]
TEXTS = [t for t in TEXTS if END not in t[:-1] and (t[-1] == END or len(t) == 3)]


def log_prob_of_texts(policy: CausalLMPolicy) -> torch.Tensor:
    """Return the log-probability of each of the 15 texts of the toy task."""
    tokens = torch.full((len(TEXTS), 4), 3)
    mask = torch.zeros(len(TEXTS), 3, dtype=torch.bool)
    tokens[:, 0] = 4
    for row, text in enumerate(TEXTS):
        tokens[row, 1 : 1 + len(text)] = torch.tensor(text)
        mask[row, : len(text)] = True
    columns = torch.arange(3).expand(len(TEXTS), 3)
    with torch.no_grad():
        log_probs, _, _ = policy.evaluate_episodes(tokens, columns, tokens[:, 1:], mask)
    return log_probs.sum(dim=1).double()


def test_approaches_the_exact_posterior() -> None:
    """KL-regularised PPO against p* ~ pi0 exp(r / beta), on 15 texts, beta = 1/2."""
    beta, p = 0.5, (0.5, 0.3, 0.2)
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=64, seed=0)
    agent = PPO(
        "CausalLMPolicy", env, n_episodes=256, batch_size=256, n_epochs=4, learning_rate=3e-3,
        gae_lambda=1.0, kl_coef=beta, normalize_advantage=False, seed=0, device="cpu",
        policy_kwargs={"model": iid_lm(p)},
    )  # fmt: skip
    log_pi0 = log_prob_of_texts(agent.policy)
    exact = torch.tensor([sum(np.log(p[a]) for a in text) for text in TEXTS])
    torch.testing.assert_close(log_pi0, exact, rtol=0, atol=1e-5)
    reward = torch.tensor(
        [any(t[i : i + 2] == (A, B) for i in range(2)) + 0.5 * (t[-1] == END) for t in TEXTS]
    )
    log_p = log_pi0 + reward / beta
    assert log_p.logsumexp(0).exp() == pytest.approx(3.892913, abs=1e-4)
    log_p -= log_p.logsumexp(0).clone()

    def distance() -> float:
        log_pi = log_prob_of_texts(agent.policy)
        return float((log_pi.exp() * (log_pi - log_p)).sum())

    assert distance() == pytest.approx(0.331, abs=1e-3)
    agent.learn(60_000)
    assert distance() < 0.01
    # The metrics tell the same: KL to the reference and reward of p*.
    assert agent.logger.name_to_value["train/n_updates"] > 0
    kl = float(torch.stack([agent.rollout.log_probs - agent.rollout.ref_log_probs]).sum() / 256)  # type: ignore[union-attr]
    assert kl == pytest.approx(0.336, abs=0.1)


# -- reproducibility and bookkeeping -----------------------------------------------------------


def weights(agent: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()


def test_same_seed_same_run(make_agent: Any) -> None:
    one, other, third = (make_agent(seed=seed).learn(300) for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(third))
    assert torch.equal(one.rollout.tokens, other.rollout.tokens)


@pytest.mark.parametrize("with_reference", [False, True])
def test_card_lists_the_metrics_that_are_logged(make_agent: Any, with_reference: bool) -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    extra = {"kl_coef": 0.1, "kl_target": 1.0} if with_reference else {}
    agent = make_agent(ent_coef=0.01, clip_range_vf=0.2, **extra)
    agent.set_logger(Spy(None, []))
    agent.learn(300)
    section = inspect.getdoc(ppo).split("**Metrics**")[1].split("**Command**")[0]  # type: ignore[union-attr]
    listed = set(re.findall(r"`((?:rollout|train|time)/[\w<>]+)`", section))
    listed = {name.replace("<term>", "task") for name in listed}
    if not with_reference:
        listed -= {"rollout/kl_ref", "rollout/kl_ref_k3", "rollout/kl_coef"}
    assert logged == listed


def test_timesteps_are_tokens(make_agent: Any) -> None:
    agent = make_agent()
    tokens = []

    class Count(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            tokens.append(int(self.locals["rollout"].mask.sum()))

    agent.learn(400, callback=Count())
    assert agent.num_timesteps == sum(tokens) >= 400
    before = agent.num_timesteps
    agent.learn(100, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 100
    rewards = [episode["r"] for episode in agent.ep_info_buffer][-16:]
    assert rewards == pytest.approx(agent.rollout.episode_rewards.tolist())


def test_callbacks_can_stop_and_look(make_agent: Any, tmp_path: Any, share: Any) -> None:
    agent = make_agent()
    agent.learn(10_000, callback=Stop(after=2))
    assert agent.num_timesteps < 10_000 and agent._n_updates == 2 * agent.n_epochs
    evaluation = EvalCallback(
        text_envs.make_sb3(share, num_envs=4), eval_freq=5, n_eval_episodes=4, verbose=0,
        log_path=str(tmp_path), best_model_save_path=str(tmp_path),
    )  # fmt: skip
    saving = CheckpointCallback(save_freq=5, save_path=str(tmp_path), name_prefix="ppo")
    agent.learn(200, callback=[evaluation, saving])
    assert list(tmp_path.glob("ppo_*_steps.zip")) and (tmp_path / "best_model").exists()
    PPO.load(tmp_path / "best_model")


def test_progress_bar_counts_tokens(make_agent: Any, capsys: Any) -> None:
    agent = make_agent(kl_coef=0.1)
    agent.learn(200, progress_bar=True)
    shown = capsys.readouterr().err
    assert "tok" in shown and "reward=" in shown and "kl=" in shown


def test_environment_is_reset_only_in_mid_episode(make_agent: Any, echo: Any) -> None:
    for task, wanted in ((None, 1), (echo, 4)):
        env = text_envs.make_sb3(task, num_envs=8) if task else None
        agent = make_agent(env, n_episodes=8, policy_kwargs={"forbidden": [12] if not task else []})
        count = []
        reset = agent.env.reset
        agent.env.reset = lambda reset=reset, count=count: (count.append(1), reset())[1]
        agent.learn(10_000, callback=Stop(after=4))
        assert len(count) == (1 if wanted == 1 else 5)


def test_a_failure_leaves_the_agent_usable(make_agent: Any, share: Any) -> None:
    calls = []

    def flaky(episodes: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("busy")
        return np.ones(len(episodes))

    env = text_envs.make_sb3(text_envs.TokenVectorEnv(share, num_envs=8, reward=flaky))
    agent = make_agent(env)
    with pytest.raises(text_envs.RewardModelError):
        agent.learn(10_000)
    agent.learn(200, reset_num_timesteps=False)
    assert agent.rollout.episode_rewards.eq(1).all()


def test_makes_environments_from_ids_and_envs(gpt2: Any) -> None:
    kwargs: dict[str, Any] = {"policy_kwargs": {"model": gpt2(6)}, "device": "cpu", "n_epochs": 1}
    by_id = PPO("CausalLMPolicy", "text_envs/Toy-v0", n_episodes=96, **kwargs)
    assert by_id.n_envs == 48
    assert PPO("CausalLMPolicy", "text_envs/Toy-v0", num_envs=4, **kwargs).n_envs == 4
    single = PPO(CausalLMPolicy, gym.make("text_envs/Toy-v0"), n_episodes=4, batch_size=4, **kwargs)
    single.learn(10)
    native = gym.make_vec("text_envs/Toy-v0", num_envs=2)
    PPO(CausalLMPolicy, native, n_episodes=4, batch_size=4, **kwargs).learn(10)


def test_adaptive_kl_coefficient_moves(make_agent: Any) -> None:
    tight = make_agent(kl_coef=0.1, kl_target=1e-4, kl_horizon=100, learning_rate=1e-2)
    loose = make_agent(kl_coef=0.1, kl_target=1e4, kl_horizon=100)
    fixed = make_agent(kl_coef=0.1)
    for agent in (tight, loose, fixed):
        agent.learn(300)
    assert tight.kl_coef > 0.1 > loose.kl_coef and fixed.kl_coef == 0.1


def test_reference_is_frozen_and_may_be_another(make_agent: Any, gpt2: Any) -> None:
    agent = make_agent(kl_coef=0.1)
    before = [p.clone() for p in agent.reference.parameters()]
    agent.learn(300)
    assert all(map(torch.equal, before, agent.reference.parameters()))
    assert agent.rollout.ref_log_probs is not None
    other = make_agent(reference=gpt2(16, seed=5), policy_kwargs={"temperature": 0.5})
    assert other.kl_coef == 0 and other.reference.temperature == 0.5
    other.learn(100)
    assert "rollout/kl_ref" in other.logger.name_to_value or other.rollout.ref_log_probs is not None


def test_learning_rate_schedule(make_agent: Any) -> None:
    from stable_baselines3.common.utils import LinearSchedule

    agent = make_agent(learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    agent.learn(400)
    assert agent.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


# -- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 99}, "batch_size must be 1..n_episodes=16 sequences, got 99"),
        ({"batch_size": 0}, "batch_size must be .* got 0"),
        (
            {"n_episodes": 20},
            r"n_episodes=20 over 8 environments is 2.50 .* nearest n_episodes: 16",
        ),
        ({"n_episodes": 0, "batch_size": 0}, "n_episodes must be an integer of at least 1, got 0"),
        ({"kl_coef": -0.1}, "kl_coef must be at least 0.*, got -0.1"),
        ({"kl_target": 3.0}, "0 stays 0"),
        ({"kl_coef": 0.1, "kl_target": 0.0}, "kl_target must be None or above 0, got 0.0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"gae_lambda": -1}, "gae_lambda"),
        ({"clip_range": 0.0}, "clip_range must be above 0 or a schedule, got 0.0"),
        ({"clip_range_vf": -1.0}, "clip_range_vf"),
        ({"ent_coef": -1.0}, "ent_coef"),
        ({"n_epochs": 0}, "n_epochs must be an integer of at least 1, got 0"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"num_envs": 3}, "num_envs=3 is for environments given by id; this one has 8"),
    ],
)
def test_bad_arguments_are_explained(make_agent: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**kwargs)


def test_unknown_policy_name(share: Any) -> None:
    with pytest.raises(ValueError, match="Policy MlpPolicy unknown"):
        PPO("MlpPolicy", text_envs.make_sb3(share, num_envs=4))
