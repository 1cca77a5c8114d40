"""Calibration from demonstration: what it pays, its targets, and what it does to a learner."""

from __future__ import annotations

import doctest
import json
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from calibration import END, TOY_TEXTS, A, B, Letters, Scores, episodes, table, write
from hypothesis import given, settings
from hypothesis import strategies as st

from text_envs import EpisodeBatch, Example, RewardModelError, Task, TokenEnv, TokenVectorEnv, exact
from text_envs.envs.goal import Goal, GoalTokenEnv
from text_envs.envs.sb3 import make_sb3
from text_envs.episodes.errors import DatasetError
from text_envs.rewards import Calibrated, WeightedSum, calibrated, whiten_components
from text_envs.tasks.toy import Toy
from text_envs.tokenizers import WordTokenizer


def pay(scores: Scores, demonstration: Sequence[int], **kwargs: Any) -> np.ndarray[Any, Any]:
    """Return what `Calibrated` pays for each text of Toy, summed over components."""
    reward = Calibrated(table(scores), {0: list(demonstration)}, **kwargs)
    env = TokenEnv(Toy(), reward=reward)
    return np.array([write(env, text)[0] for text in TOY_TEXTS])


# -- what is paid ----------------------------------------------------------------------------------


def test_the_card_runs() -> None:
    assert doctest.testmod(calibrated).failed == 0


def test_single_and_vector_and_sb3_pay_minus_the_squared_distance_to_the_demonstration() -> None:
    reward = Calibrated("length", {0: "a b"})
    paid, info = write(TokenEnv(Toy(), reward=reward), [B, B, B])
    assert paid == -1.0 and info["reward_terms"] == {"task": -1.0}
    assert info["reward_details"] == {"raw": 3.0, "demo": 2.0, "calibrated": -1.0}

    vector = TokenVectorEnv(Toy(), num_envs=3, reward=reward)
    vector.reset(seed=0)
    for actions in ([END, A, B], [A, B, END]):
        _, rewards, _, _, infos = vector.step(np.array(actions))
    assert rewards.tolist() == [0.0, 0.0, -1.0] and infos["_reward_details"].tolist() == [0, 0, 1]
    *_, infos = vector.step(np.array([A, END, A]))
    assert infos["reward_details"]["calibrated"].tolist() == [0.0, 0.0, 0.0]
    assert infos["reward_details"]["demo"].tolist() == [0.0, 2.0, 0.0]

    venv = make_sb3(Toy(), num_envs=2, reward=reward)
    venv.reset()
    _, rewards, dones, rows = venv.step(np.array([END, A]))
    assert rewards.tolist() == [-4.0, 0.0] and dones.tolist() == [True, False]
    assert rows[0]["reward_details"] == {"raw": 0.0, "demo": 2.0, "calibrated": -4.0}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=15, max_size=15),
    st.integers(0, 14),
    st.floats(-20, 20),
    st.floats(0.1, 10),
)
def test_invariances(numbers: list[float], at: int, shift: float, unit: float) -> None:
    scores = dict(zip(TOY_TEXTS, numbers, strict=True))
    demo = TOY_TEXTS[at]
    paid = pay(scores, demo)
    assert (paid <= 0).all() and paid[at] == 0.0  # the demonstration itself: exactly 0
    expected = [-((score - scores[demo]) ** 2) for score in numbers]
    assert np.allclose(paid, expected, rtol=1e-12, atol=0)
    shifted = pay({text: score + shift for text, score in scores.items()}, demo)
    assert np.allclose(shifted, paid, rtol=1e-9, atol=1e-9)
    stretched = pay({text: score * unit for text, score in scores.items()}, demo)
    assert np.allclose(stretched, unit**2 * paid, rtol=1e-9, atol=1e-9)
    undone = pay({text: score * unit for text, score in scores.items()}, demo, scale=unit)
    assert np.allclose(undone, paid, rtol=1e-9, atol=1e-9)


def test_what_it_pays_on_average() -> None:
    """E[R] = -(E r - E r_d)^2 - Var r - Var r_d, for a policy and a choice of demonstrations."""
    rng = np.random.default_rng(0)
    r = dict(zip(TOY_TEXTS, rng.normal(size=15), strict=True))
    demos = [TOY_TEXTS[i] for i in (3, 7, 12)]
    tree = exact.enumerate_tree(Toy())
    policy = tree.as_policy(np.log(rng.dirichlet(np.ones(3), size=tree.num_nodes)), "random")

    def mean(reward: Any) -> float:
        return exact.evaluate(TokenEnv(Toy(), reward=reward), policy).mean_return

    paid = np.mean([mean(Calibrated(table(r), {0: list(demo)})) for demo in demos])
    first, second = mean(table(r)), mean(table({text: one**2 for text, one in r.items()}))
    r_d = np.array([r[demo] for demo in demos])
    expected = -((first - r_d.mean()) ** 2) - (second - first**2) - r_d.var()
    assert paid == pytest.approx(expected, abs=1e-12)


def test_an_exploit_that_earns_what_the_demonstration_earns_is_not_prevented() -> None:
    """The negative test of the paper: only the reward is matched, never the text."""
    scores: Scores = {text: 0.0 for text in TOY_TEXTS}
    demo, exploit = (A, B, END), (B, B, B)
    scores[demo] = scores[exploit] = 6.0
    paid = dict(zip(TOY_TEXTS, pay(scores, demo), strict=True))
    assert paid[exploit] == paid[demo] == 0.0
    assert all(paid[text] == -36.0 for text in TOY_TEXTS if text not in (demo, exploit))


# -- several demonstrations ------------------------------------------------------------------------


def test_one_of_several_is_drawn_from_the_row_s_generator() -> None:
    def targets(seed: int, num_envs: int) -> list[float]:
        env = TokenVectorEnv(
            Letters(), num_envs=num_envs, reward=Calibrated("length"), autoreset_mode="SAME_STEP"
        )
        env.reset(seed=seed)
        seen = []
        for _ in range(60 // num_envs):
            infos = env.step(np.full(num_envs, 4))[-1]["final_info"]
            seen.append(infos["reward_details"]["demo"])
        return np.stack(seen, axis=1).tolist()

    (alone,) = targets(0, num_envs=1)
    both = targets(0, num_envs=2)
    assert both[0] == alone[:30]  # a row of a batch draws as it would alone
    assert targets(0, num_envs=2) == both and targets(1, num_envs=2) != both
    assert set(alone) == {1.0, 2.0}


def test_sampling_is_even_and_outside_environments_it_has_a_seed() -> None:
    batch = episodes(Letters(), [0] * 400, "p")
    drawn = Calibrated("length", seed=0)(batch).details["demo"]
    assert set(drawn) == {1.0, 2.0} and abs(drawn.mean() - 1.5) < 0.1
    assert np.array_equal(Calibrated("length", seed=0)(batch).details["demo"], drawn)
    assert not np.array_equal(Calibrated("length", seed=1)(batch).details["demo"], drawn)


def test_the_mean_of_several() -> None:
    env = TokenEnv(Letters(), reward=Calibrated("length", choose="mean"))
    paid, info = write(env, [4], index=0)
    assert info["reward_details"]["demo"] == 1.5 and paid == -2.25


@pytest.mark.parametrize(("kwargs", "error", "message"), [
    ({"choose": "first"}, ValueError, "unknown choose 'first'.*'sample'"),
    ({"missing": "skipp"}, ValueError, "Did you mean 'skip'"),
    ({"fallback": 1.0}, ValueError, "missing='fallback'"),
    ({"fallback": np.nan, "missing": "fallback"}, ValueError, "fallback must be finite"),
    ({"scale": 0.0}, ValueError, "scale must be above 0"),
    ({"scale": "var"}, ValueError, "'std', got 'var'"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"demonstrations": "no/such/file.npz"}, DatasetError, "no/such/file.npz"),
    ({"demonstrations": 3}, TypeError, "are a int; accepted: None"),
    ({"demonstrations": {0.5: "a"}}, TypeError, "key 0.5"),
])  # fmt: skip
def test_arguments(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Calibrated("length", **kwargs)


def test_a_name_makes_a_spec_that_can_be_written_down() -> None:
    kwargs = {"reward_model": "length", "demonstrations": {"0": "a b", "": "a b"}, "scale": 2.0}
    env = gym.make("text_envs/Toy-v0", reward="calibrated", reward_kwargs=kwargs)
    assert json.loads(env.spec.to_json())
    assert write(gym.make(env.spec).unwrapped, [END])[0] == -1.0


# -- units -----------------------------------------------------------------------------------------


def test_a_fixed_standard_deviation() -> None:
    reward = Calibrated("length", {0: "a b a b", 1: "b b"}, scale="std")
    env = TokenEnv(Letters(), reward=reward)
    assert write(env, [4], index=0)[0] == -16.0  # lengths 4 and 2: standard deviation 1
    plain = Calibrated("length", {0: "a b a b", 1: ""}, scale="std")
    assert write(TokenEnv(Letters(), reward=plain), [4], index=0)[0] == -4.0
    with pytest.raises(ValueError, match="needs the task.*bind"):
        Calibrated("length", {0: "a", 1: "b b"}, scale="std")(episodes(Letters(), [0], "a"))
    same = Calibrated("length", ["a", "b"], scale="std")
    with pytest.raises(RewardModelError, match=r"all demonstrations earn \[1.0\].*a number"):
        write(TokenEnv(Letters(), reward=same), [4])
    constant = {"length": 3.0, "constant": 0.1}  # one component in which all are the same
    both = Calibrated(constant, {0: "a b a b", 1: "b b"}, scale="std")
    details = write(TokenEnv(Letters(), reward=both), [4], index=0)[1]["reward_details"]
    assert details["calibrated/length"] == -16.0 and details["calibrated/constant"] == 0.0
    assert both._scale is not None and both._scale.tolist() == [3.0, 1.0]
    with pytest.raises(RewardModelError, match="scale has 2 numbers; accepted: one, or 1"):
        write(TokenEnv(Toy(), reward=Calibrated("length", {0: "a"}, scale=[1.0, 2.0])), [END])


# -- several rewards -------------------------------------------------------------------------------


def words_a(batch: EpisodeBatch) -> np.ndarray[Any, Any]:
    """Return the number of words "a"."""
    return (batch.response == A).sum(axis=1).astype(float)


def brevity(batch: EpisodeBatch) -> np.ndarray[Any, Any]:
    """Return minus the number of words."""
    return -batch.lengths.astype(float)


def test_components_are_calibrated_one_by_one_without_weights() -> None:
    env = TokenEnv(Toy(), reward=Calibrated([words_a, brevity], {0: "a b"}))
    paid, info = write(env, [A, A, A])
    assert info["reward_terms"] == {"words_a": -4.0, "brevity": -1.0} and paid == -5.0
    assert info["reward_details"] == {
        "raw/words_a": 3.0, "raw/brevity": -3.0, "demo/words_a": 1.0, "demo/brevity": -2.0,
        "calibrated/words_a": -4.0, "calibrated/brevity": -1.0,
    }  # fmt: skip
    both = WeightedSum({"a": (2.0, words_a), "short": (1.0, brevity)})
    _, info = write(TokenEnv(Toy(), reward=Calibrated(both, {0: "a b"})), [A, A, A])
    assert info["reward_terms"] == {"a": -16.0, "short": -1.0}
    with pytest.raises(ValueError, match="different names"):
        Calibrated(["length", "length"])


def test_two_conflicting_rewards_land_at_the_demonstration_without_a_weight() -> None:
    """Every weighted sum has its optimum at an end; calibration has it where the text is."""

    def lands(parts: dict[str, tuple[float, Any]], calibrate: bool) -> tuple[float, float]:
        """Return the exact means of both rewards under the best policy."""
        reward = Calibrated(WeightedSum(parts), {0: "a b"}) if calibrate else WeightedSum(parts)
        best = exact.solve(TokenEnv(Toy(), reward=reward)).policy
        a, short = (
            exact.evaluate(TokenEnv(Toy(), reward=one), best).mean_return
            for one in (words_a, brevity)
        )
        return a, short

    for unit in (1.0, 100.0):  # whatever the unit of one of them
        parts = {"a": (unit, words_a), "short": (1.0, brevity)}
        assert lands(parts, calibrate=True) == pytest.approx((1.0, -2.0), abs=1e-12)
    for weight in np.linspace(0.05, 0.95, 19):
        parts = {"a": (1 - weight, words_a), "short": (weight, brevity)}
        a, short = lands(parts, calibrate=False)
        assert (a, short) == pytest.approx((3.0, -3.0) if weight < 0.49 else (0.0, 0.0)) or (
            weight == pytest.approx(0.5)  # where they cancel, every text of letters a is as good
        )


def test_near_the_demonstration_with_a_prior() -> None:
    """With a little entropy the mean rewards stay near the demonstration's, at any unit."""
    reward = Calibrated([words_a, brevity], {0: "a b"}, scale=[0.5, 0.5])
    soft = exact.solve(TokenEnv(Toy(), reward=reward), beta=0.5).policy
    found = [
        exact.evaluate(TokenEnv(Toy(), reward=one), soft).mean_return for one in (words_a, brevity)
    ]
    assert found == pytest.approx([1.0, -2.0], abs=0.05)


def test_whitening() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(64, 3)) * [1.0, 30.0, 0.1] + [5.0, -2.0, 0.0]
    white = whiten_components(rewards)
    assert np.allclose(white.mean(axis=0), 0, atol=1e-12) and np.allclose(white.std(axis=0), 1)
    assert np.allclose(whiten_components(rewards * [7.0, 0.5, 3.0] + 1.0), white)
    assert np.allclose(whiten_components(rewards[:, 0]), white[:, 0])
    assert (whiten_components(np.ones((4, 2))) == 0).all() and whiten_components([[3.0]]) == [[0.0]]
    quiet = whiten_components([[0.0], [1e-6]], floor=1e-3)  # std 5e-7: divided by the floor
    assert np.allclose(quiet, [[-5e-4], [5e-4]])
    for wrong in (np.zeros((0, 2)), np.zeros((2, 2, 2)), [[np.nan]]):
        with pytest.raises(ValueError, match="rewards must"):
            whiten_components(wrong)
    with pytest.raises(ValueError, match="floor must be above 0"):
        whiten_components([[1.0]], floor=0.0)


# -- goals -----------------------------------------------------------------------------------------


def test_a_goal_environment_judges_by_the_distance_to_the_demonstration() -> None:
    def goal_env(**kwargs: Any) -> GoalTokenEnv:
        return GoalTokenEnv(Toy(), reward=Calibrated("length", {0: "a b"}), **kwargs)

    env = goal_env(threshold=-0.5, goal="correct")
    for text, achieved in (([A, A, END], Goal.CORRECT), ([A, END], Goal.WRONG)):
        env.reset(seed=0)
        for token in text:
            observation, reward, *_, info = env.step(token)
        assert observation["achieved_goal"] == achieved and info["reward_details"]["demo"] == 2.0
        assert reward == env.compute_reward(achieved, observation["desired_goal"], info)
    with pytest.raises(ValueError, match="threshold=0.5, but .calibrated length. pays at most 0"):
        goal_env()


# -- learning --------------------------------------------------------------------------------------

VALUES = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
EXPLOIT = 7


class Sums(Task):
    """Eight words, texts of eight; each word is worth a number, the exploit the most."""

    reward = staticmethod(lambda batch: VALUES[batch.response].sum(axis=1))

    def __init__(self) -> None:
        words = [*"abcdefg", "exploit"]
        super().__init__(
            [Example("")], tokenizer=WordTokenizer(words), prompt_length=1, max_tokens=8
        )


def reinforce(
    reward: Any = None, beta: float = 0.0, steps: int = 600, rate: float = 0.3
) -> tuple[float, float, float]:
    """Learn one distribution over words; return mean raw reward, its entropy, exploit's share."""
    env = TokenVectorEnv(Sums(), num_envs=128, reward=reward, autoreset_mode="SAME_STEP")
    env.reset(seed=0)
    rng, logits = np.random.default_rng(0), np.zeros(8)
    for _ in range(steps):
        log_p = logits - np.log(np.exp(logits).sum())
        texts = rng.choice(8, size=(128, 8), p=np.exp(log_p))
        for column in texts.T:
            _, rewards, ended, _, _ = env.step(column)
        assert ended.all()
        rewards = rewards - beta * (log_p[texts] - np.log(1 / 8)).sum(axis=1)
        advantage = (rewards - rewards.mean()) / max(rewards.std(), 0.1)  # (B,)
        counts = np.eye(8)[texts].sum(axis=1) - 8 * np.exp(log_p)  # (B, 8) score function
        logits += rate * (advantage[:, None] * counts).mean(axis=0) / 8**0.5
    p = np.exp(logits - np.log(np.exp(logits).sum()))
    return 8 * float(p @ VALUES), -float(p @ np.log(p)), float(p[EXPLOIT])


def test_reinforce_exploits_a_raw_reward_and_not_a_calibrated_one() -> None:
    """As in the paper's argument: unbounded RL, a KL that needs tuning, RCfD that does not."""
    raw, entropy, share = reinforce()
    assert raw > 15.8 and entropy < 0.1 and share > 0.98
    kept = np.exp(VALUES / 2) / np.exp(VALUES / 2).sum()  # the optimum at beta = 2
    raw, entropy, share = reinforce(beta=2.0)
    assert raw == pytest.approx(8 * kept @ VALUES, abs=0.5) and 1.5 < entropy < 2.08
    assert share == pytest.approx(kept[EXPLOIT], abs=0.05) and share > 0.15
    raw, entropy, share = reinforce(Calibrated(Sums.reward, {0: "d d d d d d d d"}))  # earns 6
    assert raw == pytest.approx(6.0, abs=0.15) and share < 0.02
    demos = ["a a a a d d d d", "d d d d g g g g"]  # earn 3 and 9
    raw, _, share = reinforce(Calibrated(Sums.reward, {0: demos}))
    assert raw == pytest.approx(6.0, abs=0.3) and share < 0.05
