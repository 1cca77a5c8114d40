"""PPO++, AggreVaTeD, LOLS, D2LOLS: masks, gradients, penalties, exact targets, guides that fail."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import Echo
from hir_helpers import tiny_t5
from models import Share, iid_lm, tiny_gpt2
from offline_helpers import every_toy_text, offline_agent, shake
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

import text_envs
from agents import D2LOLS, LOLS, PPO, AggreVaTeD, CausalLMPolicy, PPOPlusPlus, ppo, rlgf
from agents.ilql import ILQL
from agents.losses import on_policy as F
from agents.policies.two_critics import TwoCriticPolicy, TwoCriticSeq2SeqPolicy
from agents.rollouts.rollout import Rollout
from agents.training.micro_batches import Part
from text_envs import EpisodeBatch, Example, Task, exact
from text_envs.episodes.errors import GuideError
from text_envs.guides import Query, as_guide
from text_envs.policies.functions import as_log_probs
from text_envs.tokenizers import WordTokenizer

A, B, EOS = 0, 1, 2  # Toy's tokens
TOY = "text_envs/Toy-v0"
PRIOR, GUIDE = (0.5, 0.3, 0.2), (0.3, 0.4, 0.3)  # of a, b and the end: the golden instance
CLASSES = [PPOPlusPlus, AggreVaTeD, LOLS, D2LOLS]


def w5(query: Query) -> list[list[int]]:
    """Write `w5` up to three times, from the row's generator, and the end."""
    return [
        ([5] * int(rng.integers(1, 4)))[: int(room) - 1] + [12]
        for room, rng in zip(query.room, query.rngs, strict=True)
    ]


def make(cls: Any, env: Any = None, **kwargs: Any) -> Any:
    env = text_envs.make_sb3(Share(), num_envs=16) if env is None else env
    model = kwargs.pop("model", None) or tiny_gpt2(env.get_attr("tokenizer")[0].vocab_size)
    arguments = {"n_episodes": 16, "seed": 0, "device": "cpu", "guide": w5} | kwargs
    if cls is PPO:
        del arguments["guide"]
    return cls(
        arguments.pop("policy", "CausalLMPolicy"), env, policy_kwargs={"model": model}, **arguments
    )


def collect(agent: Any) -> Any:
    """Play one iteration without learning from it."""
    agent.collect_rollouts(agent.env, agent._setup_learn(1)[1])
    return agent.rollout


def weights(agent: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()


# -- whose tokens are learnt -----------------------------------------------------------------------


class Watched(TwoCriticPolicy):
    """Keeps what it computed for the loss, with gradients."""

    def evaluate_episodes(self, *args: Any, **kwargs: Any) -> Any:
        log_probs, values, entropy = super().evaluate_episodes(*args, **kwargs)
        if torch.is_grad_enabled():
            log_probs.retain_grad()
            values.retain_grad()
            if entropy is not None:
                entropy.retain_grad()
        self.seen = log_probs, values, entropy
        return self.seen


@pytest.mark.parametrize(
    ("cls", "kwargs", "rolls_in"),
    [
        (PPOPlusPlus, {}, True),
        (AggreVaTeD, {}, False),
        (AggreVaTeD, {"strict": True}, False),
        (LOLS, {"tau": 1.0}, True),
        (LOLS, {"tau": 0.0}, False),
        (D2LOLS, {"tau": 0}, True),
        (D2LOLS, {"tau": 1}, False),
    ],
)
@pytest.mark.parametrize("task", [Share, Echo])
def test_gradients_reach_the_tokens_of_the_table_alone(
    cls: Any,
    kwargs: dict[str, Any],
    rolls_in: bool,
    task: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy loss never lands on a guide's token, whoever began; the value loss as it says."""
    env = text_envs.make_sb3(task(), num_envs=16)
    guide = w5 if task is Share else tiny_gpt2(env.get_attr("tokenizer")[0].vocab_size, seed=5)
    agent = make(cls, env, policy=Watched, guide=guide, ent_coef=0.1, vf_coef=1.0, **kwargs)
    torch.nn.init.normal_(agent.policy.value_net[-1].weight)
    torch.nn.init.normal_(agent.policy.guide_value_net[-1].weight)
    rollout = collect(agent)
    agent.n_epochs, agent.batch_size = 1, 16
    agent.learning_rate = agent.lr_schedule = lambda _: 0.0
    orders: list[Any] = []
    drawn = Rollout.minibatches
    monkeypatch.setattr(
        Rollout, "minibatches", lambda *a: (orders.append(x) or x for x in drawn(*a))
    )
    agent.train()
    log_probs, values, entropy = (x.grad for x in agent.policy.seen)
    order = orders[0]
    infos = [rollout.infos[i] for i in order.tolist()]
    steps = torch.arange(rollout.mask.shape[1])
    h = torch.tensor([info["seam"] for info in infos])[:, None]
    mask = rollout.mask[order]
    by_agent = mask & (steps < h) if not rolls_in else mask
    learnt = by_agent & (steps == h - 1) if kwargs.get("strict") else by_agent
    judged = mask & ~by_agent if not rolls_in else mask
    roles = [info["roles"] for info in infos]
    agents_tokens = sum(int((row == text_envs.Role.ACTION).sum()) for row in roles)
    guides_tokens = sum(int((row == text_envs.Role.PREFIX).sum()) for row in roles)
    assert int(by_agent.sum()) == agents_tokens and guides_tokens > 0
    assert (log_probs[~learnt] == 0).all() and (log_probs[learnt] != 0).float().mean() > 0.9
    assert (values[~judged] == 0).all() and (values[judged] != 0).float().mean() > 0.9
    assert (entropy[~learnt] == 0).all() and (entropy[learnt] != 0).all()


@pytest.mark.parametrize("rolls_in", [True, False])
def test_lols_has_a_critic_for_each_roll_out(rolls_in: bool) -> None:
    agent = make(LOLS, tau=float(rolls_in))
    heads = agent.policy.value_net, agent.policy.guide_value_net
    before = [torch.nn.utils.parameters_to_vector(head.parameters()).clone() for head in heads]
    agent.learn(1)
    after = [torch.nn.utils.parameters_to_vector(head.parameters()) for head in heads]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [rolls_in, not rolls_in]
    assert agent.policy.critic == ("agent" if rolls_in else "guide")
    # Values of the roll-out are those of the same head.
    agent.learning_rate = agent.lr_schedule = lambda _: 0.0
    rollout = collect(agent)
    _, values, _ = agent.policy.evaluate_episodes(
        rollout.tokens, rollout.columns, rollout.actions, rollout.mask
    )
    torch.testing.assert_close(rollout.values, values)


def test_without_guided_starts_it_is_ppo() -> None:
    """beta = 0: the same texts, the same weights, and nobody is asked."""

    def never(query: Query) -> list[str]:
        raise AssertionError("asked")

    env, kwargs = text_envs.make_sb3(TOY, num_envs=16), {"kl_coef": 0.1, "model": iid_lm(PRIOR)}
    plain = make(PPO, env, **kwargs).learn(600)
    kwargs["model"] = iid_lm(PRIOR)
    guided = make(PPOPlusPlus, env, guide=never, beta=0.0, **kwargs).learn(600)
    assert torch.equal(weights(plain), weights(guided))
    assert guided.queries.calls == 0


def test_the_end_is_learnt_and_an_empty_text_keeps_its_reward() -> None:
    """Where padding is known by the end's id, neither is so."""
    env = text_envs.make_sb3(TOY, num_envs=64)
    agent = make(
        AggreVaTeD, env, n_episodes=64, model=iid_lm((0.05, 0.05, 0.9)), guide=iid_lm(GUIDE)
    )
    rollout = collect(agent)
    at_once = (rollout.actions[:, 0] == EOS) & rollout.policy_mask[:, 0]
    assert at_once.sum() > 10
    assert (rollout.episode_rewards[at_once] == 0.5).all()
    assert (rollout.mask[at_once].sum(dim=1) == 1).all()


class Twice(Task):
    """Two examples with one prompt: each wants a text of its own."""

    def __init__(self) -> None:
        examples = [Example("say", ("hello",)), Example("say", ("yes",))]
        super().__init__(
            examples,
            tokenizer=WordTokenizer(["say", "hello", "yes"]),
            prompt_length=2,
            max_tokens=3,
        )

    @staticmethod
    def reward(episodes: EpisodeBatch) -> Any:
        wanted = [example.references[0] for example in episodes.examples]
        pairs = zip(episodes.texts, wanted, strict=True)
        return np.array([float(text.split()[-1:] == [word]) for text, word in pairs])


def test_equal_prompts_keep_their_own_references() -> None:
    def knows(query: Query) -> list[str]:
        return [example.references[0] for example in query.examples]

    env = text_envs.make_sb3(Twice(), num_envs=64)
    rollout = collect(make(AggreVaTeD, env, n_episodes=64, guide=knows, beta=0.0))
    assert {info["example_index"] for info in rollout.infos} == {0, 1}
    assert rollout.episode_rewards.tolist() == [1.0] * 64


# -- the penalty and the statistics ----------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_the_penalty_is_on_every_token_of_the_agent_and_on_no_other(cls: Any) -> None:
    """V = 0 at first, so that with gamma = lambda = 1 advantages are sums of penalised rewards."""
    agent = make(
        cls, kl_coef=0.3, reference=tiny_gpt2(16, seed=5), normalize_advantage=False, gae_lambda=1.0
    )
    for _ in range(2):  # LOLS: whatever comes
        rollout = collect(agent)
        advantages, returns = agent._advantages(rollout)
        own = rollout.policy_steps
        k1 = torch.where(own, rollout.log_probs - rollout.ref_log_probs, 0.0)
        assert k1[own].abs().mean() > 0.1
        penalised = rollout.rewards - 0.3 * k1
        to_go = penalised.flip(1).cumsum(dim=1).flip(1)
        torch.testing.assert_close(advantages, torch.where(rollout.mask, to_go, 0.0))
        torch.testing.assert_close(returns, advantages)
        logged = agent.logger.name_to_value
        assert logged["rollout/kl_ref"] == pytest.approx(float(k1.sum(dim=1).mean()), rel=1e-4)
        entropy = -float(rollout.log_probs[own].mean())
        assert logged["rollout/entropy"] == pytest.approx(entropy, rel=1e-4)


def test_advantages_are_whitened_over_what_is_learnt() -> None:
    agent = make(AggreVaTeD)
    rollout = collect(agent)
    advantages, _ = agent._advantages(rollout)
    learnt = advantages[rollout.policy_mask]
    assert learnt.mean().abs() < 1e-6 and learnt.std() == pytest.approx(1.0, abs=1e-4)
    assert (advantages[~rollout.policy_mask] == 0).all()


def test_approx_kl_is_a_mean_over_what_is_learnt() -> None:
    agent = make(AggreVaTeD)
    rollout = collect(agent)
    with torch.no_grad():
        for parameter in agent.policy.actor.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    _, metrics = agent._loss(Part.of(rollout), *agent._advantages(rollout))
    new, _, _ = agent.policy.evaluate_episodes(
        rollout.tokens, rollout.columns, rollout.actions, rollout.mask
    )
    log_ratio = (new - rollout.log_probs)[rollout.policy_mask]
    wanted = (log_ratio.exp() - 1 - log_ratio).mean()
    torch.testing.assert_close(metrics["approx_kl"], wanted.detach(), rtol=1e-4, atol=1e-6)
    assert wanted > 1e-3


def test_the_coefficient_moves_by_a_fifth_a_horizon_at_most() -> None:
    agent = make(
        AggreVaTeD, kl_coef=0.1, kl_target=1e-6, kl_horizon=16, reference=tiny_gpt2(16, seed=5)
    )
    collect(agent)
    agent.train()
    assert agent.kl_coef == pytest.approx(0.1 * 1.2)


def test_strict_updates_are_worth_one_deviation() -> None:
    agent = make(AggreVaTeD, strict=True, beta=0.7, gamma=0.9, normalize_advantage=False)
    torch.nn.init.normal_(agent.policy.value_net[-1].weight)
    rollout = collect(agent)
    agent.train()
    seen = agent.rollout
    advantages, _ = agent._advantages(seen)
    rows = [i for i, info in enumerate(seen.infos) if info["seam"]]
    mean = np.mean([seen.infos[i]["roll_in_length"] for i in rows])
    assert 0 < len(rows) < 16 and torch.equal(
        seen.policy_mask.any(dim=1).nonzero()[:, 0], torch.tensor(rows)
    )
    for i in rows:
        h, length = seen.infos[i]["seam"], seen.infos[i]["roll_in_length"]
        assert seen.policy_mask[i].nonzero().flatten().tolist() == [h - 1]
        to_go = sum(0.9**n * r for n, r in enumerate(rollout.rewards[i, h - 1 :].tolist()))
        wanted = (to_go - float(rollout.values[i, h - 1])) * length / mean
        assert float(advantages[i, h - 1]) == pytest.approx(wanted, abs=1e-5)


# -- several turns, schedules, counts --------------------------------------------------------------


@pytest.mark.parametrize("cls", [PPOPlusPlus, AggreVaTeD])
def test_dialogues(cls: Any) -> None:
    """Saying bye at once is best: no turn costs anything."""
    env = text_envs.make_sb3(Echo(max_turn_tokens=3), num_envs=32)
    agent = make(cls, env, n_episodes=32, guide="script:random", learning_rate=1e-2)
    first = float(collect(agent).episode_rewards.mean())
    agent.learn(3_000)
    agent.beta = 0.0 if cls is PPOPlusPlus else 1.0  # the agent's own texts, or nearly
    assert float(collect(agent).episode_rewards.mean()) > first + 0.4


def rolled_in(agent: Any, iterations: int) -> list[bool]:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return bool(self.model.iterations < iterations)

    found: list[bool] = []

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            if key == "guide/rolls_in":
                found.append(bool(value))
            super().record(key, value, exclude)

    agent.set_logger(Spy(None, []))
    agent.learn(10**6, Stop())
    return found[:iterations]


def test_d2lols_switches_once() -> None:
    agent = make(D2LOLS, tau=3)
    assert rolled_in(agent, 6) == [False, False, False, True, True, True]


def test_d2lols_counts_the_iterations_of_all_calls_of_learn() -> None:
    agent = make(D2LOLS, tau=3)
    agent.learn(1), agent.learn(1)
    assert rolled_in(agent, 4)[:2] == [False, True] and agent.num_timesteps > 0


def test_lols_tosses_a_coin() -> None:
    found = rolled_in(make(LOLS, tau=0.7, n_epochs=1), 40)
    assert 0.5 < np.mean(found) < 0.9
    assert found[:8] == rolled_in(make(LOLS, tau=0.7, n_epochs=1), 8)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_guide_is_asked_once_an_iteration(cls: Any) -> None:
    agent = cls(
        "CausalLMPolicy", TOY, guide=iid_lm(GUIDE), n_episodes=128, seed=0, beta=1.0,
        policy_kwargs={"model": iid_lm(PRIOR)},
    )  # fmt: skip
    agent.learn(1500)
    assert agent.n_envs == 128
    assert agent.queries.calls == agent.iterations > 2
    assert agent.queries.rows <= 128 * agent.iterations
    logged = agent.logger.name_to_value
    assert "guide/calls" not in logged  # dumped
    assert agent.queries.tokens >= agent.queries.rows > 0


def test_rounds_where_there_are_fewer_rows_than_texts() -> None:
    agent = make(AggreVaTeD, n_episodes=48)
    rollout = collect(agent)
    assert len(rollout) == 48 and agent.queries.calls == 3
    found = agent.logger.name_to_value
    assert found["guide/prefix_length"] == pytest.approx(
        np.mean([info["seam"] for info in rollout.infos])
    )
    assert found["guide/calls"] == 3 and found["guide/rolls_in"] == 0


def test_counts_are_those_of_the_algorithm() -> None:
    guide = as_guide(w5, Share())
    one, other = make(PPOPlusPlus, guide=guide), make(PPOPlusPlus, guide=guide)
    collect(one)
    assert one.queries == guide.queries and other.queries.rows == 0
    third = make(PPOPlusPlus, guide=guide)
    assert third.queries.rows == 0
    collect(third)
    collect(one)
    assert (one.queries.calls, third.queries.calls, guide.queries.calls) == (2, 1, 3)


def test_a_model_as_its_own_guide_stays_as_it_was() -> None:
    lm = tiny_gpt2(16)
    agent = make(PPOPlusPlus, model=lm, guide=lm, learning_rate=1e-2)
    before = [
        p.clone()
        for p in agent._starts.guide(agent.env.get_attr("task")[0]).policy.actor.parameters()
    ]
    agent.learn(300)
    after = agent._starts.guide(agent.env.get_attr("task")[0]).policy.actor.parameters()
    assert all(map(torch.equal, before, after))
    assert not torch.equal(before[0], next(iter(lm.parameters())))


def test_an_agent_guided_by_values_guides_with_them() -> None:
    """Its language model alone, which is what writes for a `CausalLMPolicy`, would not."""
    agent = offline_agent(ILQL, TOY, every_toy_text(), beta=4.0)
    shake(agent.policy.critic, 1)
    shake(agent.policy.target, 2)
    env = text_envs.make_sb3(TOY, num_envs=64, seed=0)
    guided = make(AggreVaTeD, env, n_episodes=64, model=iid_lm(PRIOR), guide=agent, beta=0.0)
    policy = guided._starts.guide(env.env.task).policy
    tree = exact.q_of(TOY, agent).tree
    np.testing.assert_allclose(tree.log_probs(policy), tree.log_probs(agent), atol=1e-5)
    alone = tree.log_probs(agent.policy.actor)
    assert np.abs(np.exp(alone) - np.exp(tree.log_probs(agent))).max() > 0.05
    before = tree.log_probs(policy)
    shake(agent.policy.target, 3)
    np.testing.assert_array_equal(tree.log_probs(policy), before)  # a frozen copy
    assert len(collect(guided)) == 64 and guided.queries.calls == 1


# -- saving, metrics -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("task", [Share, Echo])
def test_saves_and_goes_on_exactly(cls: Any, task: Any, tmp_path: Path) -> None:
    guide = w5 if task is Share else "script:random"
    extra = {"tau": 3} if cls is D2LOLS else {}
    straight = make(cls, text_envs.make_sb3(task(), num_envs=16), kl_coef=0.1, guide=guide, **extra)
    straight.learn(200)
    straight.save(tmp_path / "model.zip")
    straight.learn(300, reset_num_timesteps=False)
    again = cls.load(
        tmp_path / "model.zip", env=text_envs.make_sb3(task(), num_envs=16), guide=guide
    )
    assert again.beta == straight.beta and again.iterations < straight.iterations
    again.learn(300, reset_num_timesteps=False)
    assert torch.equal(weights(straight), weights(again))
    assert again.queries == straight.queries and again.iterations == straight.iterations


def test_the_name_of_a_guide_is_saved_with_its_arguments(tmp_path: Path) -> None:
    tiny_gpt2(16, seed=5).save_pretrained(tmp_path / "guide")
    agent = make(LOLS, guide=tmp_path / "guide", guide_kwargs={"top_p": 0.9}, tau=0.5)
    agent.learn(100)
    agent.save(tmp_path / "model")
    again = LOLS.load(tmp_path / "model", env=text_envs.make_sb3(Share(), num_envs=16))
    assert again.guide == str(tmp_path / "guide") and again.guide_kwargs == {"top_p": 0.9}
    again.learn(100, reset_num_timesteps=False)
    assert again.policy.predict(agent.env.reset())[0].shape == (16,)
    alone = LOLS.load(tmp_path / "model")  # only to predict
    assert torch.equal(weights(agent), weights(alone)) and alone.queries == agent.queries


def test_another_guide_is_not_saved(tmp_path: Path) -> None:
    agent = make(PPOPlusPlus)
    agent.save(tmp_path / "model")
    again = PPOPlusPlus.load(tmp_path / "model", env=text_envs.make_sb3(Share(), num_envs=16))
    with pytest.raises(ValueError, match="guide must be given to learn"):
        again.learn(10)


@pytest.mark.parametrize("cls", CLASSES)
def test_card_lists_the_metrics_that_are_logged(cls: Any) -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    extra = {"tau": 1} if cls is D2LOLS else {"tau": 0.5} if cls is LOLS else {}
    agent = make(cls, ent_coef=0.01, clip_range_vf=0.2, kl_coef=0.1, **extra)
    agent.set_logger(Spy(None, []))
    agent.learn(400)
    card, of_ppo = inspect.getdoc(rlgf), inspect.getdoc(ppo)
    assert card is not None and of_ppo is not None
    own = card.split("**Metrics**")[1].split("**Command**")[0]
    listed = set(re.findall(r"`(guide/\w+)`", own))
    section = of_ppo.split("**Metrics**")[1].split("**Command**")[0]
    listed |= set(re.findall(r"`((?:rollout|train|time)/[\w<>]+)`", section))
    listed = {name.replace("<term>", "task") for name in listed}
    if cls is PPOPlusPlus:
        listed.remove("guide/own_reward")
    assert logged == listed


# -- failures --------------------------------------------------------------------------------------


class Flaky:
    """A guide that fails at its calls number `at`, by raising or with an answer."""

    def __init__(self, at: int, answer: Any = None) -> None:
        self.at, self.answer, self.calls = at, answer, 0

    def __call__(self, query: Query) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return w5(query)
        if self.answer is None:
            raise ConnectionError("no route to the guide")
        return [*w5(query)[:-1], self.answer]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "no route to the guide"),
        ([5] * 40, "40 tokens"),
        ([], "nothing"),
        ([99], "token 99 at place 0, which may not be written"),
    ],
)
@pytest.mark.parametrize("cls", CLASSES)
def test_a_guide_that_fails_loses_nothing(cls: Any, answer: Any, message: str) -> None:
    """It fails in the second round of three of the second iteration."""
    extra = {"tau": 0.5} if cls is LOLS else {}
    agent = make(cls, guide=Flaky(5, answer), n_episodes=48, **extra)
    with pytest.raises(GuideError, match=message) as caught:
        agent.learn(10_000)
    partial: Any = caught.value.partial_rollout  # type: ignore[attr-defined]
    assert len(partial) >= 16 and agent.iterations == 1
    assert agent._n_updates == 1
    if answer is not None:
        assert caught.value.received[-1] == answer and len(caught.value.received) > 1
    agent.learn(100, reset_num_timesteps=False)  # and it goes on
    assert len(agent.rollout) == 48


def test_a_guide_with_other_tokens_is_refused_before_anything_is_played() -> None:
    with pytest.raises(GuideError, match="knows 6 tokens.* need the same tokenizer"):
        make(PPOPlusPlus, guide=iid_lm(GUIDE))
    other = {"tokenizer": WordTokenizer(["w0", "w1"])}
    with pytest.raises(GuideError, match="its tokenizer is"):
        make(AggreVaTeD, guide=tiny_gpt2(16), guide_kwargs=other)
    with pytest.raises(GuideError, match="was made for Echo"):
        make(AggreVaTeD, guide=as_guide("script:random", Echo()))


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (PPOPlusPlus, {"beta": 1.5}, "beta must be a probability, 0 to 1, got 1.5"),
        (LOLS, {"tau": -0.1}, "tau must be a probability, 0 to 1, got -0.1"),
        (PPOPlusPlus, {"beta": "x"}, "beta must be a probability, 0 to 1, got 'x'"),
        (D2LOLS, {"tau": 0.5}, "tau must be an integer of at least 0, got 0.5"),
        (LOLS, {"policy": CausalLMPolicy}, "must be 'TwoCriticPolicy'.*got CausalLMPolicy"),
        (AggreVaTeD, {"guide": "script:exprt"}, "unknown quality 'exprt'"),
        (AggreVaTeD, {"guide_kwargs": {"top_p": 0.5}}, "decides itself how it writes"),
    ],
)
def test_bad_arguments_are_explained(cls: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, **kwargs)


def test_environments_of_every_face() -> None:
    kwargs: dict[str, Any] = {"policy_kwargs": {"model": iid_lm(PRIOR)}, "guide": "script:expert"}
    single = gym.make(TOY)
    AggreVaTeD("CausalLMPolicy", single, n_episodes=4, batch_size=4, **kwargs).learn(10)
    native = gym.make_vec(TOY, num_envs=4)
    PPOPlusPlus("CausalLMPolicy", native, n_episodes=4, batch_size=4, **kwargs).learn(10)
    looped = gym.make_vec(TOY, num_envs=2, vectorization_mode="sync")
    with pytest.raises((ValueError, TypeError)):
        PPOPlusPlus("CausalLMPolicy", looped, n_episodes=4, batch_size=4, **kwargs)


def test_a_callback_can_stop_in_the_middle() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 9

    for cls in CLASSES:
        agent = make(cls, n_episodes=48)
        agent.learn(10_000, Stop())
        assert agent._n_updates == 0 and agent.rollout is not None
        agent.learn(100)
        assert agent._n_updates > 0


def test_learning_from_texts_of_no_choice_stays_finite() -> None:
    """An agent that ends at once has no token before a seam where the paper puts it."""
    env = text_envs.make_sb3(TOY, num_envs=8)
    agent = make(
        AggreVaTeD, env, n_episodes=8, guide="script:expert", to_the_end=False,
        model=iid_lm((1e-9, 1e-9, 1 - 2e-9)), kl_coef=0.1,
    )  # fmt: skip
    agent.learn(20)
    assert torch.isfinite(weights(agent)).all()
    assert F.explained_variance(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1).bool()) != 0


def test_a_guide_that_never_answers_leaves_an_empty_error() -> None:
    agent = make(PPOPlusPlus, guide=Flaky(1))
    with pytest.raises(GuideError) as caught:
        agent.learn(100)
    assert getattr(caught.value, "partial_rollout", ()) is not None


def test_the_factor_of_strict_updates_counts_the_places_of_a_seam() -> None:
    agent = make(
        AggreVaTeD, strict=True, to_the_end=False, beta=0.7, normalize_advantage=False, seed=3
    )
    rollout = collect(agent)
    agent.train()
    advantages, _ = agent._advantages(agent.rollout)
    infos = agent.rollout.infos
    rows = [i for i, info in enumerate(infos) if info["seam"]]
    places = np.array([infos[i]["roll_in_length"] - 1 for i in rows])
    assert len(set(places)) > 1
    for i, count in zip(rows, places, strict=True):
        h = infos[i]["seam"]
        assert 1 <= h <= count
        wanted = float(rollout.rewards[i, h - 1 :].sum() - rollout.values[i, h - 1])
        assert float(advantages[i, h - 1]) == pytest.approx(
            wanted * count / places.mean(), abs=1e-5
        )


def test_lols_over_an_encoder_decoder(tmp_path: Path) -> None:
    agent = make(LOLS, policy="Seq2SeqPolicy", model=tiny_t5(16), tau=0.5).learn(200)
    assert isinstance(agent.policy, TwoCriticSeq2SeqPolicy)
    agent.save(tmp_path / "lols")
    again = LOLS.load(tmp_path / "lols", guide=w5, env=text_envs.make_sb3(Share(), num_envs=16))
    assert torch.equal(weights(again), weights(agent))


def test_guides_and_references_that_learnt_other_words_are_refused(tmp_path: Path) -> None:
    """As many of them, so that no shape tells."""
    other = text_envs.make_sb3(Turned(), num_envs=16)
    agent = make(PPO, other)
    agent.save(tmp_path / "agent")
    agent.policy.save(tmp_path / "policy")
    loaded = PPO.load(tmp_path / "agent")
    policies = [agent.policy, loaded, CausalLMPolicy.load(tmp_path / "policy")]
    for guide in (*policies, tmp_path / "agent", str(tmp_path / "policy")):
        with pytest.raises(GuideError, match="learnt with another tokenizer"):
            make(AggreVaTeD, guide=guide)
        with pytest.raises(ValueError, match="learnt with another tokenizer"):
            as_log_probs(guide, Share())
        assert as_guide(guide, Turned()) is not None
    with pytest.raises(ValueError, match="reference '.*agent' learnt with another tokenizer"):
        make(PPO, kl_coef=0.1, reference=tmp_path / "agent")
    with pytest.raises(ValueError, match="PPO in .* learnt with another tokenizer"):
        PPO.load(tmp_path / "agent", env=text_envs.make_sb3(Share(), num_envs=16))


class Turned(Share):
    """`Share` with its words in the other order."""

    def __init__(self) -> None:
        like = Share()
        Task.__init__(
            self, [like.example(i) for i in range(4)],
            tokenizer=WordTokenizer(list(like.tokenizer.words)[:12][::-1]),
            prompt_length=6, max_tokens=6,
        )  # fmt: skip
