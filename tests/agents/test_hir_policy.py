"""Instructions in front of prompts: where they stand, one constant everywhere, predict, saving."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hir_helpers import Table, tiny_t5
from models import Share, tiny_gpt2
from stable_baselines3.common.evaluation import evaluate_policy

import text_envs
from agents import HIR, InstructedPolicy, InstructedSeq2SeqPolicy, policy_kwargs_for
from agents.losses.hindsight import mean_log_probs
from agents.policies.instructed import WORDINGS, InstructedLM, encode_instructions
from agents.rollouts.episodes import collect_episodes
from agents.training.hindsight_scores import scores_by_goal, scores_in_batch
from text_envs.envs.goal import GoalTokenVectorEnv
from text_envs.policies.functions import as_log_probs
from text_envs.tokenizers import HFTokenizer, WordTokenizer

PAD, BOS = 13, 14  # of Share
pytestmark = [pytest.mark.filterwarnings("ignore:.*Box observation space.*")]


def make(kind: Any = InstructedPolicy, instructions: Any = 2, **kwargs: Any) -> tuple[Any, Any]:
    """Return a policy on `Share` (L = 6 + 6, words 0..11, end 12) and its environment."""
    env = text_envs.make_sb3(Share(), num_envs=4, seed=0)
    model = tiny_t5(16) if kind is InstructedSeq2SeqPolicy else tiny_gpt2(16)
    arguments = policy_kwargs_for(env, model, instructions=instructions, **kwargs)
    return kind(env.observation_space, env.action_space, lambda _: 1e-3, **arguments), env


# -- where they stand --------------------------------------------------------------------------


def test_instructions_stand_behind_the_begin_token_and_before_the_prompt() -> None:
    policy, _ = make(instructions=[[7], [8, 9]])
    assert policy.actor.front == 2 and policy.num_goals == 2
    rows = np.full((3, 12), PAD)
    rows[0, 4:7] = [BOS, 1, 2]
    rows[1, 3:6] = [4, 1, 2]  # a tokenizer without a begin token
    longer = policy.actor.put(rows, np.array([0, 1, 1]))
    assert longer.shape == (3, 14)
    assert longer[0].tolist() == [PAD] * 5 + [BOS, 7, 1, 2] + [PAD] * 5
    assert longer[1].tolist() == [PAD] * 3 + [8, 9, 4, 1, 2] + [PAD] * 6
    # An empty prompt gets its begin token first.
    assert longer[2, 5:8].tolist() == [BOS, 8, 9] and (longer[2, 8:] == PAD).all()
    assert (rows[2] == PAD).all()  # the observation is left as it is


def test_learnt_tokens_are_appended_and_never_written() -> None:
    policy, env = make(instructions=3)
    assert policy.arguments["instructions"] == [[16], [17], [18]] and policy.goal == 2
    assert policy.actor.lm.get_input_embeddings().weight.shape[0] == 19
    distribution = policy.get_distribution(torch.from_numpy(env.reset()))
    assert distribution.distribution.probs.shape == (4, 13)


def test_the_shown_instruction_is_one_constant_everywhere(bpe_tokenizer: Any) -> None:
    """Sampling, training and evaluation must not differ in a letter, nor in a space."""
    tokenizer = HFTokenizer(copy.deepcopy(bpe_tokenizer))
    wording = ("answer this wrongly:", "answer this rightly:")
    constants = [tokenizer.encode(text) for text in wording]
    kwargs: dict[str, Any] = {"tokenizer": tokenizer, "objects": 2, "pool": 2, "themes": ["race"],
                              "style": "compact", "num_examples": 8}  # fmt: skip
    env_id = "text_envs/LogicalDeductionThreeGoal-v0"
    env = text_envs.make_sb3(env_id, num_envs=4, seed=0, **kwargs)
    agent = HIR(
        "CausalLMPolicy", env, n_episodes=8, n_epochs=1, batch_size=4, instructions=wording, seed=0,
        policy_kwargs={"model": tiny_gpt2(tokenizer.vocab_size, positions=96)}, device="cpu",
    )  # fmt: skip
    seen: dict[str, list[list[int]]] = {"learn": [], "predict": []}
    phase = "learn"

    def look(_: Any, args: Any, inputs: Any) -> None:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        whole = mask is None or mask.shape[-1] == ids.shape[1]  # nothing goes before, in a cache
        if whole and ids.shape[1] > len(constants[0]):
            seen[phase].extend(ids.tolist())

    agent.policy.actor.lm.transformer.register_forward_pre_hook(look, with_kwargs=True)
    agent.learn(1)
    phase = "predict"
    for goal in ("correct", "wrong"):
        agent.policy.actor.invalidate()  # what a cache knows already is not shown again
        evaluate_policy(agent, text_envs.make_sb3(env_id, num_envs=4, goal=goal, **kwargs), 4)
    texts = [" ".join(map(str, ids)) for ids in constants]
    for rows in seen.values():
        found = [[text in " ".join(map(str, row)) for text in texts] for row in rows]
        assert np.sum(found, axis=1).tolist() == [1] * len(rows)  # each row has one of the two
        assert np.sum(found, axis=0).min() > 0


# -- wording -----------------------------------------------------------------------------------


def test_wording(bpe_tokenizer: Any) -> None:
    hf, words = HFTokenizer(bpe_tokenizer), WordTokenizer(["right", "wrong", "a"])
    assert encode_instructions("auto", words) == 2 == encode_instructions("learnt", hf)
    assert encode_instructions("auto", hf) == [hf.encode(text) for text in WORDINGS]
    assert encode_instructions("auto", hf, 5) == 5  # five levels have no wording by themselves
    assert encode_instructions(["wrong", "right"], words) == [[1], [0]]


@pytest.mark.parametrize(
    ("wording", "message"),
    [
        ("text", "must be 'auto', 'learnt' or 2 texts, worst goal first; got 'text'"),
        (["wrong"], "or 2 texts"),
        (["wrong", "good"], "instruction 'good' has words that .* does not know"),
        (["wrong", ""], "instruction '' has words"),
        (["right", "right"], "must differ from each other"),
    ],
)
def test_bad_wording(wording: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_instructions(wording, WordTokenizer(["right", "wrong"]))


# -- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [InstructedPolicy, InstructedSeq2SeqPolicy])
def test_mean_log_probs_two_ways(kind: Any) -> None:
    """Cached sampling under an instruction, and one pass over repeated rows, for each goal."""
    policy, env = make(kind, instructions=[[7], [8, 9], [10]])
    for goal in range(3):
        policy.goal = goal
        rollout = collect_episodes(policy, env, 8, env.reset()).rollout
        batch = _as_batch(rollout, goal)
        with torch.no_grad():
            scores, entropies = scores_by_goal(policy.actor, batch, 3, with_entropy=True)
            direct, _, entropy = policy.evaluate_episodes(
                rollout.tokens, rollout.columns, rollout.actions, rollout.mask, with_entropy=True
            )
            alone, _ = scores_by_goal(policy.actor, batch, 3, opposite=False)
        wanted = mean_log_probs(rollout.log_probs, rollout.mask)
        torch.testing.assert_close(scores[:, 0], wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            mean_log_probs(direct, rollout.mask), wanted, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(alone, scores[:, :1])
        torch.testing.assert_close(entropies, entropy)
        # The other columns are the same texts as if they had been told another goal.
        policy.goal = (goal + 1) % 3
        with torch.no_grad():
            other, _, _ = policy.evaluate_episodes(
                rollout.tokens, rollout.columns, rollout.actions, rollout.mask
            )
        torch.testing.assert_close(scores[:, 1], mean_log_probs(other, rollout.mask))
        assert not torch.allclose(scores[:, 0], scores[:, 1], atol=1e-3)


def test_scores_in_a_batch_exchange_question_and_instruction() -> None:
    policy, env = make()
    rollout = collect_episodes(policy, env, 4, env.reset()).rollout
    batch = _as_batch(rollout, 0)
    batch.goals[2:] = 1
    with torch.no_grad():
        scores = scores_in_batch(policy.actor, batch, 6)
        own, _ = scores_by_goal(policy.actor, batch, 2, opposite=False)
        torch.testing.assert_close(scores.diagonal(), own[:, 0])
        # Text 1 after question and instruction 3.
        tokens = torch.cat([batch.tokens[3, :6], batch.tokens[1, 6:]])[None]
        mask = batch.mask[1:2]
        policy.goal = 1
        direct, _, _ = policy.evaluate_episodes(
            tokens, batch.columns[1:2], batch.actions[1:2], mask
        )
    assert scores[1, 3].item() == pytest.approx(mean_log_probs(direct, mask).item(), rel=1e-4)


def _as_batch(rollout: Any, goal: int) -> Any:
    from agents.data.history import Relabelled

    goals = torch.full((len(rollout),), goal)
    return Relabelled(rollout.tokens, rollout.columns, rollout.actions, rollout.mask, goals)


# -- predict -----------------------------------------------------------------------------------


@pytest.fixture
def goal_policy() -> Any:
    env = text_envs.make_sb3(GoalTokenVectorEnv(Table(4), num_envs=4), seed=0)
    kwargs = policy_kwargs_for(env, tiny_gpt2(18), instructions=2)
    return InstructedPolicy(env.observation_space, env.action_space, lambda _: 1e-3, **kwargs), env


def test_predict_reads_the_desired_goal(goal_policy: Any) -> None:
    policy, env = goal_policy
    obs = env.reset()
    logits = []
    for goal in (0, 1):
        obs["desired_goal"][:] = goal
        tensors, _ = policy.obs_to_tensor(obs)
        with torch.no_grad():
            logits.append(policy.get_distribution(tensors).distribution.logits)
        policy.goal = goal
        with torch.no_grad():
            plain = policy.get_distribution(tensors["observation"]).distribution.logits
        torch.testing.assert_close(logits[-1], plain)
        assert np.array_equal(policy.predict(obs, deterministic=True)[0], plain.argmax(dim=1))
    assert not torch.allclose(*logits, atol=1e-2)
    obs["desired_goal"][:] = [0, 1, 0, 1]  # rows of their own, from the cache of other goals
    tensors, _ = policy.obs_to_tensor(obs)
    with torch.no_grad():
        mixed = policy.get_distribution(tensors).distribution.logits
    torch.testing.assert_close(mixed[1::2], logits[1][1::2])
    torch.testing.assert_close(mixed[::2], logits[0][::2])
    single = {key: value[1] for key, value in obs.items()}
    assert policy.predict(single, deterministic=True)[0] == mixed[1].argmax()
    values, log_probs, entropy = policy.evaluate_actions(tensors, mixed.argmax(dim=1))
    wanted = mixed.log_softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(log_probs, wanted, rtol=1e-4, atol=1e-4)
    assert values.shape == (4, 1) and (entropy > 0).all() and log_probs.requires_grad


def test_tokens_may_come_alone(goal_policy: Any) -> None:
    """As in the environment without goals, where PPO is evaluated too; `goal` says what for."""
    policy, env = goal_policy
    obs = env.reset()
    task = env.env.task
    for goal in (0, 1):
        obs["desired_goal"][:] = policy.goal = goal
        wanted = policy.predict(obs, deterministic=True)[0]
        tokens = obs["observation"]
        assert np.array_equal(policy.predict(tokens, deterministic=True)[0], wanted)
        assert policy.predict(tokens[0], deterministic=True)[0] == wanted[0]
        scores = as_log_probs(policy, task)(tokens)
        assert np.array_equal(scores.argmax(axis=1), wanted)
    with pytest.raises(
        ValueError, match=r"tokens must have shape \(3,\) or \(n, 3\), got \(4, 2\)"
    ):
        policy.predict(tokens[:, 1:])


def test_goals_outside_the_set(goal_policy: Any) -> None:
    policy, env = goal_policy
    obs = env.reset()
    obs["desired_goal"][2] = 2  # "unfinished", which no text can be asked for
    with pytest.raises(ValueError, match=r"goal 2 of row 2 has no instruction; accepted: 0\.\.1"):
        policy.predict(obs)
    with pytest.raises(ValueError, match=r"goal must be an integer in 0\.\.1, got 2"):
        policy.goal = 2
    for goal in (0.5, "correct"):
        with pytest.raises(ValueError, match=f"goal must be an integer .* got {goal!r}"):
            policy.goal = goal
    with pytest.raises(ValueError, match="unknown goal 7"):
        env.set_options({"goal": 7})
        env.reset()


def test_exact_tools_take_an_instructed_policy() -> None:
    policy, env = make(instructions=[[7], [8]])
    task, obs = Share(), env.reset()
    by_policy = as_log_probs(policy, task)(obs)
    by_actor = as_log_probs(policy.actor, task)
    np.testing.assert_allclose(by_actor(obs), by_policy, atol=1e-5)
    np.testing.assert_allclose(by_actor(obs, np.arange(4)), by_policy, atol=1e-5)


# -- construction, saving ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [InstructedPolicy, InstructedSeq2SeqPolicy])
@pytest.mark.parametrize("instructions", [2, [[7], [8, 9]]])
def test_saves_and_loads(kind: Any, instructions: Any, tmp_path: Path) -> None:
    policy, env = make(kind, instructions)
    policy.goal = 0
    policy.save(tmp_path / "policy")
    again = kind.load(tmp_path / "policy", device="cpu")
    assert again.goal == 0 and again.arguments["instructions"] == policy.actor.instructions
    obs = env.reset()
    for one in (policy, again):
        one.actor.invalidate()
    assert np.array_equal(*(p.predict(obs, deterministic=True)[0] for p in (policy, again)))
    assert again.arguments["instructions"] == policy.arguments["instructions"]


def test_a_dictionary_space_is_saved_too(goal_policy: Any, tmp_path: Path) -> None:
    policy, env = goal_policy
    policy.save(tmp_path / "p.zip")
    again = InstructedPolicy.load(tmp_path / "p.zip")
    assert again.observation_space == env.observation_space
    obs = env.reset()
    assert np.array_equal(*(p.predict(obs, deterministic=True)[0] for p in (policy, again)))


def test_a_given_model_is_copied_only_where_it_grows() -> None:
    lm = tiny_gpt2(16)
    env = text_envs.make_sb3(Share(), num_envs=1)
    for instructions, same in ((2, False), ([[7], [8]], True)):
        kwargs = policy_kwargs_for(env, lm, instructions=instructions)
        policy = InstructedPolicy(env.observation_space, env.action_space, lambda _: 0.0, **kwargs)
        assert (policy.actor.lm is lm) is same and lm.config.vocab_size == 16
    other = policy.actor.like(tiny_gpt2(16, seed=3))
    assert isinstance(other, InstructedLM) and other.instructions == [[7], [8]]


def test_bad_policies_are_explained() -> None:
    env = text_envs.make_sb3(Share(), num_envs=1)
    with pytest.raises(ValueError, match="at least 2 instructions, got 1"):
        make(instructions=1)
    with pytest.raises(ValueError, match=r"ids of the model's 16 tokens.*got \[99\]"):
        make(instructions=[[7], [99]])
    with pytest.raises(ValueError, match="one or more ids"):
        make(instructions=[[7], []])
    with pytest.raises(ValueError, match=r"padding \(13\)"):
        make(instructions=[[7], [13]])
    with pytest.raises(ValueError, match=r"goal must be an integer in 0\.\.1, got 5"):
        make(goal=5)
    short = policy_kwargs_for(env, tiny_gpt2(16, positions=13), instructions=[[1, 2, 3], [4]])
    space, actions = env.observation_space, env.action_space
    with pytest.raises(ValueError, match="has 13 positions, observations have 14"):
        InstructedPolicy(space, actions, lambda _: 0.0, **short)
    fits = policy_kwargs_for(env, tiny_gpt2(16, positions=12), instructions=2)
    InstructedPolicy(space, actions, lambda _: 0.0, **fits)  # the last action is never fed
    nothing = spaces.Dict({"text": space})
    with pytest.raises(ValueError, match="must be a flat Box of ids, got Dict"):
        InstructedPolicy(nothing, actions, lambda _: 0.0, **fits)
