"""ILQL: losses against a loop over positions, masks, gradients, passes, bookkeeping."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Echo
from models import tiny_gpt2
from offline_helpers import Passes, dialogue, every_toy_text, offline_agent, shake
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from torch import Tensor

from agents import ilql
from agents.data.batches import OfflineBatch
from agents.ilql import ILQL

TOY = "text_envs/Toy-v0"


def echo_agent(**kwargs: Any) -> ILQL:
    """Return an agent on the dialogue by hand, with noise on every weight."""
    agent: ILQL = offline_agent(ILQL, Echo(), dialogue(), gamma=0.9, **kwargs)
    shake(agent.policy.critic, 1)
    shake(agent.policy.target, 2)
    return agent


def whole(agent: ILQL) -> OfflineBatch:
    assert agent.data is not None
    return agent.data


# -- what the losses are -----------------------------------------------------------------------


def state(trunk: Any, row: Tensor, column: int) -> Tensor:
    """Return the hidden state at a column, by a plain pass over the row's tokens."""
    ids = row[(row != 5) & (torch.arange(len(row)) <= column)]
    return trunk.actor.lm.base_model(input_ids=ids[None]).last_hidden_state[0, -1:]


def by_hand(agent: ILQL, batch: OfflineBatch) -> dict[str, float]:
    """Return the losses of the token variant, position by position, as the paper writes them."""
    critic, target, actor = agent.policy.critic, agent.policy.target, agent.policy.actor
    sums = dict.fromkeys(("q_loss", "v_loss", "cql_loss", "awac_loss"), 0.0)
    with torch.no_grad():
        for b in range(len(batch)):
            n = int(batch.mask[b].sum())
            v = [critic.v(state(critic, batch.tokens[b], int(c))) for c in batch.columns[b, :n]]
            v.append(critic.v(state(critic, batch.tokens[b], int(batch.last_column[b]))))
            for k in range(n):
                column, u = int(batch.columns[b, k]), int(batch.actions[b, k])
                assert u == batch.tokens[b, column + 1]
                ended = k == n - 1 and bool(batch.terminated[b])
                y = batch.rewards[b, k] + agent.gamma * (0.0 if ended else 1.0) * v[k + 1]
                q = critic.q(state(critic, batch.tokens[b], column))[:, 0]  # (2, A)
                q_hat = target.q(state(target, batch.tokens[b], column))[:, 0, u].min()
                weight = agent.tau if q_hat >= v[k] else 1 - agent.tau
                log_pi = actor.logits(state(agent.policy, batch.tokens[b], column)).log_softmax(1)
                sums["q_loss"] += float((q[:, u] - y).square().sum())
                sums["v_loss"] += float(weight * (q_hat - v[k]) ** 2)
                sums["cql_loss"] += float((q.logsumexp(1) - q[:, u]).sum())
                sums["awac_loss"] -= float((agent.beta_train * (q_hat - v[k])).exp() * log_pi[0, u])
    return {name: total / batch.num_steps for name, total in sums.items()}


def test_losses_of_dialogues_equal_a_loop_over_positions() -> None:
    """Across replies, in rows of different length, terminated or cut."""
    agent = echo_agent(awac_weight=1.0, beta_train=0.5, cql_weight=0.3)
    loss, metrics = agent.losses(whole(agent))
    wanted = by_hand(agent, whole(agent))
    for name, value in wanted.items():
        assert metrics[name].item() == pytest.approx(value, rel=1e-4), name
    total = wanted["q_loss"] + wanted["v_loss"] + 0.3 * wanted["cql_loss"] + wanted["awac_loss"]
    assert loss.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("variant", ["token", "utterance"])
@pytest.mark.parametrize("target", ["bootstrap", "mc"])
def test_a_batch_is_the_weighted_mean_of_its_rows(variant: str, target: str) -> None:
    agent = echo_agent(variant=variant, target=target, awac_weight=1.0, beta_train=0.5)
    batch = whole(agent)
    _, together = agent.losses(batch)
    actions = batch.lengths.tolist()
    turns = (batch.turn_ends & batch.mask).sum(dim=1).tolist() if variant == "utterance" else None
    sums = dict.fromkeys(set(together) & {"q_loss", "v_loss", "cql_loss", "awac_loss"}, 0.0)
    for row in range(len(batch)):
        _, alone = agent.losses(batch.select(torch.tensor([row])))
        for name in sums:
            weights = actions if turns is None or name == "awac_loss" else turns
            sums[name] += alone[name].item() * weights[row] / sum(weights)
    for name, value in sums.items():
        assert together[name].item() == pytest.approx(value, rel=1e-4), name


def test_more_padding_changes_nothing() -> None:
    agent = echo_agent()
    batch = whole(agent)
    loss, _ = agent.losses(batch)
    fields = {f: getattr(batch, f) for f in batch.__dataclass_fields__}
    wide = {"tokens": 5, "columns": 3, "actions": 1, "rewards": 9.0, "mask": 0, "turn_ends": 1}
    for name, filler in wide.items():
        extra = torch.full_like(fields[name][:, :2], filler)
        fields[name] = torch.cat([fields[name], extra], dim=1)
    padded, _ = agent.losses(OfflineBatch(**fields))
    assert padded.item() == pytest.approx(loss.item(), rel=1e-5)


def test_what_the_environment_wrote_is_no_target() -> None:
    """The last reply of a terminated episode, seen by no action, changes no loss."""
    data = dialogue().select([0])
    tokens, roles = data.tokens.copy(), data.roles.copy()
    tokens[0, 10], roles[0, 10] = 3, 4
    losses = []
    for reply in (3, 1):
        tokens = tokens.copy()
        tokens[0, 10] = reply
        longer = copy.copy(data)
        object.__setattr__(longer, "tokens", tokens)
        object.__setattr__(longer, "roles", roles)
        agent = echo_agent(awac_weight=1.0)
        losses.append(agent.losses(agent.as_batch(longer))[0].item())
        cut = copy.copy(longer)
        object.__setattr__(cut, "truncated", np.array([True]))
        losses.append(agent.losses(agent.as_batch(cut))[0].item())
    assert losses[0] == losses[2]
    assert losses[1] != losses[3], "the end of a cut episode is a state, and the reply is its text"
    assert losses[0] != losses[1]


def test_utterance_losses_equal_a_loop() -> None:
    agent = echo_agent(variant="utterance", awac_weight=1.0, beta_train=0.5)
    batch, critic, target = whole(agent), agent.policy.critic, agent.policy.target
    turns = [[(0, 1), (2, 3)], [(0, 1)], [(0, 2), (3, 5)]]
    q_loss = v_loss = awac = 0.0
    with torch.no_grad():
        for b, spoken in enumerate(turns):
            row, columns = batch.tokens[b], batch.columns[b].tolist()
            v = [critic.v(state(critic, row, columns[first])) for first, _ in spoken]
            v.append(critic.v(state(critic, row, int(batch.last_column[b]))))
            for j, (first, last) in enumerate(spoken):
                end = columns[last] + 1
                assert row[end] == 4, "Q is read at the end-of-turn token"
                ended = j == len(spoken) - 1 and bool(batch.terminated[b])
                reward = batch.rewards[b, first : last + 1].sum()
                y = reward + 0.9 * (0.0 if ended else 1.0) * v[j + 1]
                q_loss += float((critic.q(state(critic, row, end)).flatten() - y).square().sum())
                q_hat = target.q(state(target, row, end)).min()
                weight = agent.tau if q_hat >= v[j] else 1 - agent.tau
                v_loss += float(weight * (q_hat - v[j]) ** 2)
                for k in range(first, last + 1):
                    hidden = state(agent.policy, row, columns[k])
                    log_pi = agent.policy.actor.logits(hidden).log_softmax(1)
                    weight = (0.5 * (q_hat - v[j])).exp()
                    awac -= float(weight * log_pi[0, int(batch.actions[b, k])])
    _, metrics = agent.losses(batch)
    assert metrics["q_loss"].item() == pytest.approx(q_loss / 5, rel=1e-4)
    assert metrics["v_loss"].item() == pytest.approx(v_loss / 5, rel=1e-4)
    assert metrics["awac_loss"].item() == pytest.approx(awac / batch.num_steps, rel=1e-4)
    assert "cql_loss" not in metrics


def test_monte_carlo_target() -> None:
    """V learns from the return that followed; a cut episode goes on with V of its end."""
    agent = echo_agent(target="mc", tau=0.5)
    batch, critic = whole(agent), agent.policy.critic
    total = 0.0
    with torch.no_grad():
        for b in range(3):
            n = int(batch.mask[b].sum())
            g = critic.v(state(critic, batch.tokens[b], int(batch.last_column[b])))
            g = g * (not bool(batch.terminated[b]))
            for k in range(n - 1, -1, -1):
                g = batch.rewards[b, k] + 0.9 * g
                v = critic.v(state(critic, batch.tokens[b], int(batch.columns[b, k])))
                total += float(0.5 * (g - v) ** 2)
    _, metrics = agent.losses(batch)
    assert metrics["v_loss"].item() == pytest.approx(total / batch.num_steps, rel=1e-4)


# -- gradients and passes ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["token", "utterance"])
def test_gradients_go_where_they_should(variant: str) -> None:
    agent = echo_agent(variant=variant, awac_weight=1.0, beta_train=0.5)
    policy = agent.policy
    _, metrics = agent.losses(whole(agent))
    heads = policy.critic.heads
    parts = {
        "v": list(heads["v"].parameters()),
        "q": [*heads["q1"].parameters(), *heads["q2"].parameters()],
        "trunk": list(policy.critic.actor.lm.base_model.parameters()),
        "policy": list(policy.actor.parameters()),
    }
    reached = {"q_loss": {"q", "trunk"}, "v_loss": {"v", "trunk"}, "awac_loss": {"policy"}}
    if variant == "token":
        reached["cql_loss"] = {"q", "trunk"}
    for name, wanted in reached.items():
        found = set()
        for part, parameters in parts.items():
            grads = torch.autograd.grad(
                metrics[name], parameters, retain_graph=True, allow_unused=True
            )
            if any(g is not None and bool(g.any()) for g in grads):
                found.add(part)
        assert found == wanted, name
    assert all(not p.requires_grad for p in policy.target.parameters())


@pytest.mark.parametrize(
    ("kwargs", "wanted"),
    [
        ({}, (0, 1, 1)),
        ({"awac_weight": 1.0}, (1, 1, 1)),
        ({"target": "mc"}, (0, 1, 0)),
        ({"variant": "utterance"}, (0, 1, 1)),
        ({"variant": "utterance", "awac_weight": 1.0, "target": "mc"}, (1, 1, 0)),
    ],
)
def test_one_pass_a_sequence_and_trunk(kwargs: dict[str, Any], wanted: tuple[int, ...]) -> None:
    agent = echo_agent(**kwargs)
    passes = Passes(agent.policy)
    agent.train_step(whole(agent))
    assert tuple(passes.take().values()) == tuple(3 * n for n in wanted)


def vector(module: torch.nn.Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_target_moves_after_the_step() -> None:
    agent = echo_agent(polyak=0.25)
    before = vector(agent.policy.target)
    agent.train_step(whole(agent))
    expected = before + 0.25 * (vector(agent.policy.critic) - before)
    torch.testing.assert_close(vector(agent.policy.target), expected)
    agent.polyak = 1.0
    agent.train_step(whole(agent))
    assert torch.equal(vector(agent.policy.target), vector(agent.policy.critic))


def test_language_model_learns_only_with_a_weight() -> None:
    frozen, joint = echo_agent(), echo_agent(awac_weight=1.0)
    for agent, moves in ((frozen, False), (joint, True)):
        before = vector(agent.policy.actor)
        agent.train_step(whole(agent))
        assert torch.equal(before, vector(agent.policy.actor)) is not moves


def test_beta_train_of_zero_is_behaviour_cloning() -> None:
    agent = echo_agent(awac_weight=1.0)
    batch, actor = whole(agent), agent.policy.actor
    _, metrics = agent.losses(batch)
    hidden = actor.encode(batch.tokens, batch.columns, batch.mask)
    log_probs, _ = actor.log_probs(hidden, batch.actions[batch.mask])
    torch.testing.assert_close(metrics["awac_loss"], -log_probs.mean())
    assert metrics["awac_weight"].item() == 1.0
    parameters = list(actor.lm.base_model.parameters())
    one = torch.autograd.grad(metrics["awac_loss"], parameters)
    other = torch.autograd.grad(-log_probs.mean(), parameters)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def test_awac_weights_are_bounded() -> None:
    agent = echo_agent(awac_weight=1.0, beta_train=50.0, awac_max_weight=3.0)
    _, metrics = agent.losses(whole(agent))
    assert metrics["awac_weight"].item() <= 3.0


def test_heads_start_at_the_mean_return() -> None:
    agent = offline_agent(ILQL, TOY, every_toy_text())
    batch, policy = whole(agent), agent.policy
    # gamma = 1 and one reward at the end: the return to go of every action is the episode's
    expected = float((batch.returns * batch.lengths).sum() / batch.num_steps)
    with torch.no_grad():
        hidden = policy.critic.encode(batch.tokens, batch.columns, batch.mask)
        for trunk in (policy.critic, policy.target):
            torch.testing.assert_close(trunk.v(hidden), torch.full((41,), expected))
            torch.testing.assert_close(trunk.q(hidden), torch.full((2, 41, 3), expected))
    before = [head[0].weight for head in policy.critic.heads.values()]
    assert not torch.equal(before[1], before[2]), "the twins must be able to differ"


# -- learning, playing, saving -----------------------------------------------------------------


def test_plays_a_dialogue_through_stable_baselines3() -> None:
    """`evaluate_policy` on a task with replies; guidance makes the agent end it at once."""
    data = Echo(max_tokens=12).demonstrations(64, quality="random", seed=0)
    agent = offline_agent(ILQL, Echo(), data, learning_rate=2e-3, polyak=0.1, batch_size=16)
    agent.beta = 0.0
    plain, _ = evaluate_policy(agent, agent.env, n_eval_episodes=64, deterministic=False)
    agent.learn(n_epochs=40)
    agent.beta = 8.0
    guided, _ = evaluate_policy(agent, agent.env, n_eval_episodes=64, deterministic=False)
    assert guided > plain + 0.5
    assert guided > -0.5  # "bye" and the end cost nothing


@pytest.mark.parametrize("variant", ["token", "utterance"])
def test_saving_resumes_exactly(tmp_path: Path, variant: str) -> None:
    def agent(**kwargs: Any) -> ILQL:
        made: ILQL = offline_agent(
            ILQL, Echo(), dialogue(), batch_size=2, variant=variant, awac_weight=0.5, **kwargs
        )
        return made

    straight = agent().learn(n_epochs=6)
    half = agent().learn(n_epochs=3)
    half.beta, half.policy.top_k = 3.0, 2
    half.save(tmp_path / "half.zip")
    files = [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pth", ".pt")]
    assert not files
    loaded = ILQL.load(tmp_path / "half.zip", half.env, device="cpu", dataset=dialogue())
    assert (loaded.beta, loaded.policy.top_k, loaded.variant) == (3.0, 2, variant)
    for name in ("actor", "critic", "target"):
        saved, read = getattr(half.policy, name), getattr(loaded.policy, name)
        assert torch.equal(vector(saved), vector(read)), name
    assert not torch.equal(vector(loaded.policy.critic), vector(loaded.policy.target))
    loaded.learn(n_epochs=3, reset_num_timesteps=False)
    for name in ("actor", "critic", "target"):
        one, other = getattr(straight.policy, name), getattr(loaded.policy, name)
        assert torch.equal(vector(one), vector(other)), name


def test_same_seed_same_run() -> None:
    runs = []
    for seed in (3, 3, 4):
        agent = offline_agent(ILQL, TOY, every_toy_text(), batch_size=4, seed=seed)
        runs.append(vector(agent.learn(n_epochs=3).policy.critic))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_a_smaller_value_model(tmp_path: Path) -> None:
    small = tiny_gpt2(8, positions=16, width=8, seed=5)
    before = copy.deepcopy(small.state_dict())
    agent = echo_agent(policy_kwargs={"value_model": small})
    assert agent.policy.critic.actor.hidden_size == 8 < agent.policy.actor.hidden_size
    agent.train_step(whole(agent))
    for key, value in small.state_dict().items():
        assert torch.equal(value, before[key]), "the model that was passed is left alone"
    agent.save(tmp_path / "agent")
    again = ILQL.load(tmp_path / "agent", device="cpu")
    assert torch.equal(vector(again.policy.critic), vector(agent.policy.critic))


def test_an_argument_of_the_algorithm_is_changed_as_one_when_loading(tmp_path: Path) -> None:
    echo_agent(beta=2.0).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"policy_kwargs\['beta'\] would be overridden: ILQL"):
        ILQL.load(tmp_path / "agent", device="cpu", policy_kwargs={"beta": 8.0})
    assert ILQL.load(tmp_path / "agent", device="cpu", beta=8.0).policy.beta == 8.0


@pytest.mark.parametrize("variant", ["token", "utterance"])
def test_card_lists_the_metrics_that_are_logged(variant: str) -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = offline_agent(ILQL, Echo(), dialogue(), variant=variant, awac_weight=1.0)
    agent.set_logger(Spy(None, []))
    agent.learn(n_epochs=2)
    section = (inspect.getdoc(ilql) or "").split("**Metrics**")[1].split("**Command**")[0]
    listed = set(re.findall(r"`((?:train|time)/\w+)`", section))
    assert logged == listed - ({"train/cql_loss"} if variant == "utterance" else set())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tau": 1.0}, r"tau must be in \(0, 1\), got 1.0"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\), got 0.0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"polyak": 0.0}, r"polyak must be in \(0, 1\], got 0.0"),
        ({"cql_weight": -1.0}, "cql_weight must be at least 0"),
        ({"awac_weight": -1.0}, "awac_weight must be at least 0"),
        ({"beta_train": -1.0}, "beta_train must be at least 0"),
        ({"awac_max_weight": 0.0}, "awac_max_weight must be above 0"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"variant": "utterence"}, "unknown variant 'utterence'.*'utterance'"),
        ({"target": "montecarlo"}, "unknown target 'montecarlo'"),
        ({"beta": "8"}, "beta must be at least 0.*, got '8'"),
        ({"policy_kwargs": {"beta": 3.0}}, r"policy_kwargs\['beta'\] would be overridden: ILQL"),
        ({"policy_kwargs": {"train_policy": True}}, r"policy_kwargs\['train_policy'\] would be"),
        ({"policy_kwargs": {"candidates": 2.5}}, "candidates must be an integer of at least 1"),
        ({"policy_kwargs": {"top_k": 2.5}}, "top_k must be None or an integer above 0, got 2.5"),
    ],
)
def test_arguments_are_checked(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        offline_agent(ILQL, TOY, every_toy_text(), **kwargs)
