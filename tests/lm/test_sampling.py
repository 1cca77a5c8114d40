"""Settings of how tokens are drawn: those of transformers, and one distribution for all uses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from models import iid_lm, tiny_gpt2, tiny_llama
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import agents
import text_envs
from agents import CausalLMPolicy
from agents.rollouts.episodes import collect_episodes, score
from agents.rollouts.evaluation import evaluate_texts
from text_envs.exact import evaluate
from text_envs.guides import as_guide, complete
from text_envs.lm.choosing import sampling_as
from text_envs.lm.sampling import (
    Sampling,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    truncate,
    written_in,
)
from text_envs.tasks.toy import Toy

WORDS, PAD, COLUMNS = 17, 18, 12
TOY = "text_envs/Toy-v0"
EVERYTHING = {
    "temperature": 0.7, "top_k": 9, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.4,
    "min_tokens": 3,
}  # fmt: skip
ONE_EACH = [{name: value} for name, value in EVERYTHING.items()]


def logits_with_ties(words: int, rows: int = 40) -> Tensor:
    """Return scores of which every second row has few different values."""
    torch.manual_seed(words)
    scores = 3 * torch.randn(rows, words)
    scores[::2] = scores[::2].round()
    scores[:, 0] = -torch.inf
    return scores


@pytest.mark.parametrize("words", [7, 300, 3000])
def test_truncation_is_that_of_transformers(words: int) -> None:
    scores = logits_with_ties(words)
    ids = torch.zeros(len(scores), 1, dtype=torch.long)
    for top_k in (1, 3, 50, words + 1):
        assert torch.equal(keep_top_k(scores, top_k), TopKLogitsWarper(top_k)(ids, scores))
    for top_p in (1e-6, 0.3, 0.9, 0.999, 1.0):
        wanted = TopPLogitsWarper(top_p)(ids, scores) if top_p < 1 else scores
        assert torch.equal(keep_top_p(scores, top_p), wanted), top_p
    for min_p in (0.0, 0.02, 0.5, 1.0):
        found, wanted = keep_min_p(scores, min_p), MinPLogitsWarper(min_p)(ids, scores)
        best = scores == scores.amax(dim=1, keepdim=True)
        assert torch.equal(found.masked_fill(best, 0), wanted.masked_fill(best, 0)), min_p
        assert found[best].isfinite().all()
    both = TopPLogitsWarper(0.9)(ids, TopKLogitsWarper(20)(ids, scores))
    both = MinPLogitsWarper(0.05)(ids, both)
    assert torch.equal(truncate(scores, Sampling(top_k=20, top_p=0.9, min_p=0.05)), both)


def test_truncation_by_hand() -> None:
    """The sets that are kept, of probabilities .5, .3, .15, .05."""
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for settings, kept in (
        ({}, 4), ({"top_k": 1}, 1), ({"top_k": 3}, 3), ({"top_p": 0.4}, 1), ({"top_p": 0.6}, 2),
        ({"top_p": 0.99}, 4), ({"top_k": 3, "top_p": 0.8}, 2), ({"min_p": 0.2}, 3),
        ({"min_p": 0.7}, 1),
    ):  # fmt: skip
        assert int(truncate(logits, Sampling(**settings)).isfinite().sum()) == kept, settings


def test_the_penalty_is_that_of_transformers() -> None:
    scores = logits_with_ties(30)
    ids = torch.randint(0, 30, (len(scores), 9))
    wanted = RepetitionPenaltyLogitsProcessor(1.7)(ids, scores.clone())
    assert torch.equal(penalise(scores, written_in(ids, 30), 1.7), wanted)
    assert not written_in(torch.tensor([[-1, 30, 99]]), 30).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k must be None or an integer above 0, got 0"),
        ({"top_k": 2.5}, "top_k must be None or an integer above 0, got 2.5"),
        ({"top_p": 0.0}, r"top_p must be None or in \(0, 1\], got 0\.0"),
        ({"top_p": "x"}, r"top_p must be None or in \(0, 1\], got 'x'"),
        ({"min_p": 1.1}, r"min_p must be None or in \[0, 1\], got 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
        ({"repetition_penalty": None}, "repetition_penalty must be above 0, got None"),
        ({"min_tokens": -1}, "min_tokens must be an integer of at least 0, got -1"),
        ({"min_tokens": True}, "min_tokens must be an integer of at least 0, got True"),
        ({"temperature": float("nan")}, "temperature must be above 0, got nan"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
    with pytest.raises(ValueError, match=message):
        make_policy(tiny_gpt2(20), **settings)
    policy = make_policy(tiny_gpt2(20), top_k=5)
    for name, value in settings.items():
        with pytest.raises(ValueError, match=message):
            setattr(policy, name, value)
    assert policy.actor.sampling == Sampling(top_k=5)


# -- one distribution ---------------------------------------------------------------------------


def make_policy(lm: Any, **kwargs: Any) -> CausalLMPolicy:
    given: dict[str, Any] = {
        "model": lm, "pad_id": PAD, "bos_id": 19, "eos_id": 16, "prompt_length": 4,
    }  # fmt: skip
    return CausalLMPolicy(
        spaces.Box(0, 19, (COLUMNS,), np.int64), spaces.Discrete(WORDS), lambda _: 1e-3,
        **(given | kwargs),
    )  # fmt: skip


def observations(n: int = 6, length: int = 7) -> Tensor:
    rng = np.random.default_rng(0)
    tokens = np.full((n, COLUMNS), PAD, dtype=np.int64)
    for row in range(n):
        tokens[row, row % 3 : length] = rng.integers(0, 16, length - row % 3)
    return torch.from_numpy(tokens)


def by_transformers(lm: Any, obs: Tensor, settings: dict[str, Any]) -> Tensor:
    """Return log-probabilities `(n, A)` of the next token as `generate` computes them."""
    rows = []
    for row in obs:
        ids = row[row != PAD][None]
        prompt = int((row[:4] != PAD).sum())
        scores = lm(input_ids=ids).logits[:, -1, :WORDS].float()
        given = {**{"repetition_penalty": 1.0, "temperature": 1.0}, **settings}
        chain: list[Any] = [RepetitionPenaltyLogitsProcessor(float(given["repetition_penalty"]))]
        if "min_tokens" in settings:
            chain.append(
                MinNewTokensLengthLogitsProcessor(prompt, settings["min_tokens"], [16], "cpu")
            )
        chain.append(TemperatureLogitsWarper(given["temperature"]))
        for name, kind in (
            ("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper),
        ):  # fmt: skip
            if name in settings:
                chain.append(kind(settings[name]))
        for step in chain:
            scores = step(ids, scores)
        rows.append(scores.log_softmax(dim=-1))
    return torch.cat(rows)


@pytest.mark.parametrize("settings", [*ONE_EACH, EVERYTHING], ids=lambda s: "-".join(s))
@pytest.mark.parametrize("family", [tiny_gpt2, tiny_llama])
def test_all_ways_of_scoring_agree_with_transformers(settings: dict[str, Any], family: Any) -> None:
    lm = family(20)
    policy, obs = make_policy(lm, **settings), observations()
    obs[1::2, 6] = PAD  # two and three tokens behind the prompt: before and at min_tokens
    with torch.no_grad():
        wanted = by_transformers(lm, obs, settings)
        torch.manual_seed(0)
        actions, _, log_probs = policy(obs)
        cached = policy.get_distribution(obs).distribution.logits
    rows, close = torch.arange(len(obs)), {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(cached, wanted, **close)
    torch.testing.assert_close(log_probs, wanted[rows, actions], **close)
    _, scored, entropies = policy.evaluate_actions(obs, actions)
    torch.testing.assert_close(scored, wanted[rows, actions], **close)
    finite = wanted.masked_fill(wanted.isneginf(), 0)
    torch.testing.assert_close(entropies, -(wanted.exp() * finite).sum(dim=1), **close)
    last = (obs != PAD).int().cumsum(dim=1).argmax(dim=1)[:, None]
    one = torch.ones_like(last, dtype=torch.bool)
    episode = policy.evaluate_episodes(obs, last, actions[:, None], one, with_entropy=True)
    torch.testing.assert_close(episode[0][:, 0], scored, **close)
    torch.testing.assert_close(episode[2][:, 0], entropies, **close)
    greedy, _ = policy.predict(obs.numpy(), deterministic=True)
    np.testing.assert_array_equal(greedy, wanted.argmax(dim=1).numpy())
    drawn = policy.act(np.repeat(obs.numpy(), 80, axis=0), np.arange(80 * len(obs)))
    assert (
        wanted.repeat_interleave(80, dim=0)[torch.arange(len(drawn[0])), drawn[0]].isfinite().all()
    )


@pytest.mark.parametrize("settings", [{"top_p": 0.6}, EVERYTHING], ids=["top_p", "everything"])
def test_one_pass_scores_every_step(settings: dict[str, Any]) -> None:
    """Scores, entropies and gradients of whole episodes are those of their prefixes, in chunks."""
    policy = make_policy(tiny_gpt2(20), **settings)
    tokens = observations(4, COLUMNS)
    columns = torch.arange(3, COLUMNS - 1).expand(4, -1)
    mask = torch.ones_like(columns, dtype=torch.bool)
    mask[1, 5:] = mask[2, 3:] = False
    actions = tokens.gather(1, columns + 1)
    policy.actor.lm.requires_grad_(True)

    def gradient(scores: Tensor, entropies: Tensor) -> Tensor:
        policy.zero_grad()
        (scores.sum() + 0.3 * entropies.sum()).backward()
        return policy.actor.lm.transformer.h[0].mlp.c_fc.weight.grad.clone()

    log_probs, _, entropies = policy.evaluate_episodes(
        tokens, columns, actions, mask, with_entropy=True
    )
    assert entropies is not None and log_probs.isfinite().all()
    whole = gradient(log_probs, entropies)
    single, spread = torch.zeros_like(log_probs), torch.zeros_like(log_probs)
    for row, t in mask.nonzero().tolist():
        seen = tokens[row].clone()
        seen[columns[row, t] + 1 :] = PAD
        _, one, h = policy.evaluate_actions(seen[None], actions[row, t][None])
        single[row, t], spread[row, t] = one[0], h[0]
    torch.testing.assert_close(single, log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(spread, entropies, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(single, spread), whole, rtol=1e-3, atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, tokens = make_policy(tiny_gpt2(20), **EVERYTHING), observations(60, COLUMNS)
    columns = torch.arange(3, COLUMNS - 1).expand(60, -1)
    mask = torch.rand(columns.shape) < 0.7
    arguments = (tokens, columns, tokens.gather(1, columns + 1), mask)
    whole = policy.evaluate_episodes(*arguments)[0]
    monkeypatch.setattr("text_envs.lm.choosing._CHUNK_SCORES", 1)
    torch.testing.assert_close(policy.evaluate_episodes(*arguments)[0], whole)


def test_what_is_left_out_now_is_scored_as_if_it_were_kept() -> None:
    """log p_a / (mass kept + p_a): finite, and what it is on the border of the kept set."""
    policy = make_policy(tiny_gpt2(20), top_k=3)
    obs = observations(1)
    p = make_policy(tiny_gpt2(20)).get_distribution(obs).distribution.probs[0].detach()
    order = p.argsort(descending=True)
    kept = p[order[:3]].sum()
    for rank, wanted in ((0, p[order[0]] / kept), (9, p[order[9]] / (kept + p[order[9]]))):
        _, found, _ = policy.evaluate_actions(obs, order[rank : rank + 1])
        assert found.item() == pytest.approx(math.log(wanted), abs=1e-4)
    found.sum().backward()
    assert all(q.grad.isfinite().all() for q in policy.actor.lm.parameters() if q.grad is not None)


def test_states_without_their_texts_are_refused() -> None:
    actor = make_policy(tiny_gpt2(20), repetition_penalty=1.2).actor
    with pytest.raises(ValueError, match="depends on the text so far; pass seen=actor.seen"):
        actor.sampling_logits(torch.zeros(2, actor.hidden_size))
    with pytest.raises(ValueError, match=r"min_tokens=2 needs the end .* eos_ids=\(\)"):
        make_policy(tiny_gpt2(20), eos_id=None, min_tokens=2)
    with pytest.raises(ValueError, match=r"eos_ids must be actions 0..16, got \[16, 17\]"):
        make_policy(tiny_gpt2(20), eos_ids=[17])


def test_without_settings_the_quick_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same numbers as the model's own, and none of the further code runs."""
    policy, obs = make_policy(tiny_gpt2(20), temperature=0.8), observations()
    for name in ("truncate", "penalise", "written_in", "checkpoint"):
        monkeypatch.delattr(f"text_envs.lm.choosing.{name}")
    hidden = policy._encode_last(obs)
    actor = policy.actor
    assert actor.seen(obs) is None
    assert torch.equal(actor.sampling_logits(hidden), actor.logits(hidden))
    policy.act(obs.numpy(), np.arange(6))
    policy.evaluate_actions(obs, torch.zeros(6, dtype=torch.long))


# -- in training --------------------------------------------------------------------------------


def make_agent(cls: Any = None, env: Any = TOY, **kwargs: Any) -> Any:
    settings = kwargs.pop("settings", {})
    given = {"n_episodes": 64, "num_envs": 16, "seed": 0, "device": "cpu"} | kwargs
    model = given.pop("model", iid_lm((0.5, 0.3, 0.2)))
    return (cls or agents.PPO)(
        "CausalLMPolicy", env, policy_kwargs={"model": model, **settings}, **given
    )


@pytest.mark.parametrize(
    "settings", [{"top_k": 2}, {"top_p": 0.7}, {"repetition_penalty": 2.0, "min_tokens": 2}]
)
def test_equal_weights_have_no_kl(settings: dict[str, Any]) -> None:
    agent = make_agent(kl_coef=0.1, settings=settings)
    rollout = collect_episodes(agent.policy, agent.env, 64, agent.env.reset()).rollout
    torch.testing.assert_close(score(agent.reference, rollout), rollout.log_probs)
    agent.policy.top_k = None
    agent.policy.top_p = 0.9
    assert agent.reference.sampling == agent.policy.actor.sampling
    agent.learn(400)
    assert agent.logger.name_to_value["rollout/kl_ref"] < 5


def exact_kl(policy: Any, reference: Any) -> tuple[float, float]:
    """Return the KL of whole texts by enumeration, to a reference as it scores and to all of it."""
    found = whole = 0.0
    task = Toy()
    start = task.prompts(np.zeros(1, dtype=np.int64))[0]

    def walk(tokens: Any, log_q: float, log_p: float, log_w: float, depth: int) -> None:
        nonlocal found, whole
        obs = torch.from_numpy(tokens[None].copy())
        q = policy.get_distribution(obs).distribution.logits[0].log_softmax(-1)
        for a in range(3):
            if q[a].isneginf():
                continue
            one = torch.tensor([a])
            hidden, seen = policy._last_hidden(obs), reference.seen(obs)
            hidden = reference.decode(tokens[None])[0]
            p = reference.sampling_log_probs(hidden, one, seen)[0].item()
            w = reference.log_probs(hidden, one)[0].item()
            sums = (log_q + q[a].item(), log_p + p, log_w + w)
            longer = tokens.copy()
            longer[len(start) + depth] = a
            if a == task.tokenizer.eos_id or depth + 1 == task.max_tokens:
                found += math.exp(sums[0]) * (sums[0] - sums[1])
                whole += math.exp(sums[0]) * (sums[0] - sums[2])
            else:
                walk(longer, *sums, depth + 1)

    row = np.full(len(start) + task.max_tokens, task.tokenizer.pad_id, dtype=np.int64)
    row[: len(start)] = start
    with torch.no_grad():
        walk(row, 0.0, 0.0, 0.0, 0)
    return found, whole


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_kl_that_is_logged_is_the_one_of_whole_texts(top_k: int | None) -> None:
    """Sampled with top-2 and scored alike: no wrong KL, and within -log(mass) of the whole one."""
    agent = make_agent(kl_coef=0.1, n_episodes=4096, num_envs=512, settings={"top_k": top_k})
    with torch.no_grad():  # another policy than the reference: the two keep other tokens
        head = agent.policy.actor.lm.get_output_embeddings().weight
        head.add_(0.5 * torch.randn(head.shape, generator=torch.Generator().manual_seed(4)))
    rollout = collect_episodes(agent.policy, agent.env, 4096, agent.env.reset()).rollout
    ratios = (rollout.log_probs - score(agent.reference, rollout)).sum(dim=1)
    exact, whole = exact_kl(agent.policy, agent.reference)
    error = 4 * ratios.std().item() / math.sqrt(len(ratios))
    assert exact != pytest.approx(0, abs=0.01)
    assert ratios.mean().item() == pytest.approx(exact, abs=error)
    assert exact <= whole + 1e-6
    assert exact == pytest.approx(whole, abs=1e-5) if top_k is None else exact < whole
    if top_k is not None:  # at most 3 tokens, of each of which .8 is kept
        assert whole - exact <= -3 * math.log(0.8) + 1e-5


def test_ppo_goes_on_where_updates_move_the_kept_set() -> None:
    agent = make_agent(
        model=tiny_gpt2(6), n_epochs=4, learning_rate=0.1, kl_coef=0.05, ent_coef=0.01,
        settings={"top_k": 1 + 1, "min_tokens": 1},
    )  # fmt: skip
    agent.learn(1500)
    values = agent.logger.name_to_value
    assert all(np.isfinite(v) for v in values.values() if isinstance(v, float))
    assert (agent.rollout.lengths >= 2).all()


def test_dpg_refuses_what_breaks_its_support() -> None:
    """q must be above 0 wherever P is: with top-2 of the reference, Z is 2.05 and not 3.89."""
    p0 = (0.5, 0.3, 0.2)
    texts = [t for t in all_texts() if 2 not in t[:-1]]
    pays = {
        t: math.exp((float("01" in "".join(map(str, t))) + 0.5 * (t[-1] == 2)) / 0.5) for t in texts
    }
    likely = {t: math.prod(p0[a] for a in t) for t in texts}
    assert sum(likely[t] * pays[t] for t in texts) == pytest.approx(3.892913, abs=1e-6)
    assert sum(likely[t] * pays[t] for t in texts if 2 not in t) == pytest.approx(2.045, abs=1e-3)
    for name, value in (("top_k", 2), ("top_p", 0.8), ("min_p", 0.5)):
        with pytest.raises(ValueError, match=rf"q > 0 wherever P > 0.*{name}={value}.* leaves"):
            make_agent(agents.DPG, beta=0.5, settings={name: value})
        agent = make_agent(agents.DPG, beta=0.5)
        setattr(agent.policy, name, value)
        with pytest.raises(ValueError, match="Accepted: temperature, repetition_penalty"):
            agent.learn(64)


def all_texts() -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    going: list[tuple[int, ...]] = [()]
    while going:
        text = going.pop()
        for a in range(3):
            longer = (*text, a)
            (found if a == 2 or len(longer) == 3 else going).append(longer)
    return found


@pytest.mark.parametrize("proposal", ["policy", "reference"])
def test_dpg_takes_a_penalty_and_a_least_length(proposal: str) -> None:
    """Target, proposal and policy have the same settings: at beta = inf they are the same."""
    agent = make_agent(
        agents.DPG, beta=1e6, proposal=proposal, learning_rate=0.0,
        settings={"repetition_penalty": 1.5, "min_tokens": 2},
    )  # fmt: skip
    agent.learn(64)
    logged = agent.logger.name_to_value
    for name in ("target/kl_p_pi", "target/kl_p_q", "target/tvd", "target/log_z"):
        assert abs(logged.get(name, 0.0)) < 1e-4, name
    assert (agent.rollout.lengths >= 3).all() or (agent.rollout.actions[:, :2] != 2).all()


def test_exact_values_of_a_policy_with_settings() -> None:
    """`text_envs.exact` reads the same distribution: mass 1, and nothing on forbidden texts."""
    agent = make_agent(settings={"top_k": 2, "min_tokens": 2, "repetition_penalty": 1.3})
    found = evaluate(TOY, agent.policy)
    agent.env.seed(3)
    rollout = collect_episodes(agent.policy, agent.env, 2048, agent.env.reset()).rollout
    rewards = rollout.episode_rewards
    error = 4 * rewards.std().item() / math.sqrt(len(rewards))
    assert rewards.mean().item() == pytest.approx(found.mean_return, abs=error)


# -- elsewhere ----------------------------------------------------------------------------------


def test_settings_are_saved_loaded_and_copied(tmp_path: Path) -> None:
    agent = make_agent(kl_coef=0.1, settings={"top_k": 2, "min_tokens": 1})
    agent.policy.repetition_penalty = 1.25
    agent.policy.top_p = 0.95
    wanted = Sampling(top_k=2, top_p=0.95, repetition_penalty=1.25, min_tokens=1)
    agent.save(tmp_path / "agent")
    agent.policy.save(tmp_path / "policy")
    for again in (
        type(agent).load(tmp_path / "agent", device="cpu").policy,
        CausalLMPolicy.load(tmp_path / "policy", device="cpu"),
        copy.deepcopy(agent).policy,
        copy.deepcopy(agent.policy),
    ):
        assert again.actor.sampling == wanted
        assert again.actor.eos_ids == (2,)
    with pytest.raises(AttributeError, match="top_k is the policy's; accepted: agent.policy.top_k"):
        agent.top_k = 3


def test_evaluation_with_other_settings() -> None:
    agent = make_agent(kl_coef=0.1)
    found = evaluate_texts(
        agent.policy, agent.env, 64, reference=agent.reference, top_k=1, min_tokens=1
    )
    assert set(found.texts) == {"a a a"} and np.abs(found.kl).max() < 1e-5
    assert agent.policy.actor.sampling == agent._reference.sampling == Sampling()
    with pytest.raises(TypeError, match="topk"), sampling_as(agent.policy, topk=3):
        pass


def test_guides_draw_with_the_same_settings() -> None:
    env = Toy()
    vector = text_envs.TokenVectorEnv(env, num_envs=200)
    vector.reset(seed=0)
    lm = iid_lm((0.5, 0.3, 0.2))
    for settings, banned in (({"top_k": 1}, {1, 2}), ({"min_p": 0.5}, {2}), ({"top_p": 0.6}, {2})):
        done = complete(vector, vector.get_state(), lm, seed=0, guide_kwargs=settings)
        assert not banned & set(done.tokens[:, 1:].flatten().tolist())
    done = complete(vector, vector.get_state(), lm, seed=0, guide_kwargs={"min_tokens": 2})
    assert (done.tokens[:, 1:3] != 2).all() and (done.tokens[:, 3] == 2).any()
    with pytest.raises(ValueError, match="top_k must be None or an integer above 0"):
        as_guide(lm, env, top_k=0)
    with pytest.raises(ValueError, match="decides itself how it writes.*'min_p': 0.1"):
        as_guide("script:expert", env, min_p=0.1)
