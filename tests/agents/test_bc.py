"""Behaviour cloning: the exact loss, its exact minimum, thresholds, warm starts, messages."""

from __future__ import annotations

import inspect
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import Echo
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_gpt2
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule

import text_envs
from agents import BC, PPO, CausalLMPolicy, bc, load_lm, make_lm
from agents.losses.cloning import smoothed_log_probs
from text_envs import DatasetError, exact
from text_envs.datasets import EpisodeDataset, collect
from text_envs.tasks.maze import Maze
from text_envs.tokenizers import WordTokenizer

TOY = "text_envs/Toy-v0"


def make(data: Any, env: Any = TOY, **kwargs: Any) -> BC:
    policy_kwargs = {"model": {"layers": 1, "width": 16}, **kwargs.pop("policy_kwargs", {})}
    arguments = {"batch_size": 8, "seed": 0, "device": "cpu"} | kwargs
    return BC("CausalLMPolicy", env, dataset=data, policy_kwargs=policy_kwargs, **arguments)


def chatter(observations: Any) -> Any:
    """Log-probabilities of a speaker of `Echo` who says mostly hello."""
    p = np.array([0.1, 0.5, 0.1, 0.1, 0.2])
    return np.broadcast_to(np.log(p), (len(observations), 5))


@pytest.fixture(scope="module")
def dialogues() -> EpisodeDataset:
    return collect(text_envs.TokenVectorEnv(Echo(), num_envs=8), chatter, 24, seed=0)


@pytest.fixture
def talker(dialogues: EpisodeDataset) -> BC:
    env = text_envs.make_sb3(Echo(), num_envs=2)
    return make(dialogues, env, policy_kwargs={"model": tiny_gpt2(8)})


# -- the loss ----------------------------------------------------------------------------------


def test_loss_is_that_of_plain_prefixes(talker: BC, dialogues: EpisodeDataset) -> None:
    """Feed each prefix alone and read the probability of what the agent wrote next."""
    lm, total = talker.policy.actor.lm, 0.0
    for row in range(len(dialogues)):
        written = dialogues.roles[row] != 0
        tokens, roles = dialogues.tokens[row][written], dialogues.roles[row][written]
        for k in np.flatnonzero(roles == text_envs.Role.ACTION):
            with torch.no_grad():
                logits = lm(torch.tensor(tokens[None, :k])).logits[0, -1, :5]
            total -= float(logits.log_softmax(dim=0)[tokens[k]])
    assert talker.data is not None
    assert talker.loss_on(talker.data) == pytest.approx(total / dialogues.num_steps, rel=1e-5)


def test_padding_changes_nothing(talker: BC) -> None:
    """Loss and gradient of a minibatch are the token-weighted means of those of its rows."""
    assert talker.data is not None
    parameters = list(talker.policy.actor.parameters())

    def loss_and_gradient(index: Any) -> tuple[float, torch.Tensor]:
        loss = -talker.log_probs(talker.data.select(index)).mean()  # type: ignore[union-attr]
        gradients = torch.autograd.grad(loss, parameters)
        return float(loss.detach()), torch.cat([g.flatten() for g in gradients])

    rows = np.arange(7)
    assert talker.data.lengths[rows].unique().numel() > 3
    loss, gradient = loss_and_gradient(rows)
    singles = [loss_and_gradient(rows[i : i + 1]) for i in rows]
    weights = talker.data.lengths[rows].double() / talker.data.lengths[rows].sum()
    assert loss == pytest.approx(sum(w * x for w, (x, _) in zip(weights.tolist(), singles)))  # noqa: B905
    mean: Any = sum(w * g for w, (_, g) in zip(weights, singles, strict=True))
    torch.testing.assert_close(gradient.double(), mean.double(), rtol=1e-3, atol=1e-6)


def test_the_environment_s_tokens_are_not_learnt(dialogues: EpisodeDataset) -> None:
    """A reply tells nothing of what stands before it, and is itself no target."""
    pad, prompt, own, reply = 0, 1, 3, 4
    roles = np.array([[pad, pad, prompt, prompt, own, own, reply, own, own, reply]])
    log_probs = []
    for first, second in ((3, 3), (0, 3), (3, 0)):
        data = EpisodeDataset(
            tokens=np.array([[5, 5, 0, 2, 1, 4, first, 2, 4, second]]), roles=roles,
            rewards=np.zeros((1, 10)), example_indices=np.zeros(1, int), finish_reasons=("cut",),
            truncated=np.array([True]),
        )  # fmt: skip
        task = Echo(max_tokens=6)
        env = text_envs.make_sb3(task, num_envs=1)
        agent = make(data, env, policy_kwargs={"model": tiny_gpt2(8)})
        log_probs.append(agent.log_probs(agent.data).detach())  # type: ignore[arg-type]
    plain, other_first, other_second = log_probs
    assert len(plain) == 4
    torch.testing.assert_close(plain, other_second)  # nothing follows it
    torch.testing.assert_close(plain[:2], other_first[:2])
    assert not torch.allclose(plain[2:], other_first[2:], atol=1e-3)  # but it is read


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 0.99), st.integers(2, 7))
def test_label_smoothing(seed: int, smoothing: float, words: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, words, generator=generator, dtype=torch.double)
    actions = torch.randint(words, (4,), generator=generator)
    target = torch.full((4, words), smoothing / words, dtype=torch.double)
    target[torch.arange(4), actions] += 1 - smoothing
    wanted = (target * logits.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(smoothed_log_probs(logits, actions, smoothing), wanted)
    plain = torch.nn.functional.cross_entropy(logits, actions, label_smoothing=smoothing)
    torch.testing.assert_close(-wanted.mean(), plain)
    # A forbidden word is no part of it, and its infinite score spoils no gradient.
    longer = torch.cat([logits, torch.full((4, 1), -torch.inf)], dim=1).requires_grad_()
    found = smoothed_log_probs(longer, actions, smoothing)
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    assert longer.grad is not None and torch.isfinite(longer.grad).all()


def test_smoothing_reaches_the_update(talker: BC, dialogues: EpisodeDataset) -> None:
    talker.label_smoothing = 0.0
    assert talker.data is not None
    plain = talker.log_probs(talker.data)
    talker.label_smoothing = 1e-12
    torch.testing.assert_close(talker.log_probs(talker.data), plain)
    talker.label_smoothing = 0.5
    assert not torch.allclose(talker.log_probs(talker.data), plain, atol=1e-2)


# -- the minimum -------------------------------------------------------------------------------


def test_converges_to_the_shares_of_the_data() -> None:
    """On Toy-v0 with all states covered: probabilities, loss and return against counts."""
    data = collect(TOY, lambda obs: np.log([[0.5, 0.3, 0.2]] * len(obs)), 600, seed=0)
    after: dict[tuple[int, ...], Counter[int]] = {}
    for row in range(len(data)):
        text = tuple(data.tokens[row][data.action_mask[row]].tolist())
        for k, token in enumerate(text):
            after.setdefault(text[:k], Counter())[token] += 1
    assert len(after) == 7  # every state in which a token is chosen

    def empirical(observations: Any) -> Any:
        shares = np.zeros((len(observations), 3))
        for row, tokens in enumerate(observations):
            counts = after[tuple(tokens[1:][tokens[1:] < 3].tolist())]
            shares[row] = [counts[a] / counts.total() for a in range(3)]
        return np.log(shares)

    agent = make(
        data, batch_size=600, learning_rate=LinearSchedule(1e-2, 1e-4, 1.0), weight_decay=0.0,
        policy_kwargs={"model": {"layers": 1, "width": 32}},
    ).learn(n_epochs=250)  # fmt: skip
    entropy = -sum(
        n * np.log(n / c.total()) for c in after.values() for n in c.values()
    ) / data.num_steps  # fmt: skip
    assert agent.data is not None
    assert -1e-6 <= agent.loss_on(agent.data) - entropy < 1e-4
    assert agent.data.num_steps == data.num_steps

    states = np.full((7, 4), 3)
    states[:, 0] = 4
    for row, text in enumerate(after):
        states[row, 1 : 1 + len(text)] = text
    with torch.no_grad():
        found = agent.policy.get_distribution(torch.from_numpy(states)).distribution.probs
    np.testing.assert_allclose(found.numpy(), np.exp(empirical(states)), atol=5e-3)
    ours, counted = exact.evaluate(TOY, agent), exact.evaluate(TOY, empirical)
    assert ours.mean_return == pytest.approx(counted.mean_return, abs=5e-3)
    assert ours.entropy == pytest.approx(counted.entropy, abs=5e-3)


# -- learning ----------------------------------------------------------------------------------


def test_learns_the_trivial() -> None:
    data = collect(TOY, "expert", 50, seed=0)
    agent = make(data, learning_rate=1e-2).learn(n_epochs=10)
    assert exact.evaluate(TOY, agent).mean_return > 1.45  # the best is 1.5


def test_learns_a_small_maze() -> None:
    """From random text to the shortest way, with the environment's replies in between."""
    task = Maze(dataset=["########", "#.....G#", "########"], max_moves=6)
    env = text_envs.make_sb3(task, num_envs=8, seed=0)
    data = collect(env, "expert", 200, seed=0)
    agent = make(data, env, learning_rate=1e-2, batch_size=16).learn(n_epochs=8)
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=32, warn=False)
    before = make(data, env)
    worst, _ = evaluate_policy(before, env, n_eval_episodes=32, deterministic=False, warn=False)
    assert worst < -4
    assert mean > data.returns.mean() - 0.7


def test_the_best_share_is_cloned() -> None:
    data = collect(TOY, "random", 400, seed=0)
    assert data.returns.mean() < 0.8
    best = make(data, top=0.05, learning_rate=1e-2)
    assert best.data is not None and len(best.data) == 20 and best.data.returns.min() == 1.5
    best.learn(n_epochs=25)
    above = make(data, min_return=1.5, learning_rate=1e-2).learn(n_epochs=10)
    assert above.data is not None and above.data.returns.eq(1.5).all()
    for agent in (best, above):
        assert exact.evaluate(TOY, agent).mean_return > 1.4


def test_no_episode_is_left() -> None:
    with pytest.raises(DatasetError, match=r"min_return=9.*highest return is 1\.5"):
        make(collect(TOY, "mixed", 20), min_return=9)


def test_held_out_episodes_are_not_learnt() -> None:
    data = collect(TOY, "random", 40, seed=0)
    agent = make(data, held_out=0.25, learning_rate=1e-2)
    assert agent.data is not None and agent.held_out_data is not None
    assert (len(agent.data), len(agent.held_out_data)) == (30, 10)
    rows = torch.cat([agent.data.tokens, agent.held_out_data.tokens]).tolist()
    assert sorted(rows) == sorted(data.tokens.tolist())
    agent.learn(n_epochs=1, log_interval=2)
    found = agent.logger.name_to_value
    assert not found  # dumped
    again = make(data, held_out=0.25, seed=7)  # whatever the seed: a resumed run may have none
    assert again.held_out_data is not None
    assert torch.equal(again.held_out_data.tokens, agent.held_out_data.tokens)
    with pytest.raises(ValueError, match="sets 0 aside and leaves 40"):
        make(data, held_out=0.001)


def test_weight_decay_is_adamw_s() -> None:
    data = collect(TOY, "random", 20, seed=0)
    agent = make(data, weight_decay=0.3)
    assert isinstance(agent.policy.optimizer, torch.optim.AdamW)
    assert agent.policy.optimizer.param_groups[0]["weight_decay"] == 0.3
    agent = make(data, policy_kwargs={"optimizer_class": torch.optim.SGD})
    assert isinstance(agent.policy.optimizer, torch.optim.SGD)


# -- warm starts -------------------------------------------------------------------------------


def test_its_weights_start_other_agents(tmp_path: Path) -> None:
    data = collect(TOY, "expert", 30, seed=0)
    agent = make(data, learning_rate=1e-2).learn(n_epochs=5)
    agent.save(tmp_path / "bc")
    agent.policy.save(tmp_path / "policy")
    kwargs: dict[str, Any] = {"n_episodes": 8, "batch_size": 8, "device": "cpu"}
    wanted = exact.evaluate(TOY, agent).mean_return
    assert wanted > 1.2
    models = (agent.policy.actor.lm, tmp_path / "bc", str(tmp_path / "policy"),
              tmp_path / "bc" / "policy" / "lm")  # fmt: skip
    for model in models:
        start = PPO("CausalLMPolicy", TOY, policy_kwargs={"model": model}, **kwargs)
        assert exact.evaluate(TOY, start).mean_return == pytest.approx(wanted, abs=1e-5)
    PPO("CausalLMPolicy", TOY, policy_kwargs={"model": tmp_path / "bc"}, **kwargs).learn(50)
    assert exact.evaluate(TOY, agent).mean_return == pytest.approx(wanted, abs=1e-9)
    again = make(data, policy_kwargs={"model": str(tmp_path / "bc")})  # and goes on by itself
    assert again.data is not None and agent.data is not None
    assert again.loss_on(again.data) == pytest.approx(agent.loss_on(agent.data), abs=1e-6)
    lm, tokenizer = load_lm(tmp_path / "bc")
    assert tokenizer == gym.make(TOY).unwrapped.tokenizer and lm.config.vocab_size == 6


def test_a_start_to_which_the_ids_were_other_words_is_refused(tmp_path: Path) -> None:
    name = "text_envs/WordSorting-v0"
    env = text_envs.make_sb3(name)
    make(collect(name, "expert", 8, seed=0), env).save(tmp_path / "bc")
    other = WordTokenizer(env.get_attr("tokenizer")[0].words[::-1])
    kwargs: dict[str, Any] = {"policy_kwargs": {"model": tmp_path / "bc"}, "device": "cpu"}
    PPO("CausalLMPolicy", env, **kwargs)
    with pytest.raises(ValueError, match="bc' learnt with another tokenizer"):
        PPO("CausalLMPolicy", text_envs.make_sb3(name, tokenizer=other), **kwargs)


def test_fine_tunes_the_bundled_model() -> None:
    env = text_envs.make_sb3("text_envs/Reviews-v0", num_envs=4, max_tokens=8, seed=0)
    data = collect(env, "random", 4, seed=0)
    agent = BC("CausalLMPolicy", env, dataset=data, batch_size=4, device="cpu", seed=0)
    assert agent.data is not None
    before = agent.loss_on(agent.data)
    agent.learn(n_epochs=3)
    assert agent.loss_on(agent.data) < before - 0.2
    assert agent.policy.tokenizer is not None


# -- speed, bookkeeping ------------------------------------------------------------------------


def test_costs_no_more_than_a_plain_training_loop() -> None:
    """Tokens a second against the textbook loop over padded rows, in the same process."""
    task = Maze()
    data = collect(text_envs.TokenVectorEnv(task, num_envs=32), "expert", 96, seed=0)
    env = text_envs.make_sb3(task, num_envs=1)
    agent = make(data, env, batch_size=32, policy_kwargs={"model": "scratch"})
    lm = make_lm(task)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    filled = data.roles != 0
    lengths = torch.from_numpy(filled.sum(axis=1))
    ids = torch.zeros(data.tokens.shape, dtype=torch.long)
    labels = torch.full(data.tokens.shape, -100)
    for row, (tokens, roles) in enumerate(zip(data.tokens, data.roles, strict=True)):
        written = torch.from_numpy(tokens[filled[row]])
        ids[row, : len(written)] = written
        own = torch.from_numpy(roles[filled[row]] == text_envs.Role.ACTION)
        labels[row, : len(written)] = torch.where(own, written, -100)

    def plain() -> None:
        for index in torch.arange(96).split(32):
            width = int(lengths[index].max())
            logits = lm(input_ids=ids[index, :width], use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[index, 1:width].flatten(), ignore_index=-100
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
            optimizer.step()

    def ours() -> None:
        agent.learn(n_epochs=1, log_interval=1000)

    def seconds(run: Any) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    for run in (plain, ours):
        run()
    ratio = min(seconds(plain) for _ in range(4)) / min(seconds(ours) for _ in range(4))
    assert ratio > 0.8  # about 1.3 on an idle machine; this one may be busy


def test_card_lists_the_metrics_that_are_logged() -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = make(collect(TOY, "random", 20), held_out=0.2)
    agent.set_logger(Spy(None, []))
    agent.learn(n_epochs=2)
    section = inspect.getdoc(bc).split("**Metrics**")[1].split("**Warm start**")[0]  # type: ignore[union-attr]
    assert logged == set(re.findall(r"`((?:train|time)/\w+)`", section))


def test_stock_policies_arguments_are_documented() -> None:
    documented = inspect.getdoc(BC).split("Args:")[1]  # type: ignore[union-attr]
    for name in inspect.signature(BC.__init__).parameters:
        if name != "self" and not name.startswith("_"):
            assert f"\n    {name}:" in documented, name
    assert CausalLMPolicy in BC.policy_aliases.values()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"top": 0.0}, "top must be above 0 and at most 1, got 0.0"),
        ({"top": 1.5}, "top must be"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"held_out": 1.0}, "held_out must be in"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(None, **kwargs)
