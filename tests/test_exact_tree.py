"""Trees of every kind of task against one episode at a time through reset and step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Echo
from models import Share

import text_envs
from text_envs import Example, Replies, Task, Turns, exact
from text_envs.policies.functions import as_log_probs, uniform
from text_envs.tasks.maze import Maze
from text_envs.tasks.numbers import IncreasingNumbers
from text_envs.tasks.toy import Toy
from text_envs.tasks.wordle import Wordle
from text_envs.tokenizers import WordTokenizer


class Parrot(Echo):
    """Echo without chance: the reply is "yes" and the word said, or "yes" alone to "yes"."""

    def reply(self, turns: Turns) -> Replies:
        turns.memory["turns"][turns.rows] += 1
        spoken = turns.tokens[np.arange(len(turns.rows)), turns.start]
        pad = self.tokenizer.pad_id
        tokens = np.stack([np.full(len(spoken), 3), np.where(spoken == 3, pad, spoken)], axis=1)
        done = spoken == 2
        rewards = np.where(done, 0.0, -1.0) * turns.memory["turns"][turns.rows]
        return Replies(tokens, rewards, done, ["bye"] * len(spoken))


class Hidden(Task):
    """Guess a hidden number by "lower" and "higher"; the last prompt gives one away."""

    multi_turn = True
    max_turn_tokens = 1

    def __init__(self, hidden: tuple[int, ...] = (0, 1, 2, 2), max_tokens: int = 5) -> None:
        examples = [Example("", metadata={"hidden": number}) for number in hidden]
        examples.append(Example("1", metadata={"hidden": 1}))
        self.hidden = np.array([*hidden, 1])
        super().__init__(
            examples,
            tokenizer=WordTokenizer(["0", "1", "2", "lower", "higher"]),
            prompt_length=2,
            max_tokens=max_tokens,
        )

    def reply(self, turns: Turns) -> Replies:
        guess = turns.tokens[np.arange(len(turns.rows)), turns.start]
        hidden = self.hidden[turns.example_indices]
        tokens = np.where(guess > hidden, 3, 4)[:, None]
        return Replies(
            tokens, np.where(guess == hidden, 1.0, -0.1), guess == hidden, ["found"] * len(guess)
        )


class Steps:
    """The same quantities by playing: every history of every example through reset and step."""

    def __init__(self, env: Any, policy: Any = None, beta: float = 0.0) -> None:
        self.env, self.policy, self.beta = env, policy, beta
        self.task = env.unwrapped.task
        self.reference = uniform(self.task)
        self.nodes = 0

    def play(self, example: int, actions: tuple[int, ...]) -> tuple[Any, float, bool]:
        observation = self.env.reset(options={"index": example})[0]
        paid, over = 0.0, False
        for action in actions:
            observation, reward, over, _, _ = self.env.step(action)
            paid = float(reward)
        return observation, paid, over

    def value(self, examples: list[int], actions: tuple[int, ...] = ()) -> float:
        """V of the optimum (or of `policy`) where `examples` look the same after `actions`."""
        self.nodes += 1
        observation = self.play(examples[0], actions)[0]
        q = np.zeros(self.task.tokenizer.num_actions)
        for action in range(len(q)):
            groups: dict[bytes, list[int]] = {}
            for example in examples:
                after, paid, over = self.play(example, (*actions, action))
                q[action] += paid / len(examples)
                if not over:
                    groups.setdefault(after.tobytes(), []).append(example)
            for group in groups.values():
                q[action] += len(group) / len(examples) * self.value(group, (*actions, action))
        log_p0 = self.reference(observation[None])[0]
        if self.policy is not None:
            log_p = as_log_probs(self.policy, self.task)(observation[None])[0]
            return float(np.exp(log_p) @ (q - self.beta * (log_p - log_p0)))
        if self.beta > 0:
            return float(self.beta * np.log(np.exp(log_p0 + q / self.beta).sum()))
        return float(q.max())

    def start(self) -> float:
        """V at the start, averaged over the examples."""
        groups: dict[bytes, list[int]] = {}
        for example in range(len(self.task)):
            groups.setdefault(self.play(example, ())[0].tobytes(), []).append(example)
        total = sum(len(group) * self.value(group) for group in groups.values())
        return total / len(self.task)


def hashed_policy(task: Task) -> Any:
    """Return a policy that depends on every column of the observation."""
    columns = task.prompt_length + task.max_tokens
    weights = np.random.default_rng(0).normal(size=(columns, task.tokenizer.num_actions))

    def policy(tokens: Any) -> Any:
        scores = np.sin(tokens @ weights)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    return policy


TASKS = {
    "two-prompts": lambda: Share(max_tokens=2),
    "turns": lambda: Parrot(max_tokens=5),
    "turns-of-two": lambda: Parrot(max_tokens=6, max_turn_tokens=2),
    "hidden": lambda: Hidden(),
}


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("name", list(TASKS))
def test_optimum_by_playing(name: str, beta: float) -> None:
    env = text_envs.TokenEnv(TASKS[name]())
    optimum = exact.solve(env, beta=beta)
    played = Steps(env, beta=beta)
    assert optimum.value == pytest.approx(played.start(), abs=1e-12)
    assert optimum.tree.num_nodes == played.nodes


@pytest.mark.parametrize("name", list(TASKS))
def test_policy_by_playing(name: str) -> None:
    env = text_envs.TokenEnv(TASKS[name]())
    policy = hashed_policy(env.task)
    values = exact.q_of(env, policy, beta=0.3)
    assert values.value == pytest.approx(Steps(env, policy, beta=0.3).start(), abs=1e-12)
    found = exact.evaluate(env, policy, beta=0.3)
    assert found.objective == pytest.approx(values.value, abs=1e-12)
    assert found.mean_return == pytest.approx(Steps(env, policy).start(), abs=1e-12)
    # J(pi) = V* - beta KL(pi || pi*), hidden examples or not
    best = exact.solve(env, beta=0.3).value
    assert found.objective == pytest.approx(best - 0.3 * (found.reverse_kl or 0.0), abs=1e-12)
    assert 0 < (found.tvd or 0.0) < 1


@pytest.mark.parametrize("name", list(TASKS))
def test_sequences_are_distributions(name: str) -> None:
    optimum = exact.solve(TASKS[name](), beta=0.3)
    sequences, tree = optimum.sequences(), optimum.tree
    for log_p in (sequences.log_posterior, sequences.log_reference):
        sums = np.bincount(sequences.starts, weights=np.exp(log_p))
        np.testing.assert_allclose(sums, 1.0, atol=1e-12)
    weight = tree.chances[sequences.starts] * np.exp(sequences.log_posterior)
    found = exact.evaluate(tree, optimum)
    assert weight @ sequences.rewards == pytest.approx(found.mean_return, abs=1e-12)


def test_posterior_of_every_prompt() -> None:
    """Deterministic turns: p*(x|c) = pi0(x|c) exp(r(x) / beta) / Z(c)."""
    optimum = exact.solve(Parrot(max_tokens=6), beta=0.7)
    sequences = optimum.sequences()
    log_z = dict(zip(optimum.tree.starts.tolist(), optimum.log_z.tolist(), strict=True))
    by_rule = sequences.log_reference + sequences.rewards / 0.7
    by_rule -= [log_z[start] for start in sequences.starts.tolist()]
    np.testing.assert_allclose(sequences.log_posterior, by_rule, atol=1e-12)
    assert optimum.value == pytest.approx(0.7 * optimum.log_z.mean(), abs=1e-12)


def test_what_is_hidden_is_not_used() -> None:
    """One guess among three equally likely numbers, and one number that the prompt tells."""
    optimum = exact.solve(Hidden(hidden=(0, 1, 2), max_tokens=1))
    told, guessed = 1.0, (1.0 - 0.1 - 0.1) / 3
    assert optimum.value == pytest.approx((told + 3 * guessed) / 4, abs=1e-12)
    assert optimum.tree.num_nodes == 2
    # with all the room, the middle first: then "lower" or "higher" tells
    best = exact.solve(Hidden(hidden=(0, 1, 2)))
    start = best.tree.observations[best.tree.starts[0]]
    np.testing.assert_array_equal(np.exp(best.policy(start[None]))[0], [0, 1, 0, 0, 0, 0])
    assert best.value == pytest.approx((1.0 + 1.0 + 0.9 + 0.9) / 4, abs=1e-12)
    assert best.v(start) == pytest.approx((1.0 + 0.9 + 0.9) / 3, abs=1e-12)


def test_examples_that_look_the_same_share_a_start() -> None:
    tree = exact.enumerate_tree(Hidden(hidden=(0, 1, 2)))
    assert len(np.unique(tree.starts[:3])) == 1
    assert tree.starts[3] != tree.starts[0]
    np.testing.assert_allclose(tree.chances[tree.starts], [0.75, 0.75, 0.75, 0.25])


def test_closed_form_of_increasing_numbers() -> None:
    task = IncreasingNumbers(numbers=9, max_tokens=4)
    optimum = exact.solve(task, beta=0.2)
    expected = [task.log_partition(index, 0.2) for index in range(len(task))]
    np.testing.assert_allclose(optimum.log_z, expected, atol=1e-12)


@pytest.mark.parametrize("goal", ["fixed", "random"])
def test_shortest_ways_of_a_maze(goal: str) -> None:
    task = Maze(dataset=["G..", ".#.", "..."], max_moves=2, goal=goal)
    optimum = exact.solve(task)
    returns = np.where(task.optimal_returns >= -1, task.optimal_returns, -2)
    np.testing.assert_array_equal(optimum.state_values[optimum.tree.starts], returns)
    assert optimum.value == returns.mean()


def test_a_maze_seen_in_part_is_worth_less() -> None:
    drawing = ["....G...."]
    full = exact.solve(Maze(dataset=drawing, max_moves=2))
    partial = exact.solve(Maze(dataset=drawing, max_moves=2, observability="partial"))
    # Which way the goal lies cannot be seen from between two walls.
    assert full.value > partial.value


class TestSupport:
    """Trees of what one policy writes."""

    words = ("cigar", "rebut", "sissy", "humph")

    def letters(self, task: Wordle) -> Any:
        """Return the policy that spells words of the list, all equally likely."""
        ids = np.array([task.tokenizer.encode(word) for word in self.words])

        def policy(tokens: Any) -> Any:
            p = np.zeros((len(tokens), task.tokenizer.num_actions))
            written = (tokens[:, 1:] != task.tokenizer.pad_id).sum(axis=1)
            for row, count in enumerate(written.tolist()):
                place = count % 11  # a guess of five letters, its end, five marks
                spelt = tokens[row, 1 + count - place : 1 + count]
                if place == 5:
                    p[row, task.tokenizer.eos_id] = 1.0
                    continue
                for word in ids:
                    p[row, word[place]] += (word[:place] == spelt).all()
            with np.errstate(divide="ignore"):
                return np.log(p / p.sum(axis=1, keepdims=True))

        return policy

    def test_wordle(self) -> None:
        task = Wordle(dataset=list(self.words), split="all", tries=2)
        tree = exact.enumerate_tree(task, support=self.letters(task))
        optimum = exact.solve(tree)
        # Every word tells all others apart: one try in four, else two.
        assert optimum.value == pytest.approx(-0.75, abs=1e-12)
        found = exact.evaluate(tree, self.letters(task), beta=0.1)
        assert found.mean_return == pytest.approx(-0.75 - 0.75**2, abs=1e-12)
        assert found.mean_length == pytest.approx(6 * (1 + 0.75), abs=1e-12)
        assert found.kl_reference == pytest.approx(0.0, abs=1e-12)
        values = exact.q_of(tree, self.letters(task))
        assert values.value == pytest.approx(found.mean_return, abs=1e-12)

    def test_support_of_everything_changes_nothing(self) -> None:
        whole = exact.solve(Parrot(max_tokens=5), beta=0.3)
        task = Parrot(max_tokens=5)
        tree = exact.enumerate_tree(task, support=uniform(task))
        assert exact.solve(tree, beta=0.3).value == pytest.approx(whole.value, abs=1e-12)

    def test_other_policies_are_refused(self) -> None:
        task = Toy()
        never_end = np.log([0.5, 0.5, 1e-300]) + [0, 0, -np.inf]
        tree = exact.enumerate_tree(task, support=lambda t: np.tile(never_end, (len(t), 1)))
        assert tree.num_sequences == 8
        assert exact.solve(tree).value == 1.0  # "a b" and something else
        with pytest.raises(ValueError, match="policy uniform may write what is left out"):
            exact.evaluate(tree, uniform(task))
        with pytest.raises(ValueError, match="enumerated already"):
            exact.enumerate_tree(tree, support=uniform(task))


class Riddle(Hidden):
    """Replies of one or of two words, so that two pasts end in the same observation."""

    max_turn_tokens = 2

    def reply(self, turns: Turns) -> Replies:
        hidden = self.hidden[turns.example_indices]
        tokens = np.where(hidden[:, None] == 0, [[3, 4]], [[3, self.tokenizer.pad_id]])
        zeros = np.zeros(len(hidden))
        return Replies(tokens, zeros, zeros > 0, ["over"] * len(hidden))


def test_observations_that_do_not_tell_their_past() -> None:
    values = exact.solve(Riddle(max_tokens=5))
    twice = values.tree.observations
    _, counts = np.unique(twice, axis=0, return_counts=True)
    assert counts.max() == 2
    with pytest.raises(ValueError, match="can come about in two ways"):
        values.v(twice)
    assert exact.evaluate(values.tree, uniform(values.tree.task)).mean_return == 0.0
