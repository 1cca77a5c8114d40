"""HIR and FARL: what the method claims, on tables; the loop, failures, saving, messages."""

from __future__ import annotations

import inspect
import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hir_helpers import Table, accuracy, rounds, scores_of, table_agent, tiny_t5
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

import text_envs
from agents import BC, FARL, HIR, PPO, InstructedPolicy, SaveEvery, hir
from agents.data.relabelling import UNFINISHED
from agents.rollouts.goals import GoalsAside, Questions
from agents.training.micro_batches import Part
from text_envs import RewardModelError
from text_envs.datasets import collect
from text_envs.envs.goal import GoalTokenEnv, GoalTokenVectorEnv, compute_reward
from text_envs.tasks.reasoning.sorting import WordSorting
from text_envs.tasks.toy import Toy

pytestmark = [pytest.mark.filterwarnings("ignore:.*Box observation space.*")]

THREE = "text_envs/LogicalDeductionThreeGoal-v0"
SMALL = {"objects": 2, "pool": 2, "themes": ["race"], "style": "compact", "num_examples": 24,
         "max_tokens": 1}  # fmt: skip


def small(kind: type[HIR] = HIR, env: Any = None, **kwargs: Any) -> HIR:
    """Return an agent on two questions' worth of positions, with a small GPT-2."""
    env = text_envs.make_sb3(THREE, num_envs=8, seed=0, **SMALL) if env is None else env
    policy_kwargs = {"model": {"layers": 1, "width": 32}, **kwargs.pop("policy_kwargs", {})}
    defaults = {
        "n_episodes": 16, "n_epochs": 2, "batch_size": 8, "seed": 0, "device": "cpu",
        "learning_rate": 3e-3,
    }  # fmt: skip
    return kind("CausalLMPolicy", env, policy_kwargs=policy_kwargs, **defaults | kwargs)


def recorded(agent: Any, name: str) -> float:
    return float(agent.logger.name_to_value[name])


def weights(agent: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()


# -- the claims, on tables ---------------------------------------------------------------------


def test_every_sample_of_the_history_has_reward_1() -> None:
    agent = rounds(table_agent(), 3)
    task: Table = agent.env.get_attr("task")[0]  # type: ignore[union-attr]
    answers = agent.history.tokens[:, 2]
    right = task.gold[agent.history.examples, answers]  # judged anew
    assert len(agent.history) == 600
    assert compute_reward(right.astype(int), agent.history.goals).all()
    assert 0 < recorded(agent, "hindsight/success") < 1
    assert recorded(agent, "hindsight/success") + recorded(agent, "hindsight/relabelled") == 1


def test_without_contrast_failures_teach_nothing_to_a_table() -> None:
    """alpha = 0, whole outputs, nothing shared: HIR takes FARL's steps exactly."""
    ours = table_agent(HIR, contrastive_coef=0.0, ent_coef=0.0, learning_rate=4000.0)
    steps = [scores_of(rounds(ours, 1), 1) for _ in range(4)]
    farl = table_agent(FARL, learning_rate=4000.0)
    for wanted in steps:
        assert np.array_equal(scores_of(rounds(farl, 1), 1), wanted)
    assert steps[-1].max() > 0.9
    assert np.array_equal(ours.history.tokens, farl.history.tokens)  # the same samples
    assert recorded(farl, "hindsight/used") < recorded(ours, "hindsight/used") == 800
    # Of answering wrong it learnt all the same, which FARL never did.
    assert accuracy(ours, goal=0) < 0.05 < accuracy(farl, goal=0)


SHARP: dict[str, Any] = {
    "learning_rate": 500.0, "batch_size": 200, "ent_coef": 0.0, "n_epochs": 4,
}  # fmt: skip
STRIKE_OFF = {**SHARP, "contrastive_coef": 5.0, "label_smoothing": 0.0}


def test_with_contrast_failures_are_not_repeated() -> None:
    """200 questions, 8 answers, one sample a round: search with and without repetition.

    A sampler that forgets its failures has met the right answer with 1 - (7/8)^n after n rounds:
    .41, .66 and .80 after 4, 8 and 12. One that strikes them off needs 8 rounds.
    """
    found = []
    for agent in (table_agent(HIR, **STRIKE_OFF), table_agent(FARL, **SHARP)):
        found.append([accuracy(rounds(agent, count)) for count in (4, 4, 4)])
    (four, eight, twelve), (farl_four, farl_eight, farl_twelve) = found
    assert four > 0.55 > farl_four
    assert eight > 0.93 and farl_eight < 0.75
    assert twelve > 0.99 and farl_twelve < 0.85


def test_the_instruction_wrong_yields_wrong_answers() -> None:
    agent = rounds(table_agent(questions=50, **STRIKE_OFF), 10)
    assert accuracy(agent, goal=1) > 0.9 and accuracy(agent, goal=0) < 0.05
    task: Table = agent.env.get_attr("task")[0]  # type: ignore[union-attr]
    for goal in ("correct", "wrong"):
        env = text_envs.make_sb3(GoalTokenVectorEnv(task, num_envs=50, goal=goal), seed=3)
        paid, _ = evaluate_policy(agent, env, n_eval_episodes=100)
        assert paid > 0.9  # each goal is reached, and what reaches one misses the other


def test_entropy_loss_keeps_answers_different_for_longer() -> None:
    """Four of eight answers are right: nothing but chance says which of them to keep."""
    left = []
    for ent_coef in (0.0, 0.3):
        agent = table_agent(golds=4, ent_coef=ent_coef, learning_rate=400.0, batch_size=800)
        rounds(agent, 8)
        p = scores_of(agent, 1)
        assert accuracy(agent) > 0.9
        left.append(-(p * np.log(p + 1e-12)).sum(axis=1).mean())
    collapsed, kept = left
    assert kept > collapsed + 0.2


def test_farl_without_a_correct_sample_says_so(caplog: Any) -> None:
    task = Table(questions=20)
    task.gold[:] = False  # nobody can answer
    env = text_envs.make_sb3(GoalTokenVectorEnv(task, num_envs=4), seed=0)
    agent = small(FARL, env)
    before = weights(agent)
    with caplog.at_level(logging.WARNING):
        rounds(agent, 2)
    said = [r.message for r in caplog.records if "FARL" in r.message]
    assert len(said) == 1
    assert re.search("of 16 texts .* none is usable: none of these reached", said[0])
    assert torch.equal(weights(agent), before) and agent._n_updates == 0
    ours = rounds(small(HIR, env), 1)
    assert not torch.equal(weights(ours), before)  # of failures alone something can be learnt


# -- the loop ----------------------------------------------------------------------------------


def test_samples_under_the_instruction_correct_every_question_in_turn() -> None:
    agent = table_agent(questions=16, group_size=2, n_episodes=16, n_epochs=1)
    asked = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            infos = self.locals["rollout"].infos
            assert {info["desired_goal"] for info in infos} == {1}
            asked.append([info["example_index"] for info in infos])

    agent.learn(17, callback=Look(), log_interval=None)
    assert len(asked) == 2 and all(row[::2] == row[1::2] for row in asked)  # groups of two
    assert sorted(asked[0][::2] + asked[1][::2]) == list(range(16))


def test_questions_are_all_asked_before_one_comes_again() -> None:
    np.random.seed(0)
    questions = Questions(5)
    dealt = np.concatenate([questions.next(count) for count in (3, 4, 3)])
    assert sorted(dealt[:5]) == sorted(dealt[5:]) == list(range(5))


def test_the_whole_history_is_kept_and_a_uniform_part_of_it_used() -> None:
    agent = rounds(table_agent(questions=20, buffer_limit=30, n_epochs=1), 4)
    assert len(agent.history) == 80 and recorded(agent, "hindsight/used") == 30
    default = rounds(table_agent(questions=20, n_epochs=1), 6)
    assert len(default.history) == 120 and recorded(default, "hindsight/used") == 80  # 4 each


def test_one_forward_pass_a_sequence_and_instruction() -> None:
    agent = small()
    agent.learn(1)
    rows: list[int] = []
    agent.policy.actor.lm.transformer.register_forward_hook(
        lambda _, args, kwargs, out: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    for wanted, changes in ((2, {}), (1, {"contrastive_coef": 0.0}), (9, {"negatives": "batch"})):
        for name, value in {"contrastive_coef": 1.0, "negatives": "opposite", **changes}.items():
            setattr(agent, name, value)
        rows.clear()
        agent._step(agent.history.batch(np.arange(8)), defaultdict(list))
        assert sum(rows) == wanted * 8, changes


def test_the_loss_is_the_sum_of_its_parts() -> None:
    agent = small(label_smoothing=0.2, ent_coef=0.5, contrastive_coef=2.0)
    agent.learn(1)
    batch = agent.history.batch(np.arange(6))
    loss, metrics = agent.loss(Part.of(batch))
    distribution = agent.policy.get_distribution
    with torch.no_grad():
        prompts = batch.tokens.clone()
        prompts[:, agent._task.prompt_length :] = agent._task.tokenizer.pad_id
        logits = [
            distribution({"observation": prompts, "desired_goal": goals}).distribution.logits
            for goals in (batch.goals, 1 - batch.goals)
        ]
    plus, minus = (x.gather(1, batch.actions[:, :1]).squeeze(1) for x in logits)
    c = plus.exp() / (plus.exp() + minus.exp())
    supervised = -plus.mean()
    contrastive = -(0.8 * c.log() + 0.2 * (1 - c).log()).mean()
    entropy = (logits[0].exp() * logits[0]).sum(dim=1).mean()
    wanted = supervised + 2.0 * contrastive + 0.5 * entropy
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert metrics["contrast_accuracy"].item() == pytest.approx((plus > minus).float().mean())


def few_questions(goal: str | None = None) -> Any:
    return text_envs.make_sb3(GoalTokenVectorEnv(Table(6, golds=2), num_envs=8, goal=goal), seed=1)


# Six questions, answered with any of the eight answers, until both goals are reached.
TRIVIAL: dict[str, Any] = {
    "n_episodes": 32, "n_epochs": 4, "batch_size": 16, "buffer_limit": 64, "learning_rate": 1e-2,
    "ent_coef": 0.05,
}  # fmt: skip
OTHER_WORDS = list(range(8, 17))


def test_learns_the_trivial() -> None:
    agent = small(env=few_questions(), policy_kwargs={"forbidden": OTHER_WORDS}, **TRIVIAL)
    rounds(agent, 10)
    for goal in ("correct", "wrong"):
        assert evaluate_policy(agent, few_questions(goal), n_eval_episodes=24)[0] > 0.9, goal


def test_in_batch_contrast_learns_too() -> None:
    agent = rounds(small(negatives="batch", n_epochs=1), 3)
    assert np.isfinite(recorded(agent, "train/contrastive_loss"))
    alone = rounds(small(negatives="batch", batch_size=1, n_epochs=1), 1)  # nobody to compare with
    assert "train/contrastive_loss" not in alone.logger.name_to_value


def test_encoder_decoders_take_the_same_loop(tmp_path: Path) -> None:
    env = few_questions()
    lm = tiny_t5(env.get_attr("tokenizer")[0].vocab_size, factor=1.0, layers=1)
    agent = HIR(
        "Seq2SeqPolicy", env, policy_kwargs={"model": lm, "forbidden": OTHER_WORDS}, seed=0,
        device="cpu", **TRIVIAL,
    )  # fmt: skip
    rounds(agent, 6)
    assert lm.get_input_embeddings().weight.shape[0] == lm.config.vocab_size  # a copy was extended
    for goal in ("correct", "wrong"):
        assert evaluate_policy(agent, few_questions(goal), n_eval_episodes=24)[0] > 0.85, goal
    agent.save(tmp_path / "t5")
    again = HIR.load(tmp_path / "t5", env=env, device="cpu")
    obs = env.reset()
    assert np.array_equal(*(a.predict(obs, deterministic=True)[0] for a in (agent, again)))
    rounds(again, 1)


def test_ranked_goals() -> None:
    """Four levels of Toy's reward, told apart by thresholds: each can be asked for."""
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=32, seed=0)
    agent = HIR(
        "CausalLMPolicy", env, levels=(0.5, 1.0, 1.5), n_episodes=64, group_size=32, n_epochs=6,
        batch_size=32, buffer_limit=256, learning_rate=1e-2, seed=0, device="cpu",
        policy_kwargs={"model": {"layers": 1, "width": 16}},
    )  # fmt: skip
    rounds(agent, 6)
    assert agent.policy.num_goals == 4 and set(agent.history.goals.tolist()) == {0, 1, 2, 3}
    for goal, reward in enumerate((0.0, 0.5, 1.0, 1.5)):
        agent.policy.goal = goal
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=64, deterministic=False, warn=False)
        assert mean == pytest.approx(reward, abs=0.15)


def test_plain_ids_are_judged_by_their_reward() -> None:
    plain = text_envs.make_sb3(THREE.replace("Goal", ""), num_envs=8, seed=0, **SMALL)
    one = small(env=plain, n_epochs=1).learn(64)
    other = small(n_epochs=1).learn(64)
    assert np.array_equal(one.history.goals, other.history.goals)
    torch.testing.assert_close(weights(one), weights(other))


def test_single_environments_and_others_behind_dummyvecenv() -> None:
    env = DummyVecEnv([lambda: GoalTokenEnv(Toy(), threshold=1.0)] * 4)
    agent = rounds(small(env=env, n_epochs=1, n_episodes=8), 2)
    assert len(agent.history) == 16
    single = small(env=gym.make(THREE, **SMALL), n_episodes=4, group_size=1, n_epochs=1)
    assert len(rounds(single, 1).history) == 4


def test_baselines_read_the_same_prompts() -> None:
    """PPO for the final answer and SFT on the same policy class and instructions."""
    env = text_envs.make_sb3(Table(6), num_envs=8)
    start = small(env=few_questions()).policy
    kwargs: dict[str, Any] = {
        "policy_kwargs": {"model": start.actor.lm, "instructions": start.arguments["instructions"]},
        "device": "cpu", "seed": 0,
    }  # fmt: skip
    ppo = PPO(InstructedPolicy, env, n_episodes=8, batch_size=8, **kwargs).learn(16)
    data = collect(text_envs.make_sb3(Table(6), num_envs=8), "expert", 48, seed=0)
    sft = BC("InstructedPolicy", env, dataset=data, learning_rate=1e-2, **kwargs).learn(n_epochs=20)
    assert ppo.policy.goal == sft.policy.goal == 1
    assert evaluate_policy(sft, env, n_eval_episodes=24)[0] > 0.9


# -- parts of an output ------------------------------------------------------------------------


def sorting(**kwargs: Any) -> HIR:
    task = WordSorting(min_words=3, max_words=3, vocabulary=8, style="compact", num_examples=6)
    env = text_envs.make_sb3(GoalTokenVectorEnv(task, num_envs=8), seed=0)
    return small(env=env, n_epochs=1, **kwargs)


def test_parts_are_judged_relabelled_and_learnt_alone() -> None:
    agent = sorting(parts=2, part_judge="suffix")
    rounds(agent, 1)
    history, task = agent.history, agent._task
    whole = history.first == 0
    assert whole.sum() == 16 and (~whole).sum() == 2 * (history.length[whole] > 1).sum()
    assert (history.first < history.length).all()
    for row in np.flatnonzero(~whole):
        gold = [*task.tokenizer.encode(task.example(history.examples[row]).references[0]),
                task.tokenizer.eos_id]  # fmt: skip
        start, stop = task.prompt_length, task.prompt_length + history.length[row]
        written = history.tokens[row, start:stop].tolist()
        first = history.first[row]
        assert history.goals[row] == (written[first:] == gold[first:])
    batch = history.batch(np.flatnonzero(~whole))
    assert not batch.mask[:, 0].any()  # nothing is learnt before a part
    loss, _ = agent.loss(Part.of(batch))
    assert torch.isfinite(loss)


def test_a_judge_of_parts_is_called_once_with_arrays() -> None:
    calls = []

    def judge(episodes: Any, starts: Any) -> Any:
        calls.append((len(episodes), len(starts), episodes.texts))
        return starts % 2

    agent = rounds(sorting(parts=1, part_judge=judge), 1)
    parts = agent.history.first > 0
    assert len(calls) == 1 and calls[0][0] == calls[0][1] == parts.sum()
    assert np.array_equal(agent.history.goals[parts], agent.history.first[parts] % 2)

    class Model:
        """A reward model that can judge a part."""

        def __call__(self, episodes: Any) -> Any:
            return np.zeros(len(episodes))

        def judge_parts(self, episodes: Any, starts: Any) -> Any:
            return np.ones(len(starts))

    env = text_envs.make_sb3(GoalTokenVectorEnv(Toy(), num_envs=8, reward=Model()))
    agent = rounds(small(env=env, parts=1, n_epochs=1), 1)
    assert np.array_equal(agent.history.goals, (agent.history.first > 0).astype(int))
    with pytest.raises(ValueError, match=r"returned shape \(3,\) for"):
        rounds(sorting(parts=1, part_judge=lambda episodes, starts: np.zeros(3)), 1)


def test_parts_have_goals_on_the_scale_of_the_texts() -> None:
    """A right part is at the best of all levels, and a goal environment's own bar counts."""
    task = WordSorting(min_words=3, max_words=3, vocabulary=8, style="compact", num_examples=6)
    levels = {"parts": 4, "part_judge": "suffix", "levels": [-2.0, 0.5, 5.0], "n_epochs": 1}
    agent = rounds(small(env=text_envs.make_sb3(task, num_envs=8, seed=0), **levels), 3)
    parts = agent.history.first > 0
    assert set(agent.history.goals[parts].tolist()) == {0, 3}
    assert set(agent.history.goals[~parts].tolist()) <= {1, 2}

    class Fair:
        """Pays .7 for everything, a part or a whole."""

        def __call__(self, episodes: Any) -> Any:
            return np.full(len(episodes), 0.7)

        def judge_parts(self, episodes: Any, starts: Any) -> Any:
            return np.full(len(starts), 0.7)

    for threshold in (0.5, 0.9):
        envs = GoalTokenVectorEnv(task, num_envs=8, threshold=threshold, reward=Fair())
        agent = rounds(small(env=text_envs.make_sb3(envs), parts=1, n_epochs=1), 1)
        assert set(agent.history.goals.tolist()) == {int(threshold < 0.7)}


# -- failures ----------------------------------------------------------------------------------


def test_a_checker_that_raises_loses_nothing() -> None:
    calls = []

    def flaky(episodes: Any) -> Any:
        calls.append(len(episodes))
        if len(calls) == 3:
            raise OSError("busy")
        return np.ones(len(episodes))

    env = text_envs.make_sb3(THREE, num_envs=8, seed=0, reward=flaky, **SMALL)
    agent = small(env=env, n_episodes=32)
    with pytest.raises(RewardModelError, match="raised OSError: busy") as caught:
        agent.learn(64)
    assert len(caught.value.partial_rollout) == 16 == len(agent.history)  # type: ignore[attr-defined]
    agent.learn(32, reset_num_timesteps=False)
    assert len(agent.history) == 48 and recorded(agent, "train/n_updates") == 2


def test_a_callback_that_stops_loses_nothing() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 2

    agent = small(n_episodes=32).learn(64, callback=Stop())
    assert len(agent.history) == 16 and agent._n_updates == 0


def test_unfinished_texts_are_left_out(caplog: Any) -> None:
    env = text_envs.make_sb3(GoalTokenVectorEnv(Toy(), num_envs=8, max_episode_steps=1))
    agent = rounds(small(env=env, n_epochs=1), 3)
    found = recorded(agent, "hindsight/unfinished")
    assert 0 < found < 1 and (agent.history.goals != UNFINISHED).all()
    assert len(agent.history) < 48 and (agent.history.length == 1).all()
    never = small(env=env, policy_kwargs={"forbidden": [2]})  # no end token, so none ever ends
    with caplog.at_level(logging.WARNING):
        rounds(never, 1)
    assert "HIR has nothing to learn from" in caplog.text and len(never.history) == 0


def test_texts_that_a_wrapper_cuts_are_left_out_too() -> None:
    """The environment knows nothing of such an end, and tells nothing."""
    kwargs = {"min_words": 3, "max_words": 3, "vocabulary": 8, "style": "compact"}
    sorter = "text_envs/WordSortingGoal-v0"
    env = DummyVecEnv([lambda: gym.make(sorter, max_episode_steps=2, **kwargs)] * 4)
    agent = small(env=env, n_episodes=32, n_epochs=1).learn(1)
    assert agent.rollout.truncated.any() and not agent.rollout.truncated.all()  # type: ignore[union-attr]
    assert len(agent.history) == int((~agent.rollout.truncated).sum())  # type: ignore[union-attr]
    assert (agent.history.examples >= 0).all()


def test_levels_may_be_an_array(tmp_path: Path) -> None:
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=0)
    agent = rounds(small(env=env, levels=np.array([0.5, 1.0]), n_epochs=1), 1)
    agent.save(tmp_path / "a")
    assert HIR.load(tmp_path / "a", env=env, device="cpu").levels == [0.5, 1.0]


def test_diverged_training_is_an_error() -> None:
    agent = small()
    agent.learn(1)
    with torch.no_grad():
        agent.policy.actor.lm.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        agent.train()


def test_a_judge_of_parts_that_raises_loses_nothing() -> None:
    calls = []

    def flaky(episodes: Any, starts: Any) -> Any:
        calls.append(len(episodes))
        if len(calls) == 1:
            raise OSError("busy")
        return np.ones(len(starts))

    agent = sorting(parts=1, part_judge=flaky)
    message = "the judge of parts raised OSError: busy, asked about .* are in the history"
    with pytest.raises(RewardModelError, match=message) as caught:
        agent.learn(8)
    assert len(caught.value.episodes) == calls[0] and len(agent.history) == 16
    agent.learn(8, reset_num_timesteps=False)
    assert (agent.history.first == 0).sum() == 32 and agent._n_updates == 1


# -- bookkeeping -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HIR, FARL])
def test_killed_and_resumed_equals_uninterrupted(kind: type[HIR], tmp_path: Path) -> None:
    class Kill(BaseCallback):
        def _on_step(self) -> bool:
            if self.model._n_updates >= 4:
                raise KeyboardInterrupt
            return True

    arguments: dict[str, Any] = {"buffer_limit": 30, "learning_rate": 1e-3}
    whole = small(kind, **arguments).learn(80)
    broken = small(kind, **arguments)
    with pytest.raises(KeyboardInterrupt):
        broken.learn(80, callback=[SaveEvery(tmp_path / "run"), Kill()])
    torch.manual_seed(5), np.random.seed(5)
    env = text_envs.make_sb3(THREE, num_envs=8, **SMALL)
    resumed = kind.load(tmp_path / "run", env=env, device="cpu")
    assert 0 < resumed.num_timesteps < 80 and len(resumed.history) == resumed.num_timesteps
    resumed.learn(80 - resumed.num_timesteps, reset_num_timesteps=False)
    assert torch.equal(weights(whole), weights(resumed))
    for name in ("tokens", "goals", "examples"):
        assert np.array_equal(getattr(whole.history, name), getattr(resumed.history, name))


def test_saving_without_an_environment_keeps_everything(tmp_path: Path) -> None:
    agent = rounds(small(instructions="learnt", levels=None), 1)
    agent.save(tmp_path / "a")
    rounds(agent, 1)
    HIR.load(tmp_path / "a", device="cpu").save(tmp_path / "b")
    env = text_envs.make_sb3(THREE, num_envs=8, **SMALL)
    again = HIR.load(tmp_path / "b", env=env, device="cpu")
    assert np.array_equal(agent.history.tokens[:16], again.history.tokens)
    assert again.n_episodes == 16 and again.contrastive_coef == 1.0
    assert again.policy.arguments["instructions"] == agent.policy.arguments["instructions"]
    rounds(again, 1)
    assert torch.equal(weights(agent), weights(again))


def test_other_environments_bring_their_own_questions() -> None:
    agent = small(n_epochs=1).learn(16)
    fewer = text_envs.make_sb3(THREE, num_envs=8, **{**SMALL, "num_examples": 8})
    agent.set_env(fewer)
    agent.learn(64, reset_num_timesteps=False)
    later = agent.history.examples[16:]
    assert len(agent.history) == 80 and set(later.tolist()) == set(range(8))
    other = text_envs.make_sb3(THREE, num_envs=8, **{**SMALL, "max_tokens": 2})
    with pytest.raises(ValueError, match="history holds texts.*'max_tokens': 1.*'max_tokens': 2"):
        agent.set_env(other)


def test_loaded_alone_it_learns_once_it_has_an_environment(tmp_path: Path) -> None:
    agent = small(n_epochs=1).learn(16)
    agent.save(tmp_path / "a")
    again = HIR.load(tmp_path / "a", device="cpu")
    again.set_env(text_envs.make_sb3(THREE, num_envs=8, seed=0, **SMALL))
    again.learn(16, reset_num_timesteps=False)
    assert len(again.history) == 32 and again._n_updates == 2


def test_a_schedule_stays_at_its_end_where_an_iteration_goes_beyond_the_total() -> None:
    agent = small(n_episodes=64, n_epochs=1, learning_rate=lambda left: 1e-3 * left)
    agent.learn(65)  # two iterations of 64: without a limit, left is -.97
    assert agent.num_timesteps == 128
    assert agent.policy.optimizer.param_groups[0]["lr"] == 0.0


def test_same_seed_same_run() -> None:
    one, other, third = (small(seed=seed).learn(64) for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(third))


def test_card_lists_the_metrics_that_are_logged() -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = small()
    agent.set_logger(Spy(None, []))
    agent.learn(64)
    section = inspect.getdoc(hir).split("**Metrics**")[1].split("**Command**")[0]  # type: ignore[union-attr]
    listed = set(re.findall(r"`((?:hindsight|rollout|train|time)/[\w<>]+)`", section))
    assert logged == {name.replace("<term>", "task") for name in listed}


def test_arguments_are_documented() -> None:
    documented = inspect.getdoc(HIR).split("Args:")[1]  # type: ignore[union-attr]
    for name in inspect.signature(HIR.__init__).parameters:
        if name != "self" and not name.startswith("_"):
            assert f"\n    {name}:" in documented, name


def test_makes_environments_from_ids() -> None:
    agent = HIR("CausalLMPolicy", THREE, device="cpu")
    assert agent.n_envs == 64 and agent.n_episodes == 8000 and agent.batch_size == 64
    assert agent.label_smoothing == 0.2 and agent.group_size == 4 and agent.n_epochs == 10
    assert isinstance(agent.policy.optimizer, torch.optim.AdamW)
    assert FARL("CausalLMPolicy", THREE, device="cpu").contrastive_coef == 0.0
    for count, group, rows in ((16, 4, 16), (100, 4, 20), (256, 4, 64), (96, 3, 48)):
        agent = HIR("CausalLMPolicy", THREE, n_episodes=count, group_size=group, device="cpu")
        assert agent.n_envs == rows and agent.n_episodes == count
    with pytest.raises(ValueError, match="group_size=4.*num_envs and n_episodes must be multiples"):
        HIR("CausalLMPolicy", THREE, n_episodes=10)
    with pytest.raises(ValueError, match="n_episodes must be an integer of at least 1, got 0"):
        HIR("CausalLMPolicy", THREE, n_episodes=0)


def test_goals_aside_looks_like_the_environment_without_goals() -> None:
    venv = GoalsAside(text_envs.make_sb3(THREE, num_envs=4, **SMALL), goal="wrong")
    venv.seed(0)
    tokens = venv.reset()
    assert tokens.shape == (4, *venv.observation_space.shape)  # type: ignore[misc]
    _, rewards, dones, infos = venv.step(np.zeros(4, dtype=int))
    assert dones.all()
    for reward, info in zip(rewards, infos, strict=True):
        assert info["desired_goal"] == 0 and reward == (info["achieved_goal"] == 0)
        assert info["terminal_observation"].shape == tokens.shape[1:]
    with pytest.raises(ValueError, match="no goal-conditioned environment"):
        GoalsAside(text_envs.make_sb3("text_envs/Toy-v0", num_envs=2))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"contrastive_coef": -1.0}, "contrastive_coef must be at least 0.*, got -1.0"),
        ({"ent_coef": -1.0}, "ent_coef must be at least 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"negatives": "all"}, "negatives must be one of opposite, batch, got 'all'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"n_epochs": 0}, "n_epochs must be an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be an integer of at least 1, got 1.5"),
        ({"buffer_limit": 2.5}, "buffer_limit must be None or an integer of at least 1, got 2.5"),
        ({"parts": 0.5}, "parts must be an integer of at least 0, got 0.5"),
        ({"group_size": 3}, "group_size=3 must divide the 8 environments"),
        ({"buffer_limit": 0}, "buffer_limit must be None or an integer of at least 1"),
        ({"parts": -1}, "parts must be an integer of at least 0"),
        ({"parts": 1}, "parts=1 need a checker that can judge a part"),
        ({"parts": 1, "part_judge": "sufix"}, "unknown part_judge 'sufix'. Did you mean 'suffix'"),
        ({"levels": (0.5,)}, "use the id without Goal"),
        ({"instructions": ("no", "yes", "maybe")}, "must be 'auto', 'learnt' or 2 texts"),
        ({"instructions": ("xyzzy", "plugh")}, "has words that .* does not know"),
        ({"policy_kwargs": {"instructions": 3}}, "has 3 instructions, and there are 2 goals"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
    ],
)
def test_bad_arguments_are_explained(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


def test_other_bad_arguments() -> None:
    with pytest.raises(TypeError, match="part_judge must be 'suffix' or a function"):
        small(parts=1, part_judge=3)
    with pytest.raises(ValueError, match="CartPoleEnv has no task|TimeLimit.* has no task"):
        HIR("CausalLMPolicy", gym.make("CartPole-v1"))
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=4)
    with pytest.raises(ValueError, match="ascending finite numbers"):
        small(env=env, levels=(1.0, 0.5))
    turns = text_envs.make_sb3("text_envs/Wordle-v0", num_envs=4)
    with pytest.raises(ValueError, match="negatives='batch' puts.*accepted: 'opposite'"):
        small(env=turns, negatives="batch")
    with pytest.raises(ValueError, match="Wordle has turns"):
        small(env=turns, parts=1, part_judge="suffix")


@pytest.mark.parametrize("policy", ["CausalLMPolicy", "InstructedPolicy"])
def test_algorithms_that_play_for_rewards_refuse_goals(policy: str) -> None:
    """Before anything is played, and not about a dictionary without a shape."""
    env = text_envs.make_sb3(THREE, num_envs=8, **SMALL)
    model = {"layers": 1, "width": 16, "columns": 32}
    with pytest.raises(ValueError, match="PPO plays for rewards.*accepted: the id without Goal"):
        PPO(policy, env, n_episodes=8, policy_kwargs={"model": model})


def test_dialogues_are_judged_by_their_reward() -> None:
    """The instruction stands before the first turn, replies in the text are nobody's to learn."""
    env = text_envs.make_sb3("text_envs/Wordle-v0", num_envs=8, seed=0)
    agent = rounds(small(env=env, n_episodes=8, n_epochs=1, levels=(-5.5, -4.5)), 1)
    history, limit = agent.history, agent._task.max_tokens
    assert len(history) == 8 and (history.length < limit).all()
    batch = history.batch(np.arange(8))
    roles = np.stack([info["roles"] for info in agent.rollout.infos])  # type: ignore[union-attr]
    written = np.sort(history.tokens[roles == int(text_envs.Role.ACTION)])
    assert np.array_equal(np.sort(batch.actions[batch.mask].numpy()), written)
    wanted = np.digitize(agent.rollout.episode_rewards.numpy(), (-5.5, -4.5))  # type: ignore[union-attr]
    assert np.array_equal(history.goals, wanted)
