"""Start states written by a guide: their distribution, what stays the same, failures."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo
from hypothesis import given, settings
from hypothesis import strategies as st

import text_envs
import text_envs.guides.roll_in
from text_envs import Role, TokenEnv, TokenVectorEnv, exact
from text_envs.episodes.errors import GuideError
from text_envs.guides import Query, as_guide
from text_envs.guides.roll_in import GuidedStarts
from text_envs.policies.functions import as_log_probs
from text_envs.tasks.toy import Toy

A, B, EOS = 0, 1, 2  # Toy's tokens
SAY, HELLO, BYE, YES, END = 0, 1, 2, 3, 4  # Echo's tokens
GUIDE = {A: 0.3, B: 0.4, EOS: 0.3}


def iid(task: Any, probabilities: Sequence[float]) -> Any:
    """Return the policy that writes independent tokens."""
    row = np.log(np.array(probabilities))
    return as_log_probs(lambda tokens: np.broadcast_to(row, (len(tokens), len(row))), task)


def test_the_card() -> None:
    assert doctest.testmod(text_envs.guides.roll_in).failed == 0


# -- the distribution of starts ------------------------------------------------------------------


def starts_of(mixing: float) -> dict[tuple[int, ...], float]:
    """Return the start distribution of Toy by its definition, every text of the guide counted."""
    starts = {(): 1 - mixing}
    for y in itertools.chain.from_iterable(itertools.product(GUIDE, repeat=n) for n in (1, 2, 3)):
        if EOS in y[:-1] or (len(y) < 3 and y[-1] != EOS):
            continue  # goes on after its end, or has not ended
        p = mixing * np.prod([GUIDE[token] for token in y])
        lengths = range(1, len(y)) if len(y) >= 2 else [0]
        for h in lengths:
            starts[y[:h]] = starts.get(y[:h], 0.0) + p / len(lengths)
    return starts


@pytest.mark.parametrize("mixing", [0.0, 0.35, 1.0])
def test_start_states_have_the_distribution_of_the_definition(mixing: float) -> None:
    task = Toy()
    n = 4000
    env = TokenVectorEnv(task, num_envs=n, starts=GuidedStarts(iid(task, [0.3, 0.4, 0.3]), mixing))
    observations, infos = env.reset(seed=0)
    counts: dict[tuple[int, ...], int] = {}
    for row, length in zip(observations, infos["prefix_length"].tolist(), strict=True):
        prefix = tuple(row[1 : 1 + length].tolist())
        counts[prefix] = counts.get(prefix, 0) + 1
    expected = starts_of(mixing)
    assert sum(expected.values()) == pytest.approx(1.0)
    assert set(counts) <= {start for start, p in expected.items() if p > 0}
    for start, p in expected.items():
        assert abs(counts.get(start, 0) - n * p) <= 4.5 * np.sqrt(n * p * (1 - p)) + 1e-9


def test_the_cut_is_uniform_on_1_to_l_minus_1() -> None:
    task = Toy(max_tokens=6)
    n = 5000
    env = TokenVectorEnv(
        task, num_envs=n, starts=GuidedStarts(lambda q: [[A, B, B, A, EOS]] * len(q), 1.0)
    )
    _, infos = env.reset(seed=1)
    lengths, counts = np.unique(infos["prefix_length"], return_counts=True)
    assert lengths.tolist() == [1, 2, 3, 4]
    assert np.square(counts - n / 4).sum() / (n / 4) < 16.27  # chi-square, 3 degrees, p = 0.001


@pytest.mark.parametrize("text", [[EOS], [A]])
def test_a_text_of_one_token_gives_no_prefix(text: list[int]) -> None:
    env = TokenEnv(
        Toy(max_tokens=1 if text == [A] else 3), starts=GuidedStarts(lambda q: [text], 1)
    )
    observation, info = env.reset(seed=0)
    assert info["prefix_length"] == 0
    assert (observation[1:] == env.tokenizer.pad_id).all()


def test_without_a_share_the_environment_is_the_plain_one() -> None:
    def never(query: Query) -> list[str]:
        raise AssertionError("asked")

    task = Echo()
    plain = TokenVectorEnv(task, num_envs=3)
    guided = TokenVectorEnv(task, num_envs=3, starts=GuidedStarts(never, 0.0))
    rng = np.random.default_rng(0)
    assert np.array_equal(plain.reset(seed=5)[0], guided.reset(seed=5)[0])
    for _ in range(60):
        actions = rng.integers(5, size=3)
        for one, other in zip(plain.step(actions)[:4], guided.step(actions)[:4], strict=True):
            assert np.array_equal(one, other)


# -- the optimum ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [0.0, 0.8, 1.0])
def test_mixed_starts_do_not_move_the_optimum(mixing: float) -> None:
    """Exact softmax policy gradients from the mixed starts end in the same posterior."""
    beta = 0.5
    task = Toy()
    reference = iid(task, [0.5, 0.3, 0.2])
    best = exact.solve(task, reference, beta)
    tree, log_pi0 = best.tree, best.log_reference
    mu = np.zeros(tree.num_nodes)
    for start, p in starts_of(mixing).items():
        observation = task.prompts(np.array([0]))[0].tolist() + list(start)
        observation += [task.tokenizer.pad_id] * (3 - len(start))
        mu[tree.find(np.array([observation]))] += p
    logits = log_pi0.copy()
    for _ in range(4000):
        log_pi = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        pi = np.exp(log_pi)
        penalty = beta * (log_pi - log_pi0)

        def value(q: Any, level: slice, pi: Any = pi, penalty: Any = penalty) -> Any:
            return (pi[level] * (q - penalty[level])).sum(axis=1)

        v, q = tree.backward(value, 1.0)
        visits = mu.copy()  # how often a state is visited from these starts
        for level in tree.levels[1:]:
            edges = tree.parents[level]
            visits[level] += visits[edges // 3] * pi.reshape(-1)[edges]
        logits = logits + 4 * visits[:, None] * pi * (q - penalty - v[:, None])
    found = exact.evaluate(task, tree.as_policy(log_pi, "learnt"), reference=reference, beta=beta)
    assert found.reverse_kl is not None and found.reverse_kl < 1e-14
    assert found.objective == pytest.approx(0.679579, abs=1e-6)


# -- roles, infos, faces -------------------------------------------------------------------------


def two_words(query: Query) -> list[list[int]]:
    """Write "a b" or, from the row's generator, "b a", and the end."""
    return [[A, B, EOS] if rng.random() < 0.5 else [B, A, EOS] for rng in query.rngs]


def test_guide_tokens_are_marked_and_not_actions() -> None:
    env = gym.make("text_envs/Toy-v0", starts=GuidedStarts("script:expert", 1.0))
    for seed in range(5):
        _, info = env.reset(seed=seed)
        h = info["prefix_length"]
        *_, info = env.step(EOS)
        assert (info["roles"] == Role.PREFIX).sum() == h > 0
        assert info["roles"].tolist()[1 + h] == Role.ACTION


def test_batches_start_as_single_environments_do() -> None:
    """Over automatic resets, too, whatever the other rows of the batch do."""
    rng = np.random.default_rng(0)
    kwargs = {"starts": GuidedStarts(two_words, 0.6)}
    native = gym.make_vec("text_envs/Toy-v0", num_envs=4, **kwargs)
    looped = gym.make_vec("text_envs/Toy-v0", num_envs=4, vectorization_mode="sync", **kwargs)
    one, other = native.reset(seed=3), looped.reset(seed=3)
    assert np.array_equal(one[0], other[0]) and len(np.unique(one[1]["prefix_length"])) > 1
    for _ in range(60):
        actions = rng.integers(3, size=4)
        one, other = native.step(actions), looped.step(actions)
        for a, b in zip(one[:4], other[:4], strict=True):
            assert np.array_equal(a, b)
        if "prefix_length" in other[4]:
            mask = other[4]["_prefix_length"]
            assert np.array_equal(one[4]["_prefix_length"], mask)
            assert np.array_equal(one[4]["prefix_length"][mask], other[4]["prefix_length"][mask])


def test_language_models_draw_from_the_rows_generators(share: Any, gpt2: Any) -> None:
    lm = gpt2(16)
    starts = GuidedStarts(lm, 1.0, guide_kwargs={"temperature": 0.8, "top_p": 0.9})
    batch = TokenVectorEnv(share, num_envs=6, starts=starts)
    first, infos = batch.reset(seed=0)
    assert np.array_equal(first, batch.reset(seed=0)[0])
    for row in range(6):
        single = TokenEnv(share, starts=starts)
        observation, info = single.reset(seed=row)
        assert np.array_equal(observation, first[row])
        assert info["prefix_length"] == infos["prefix_length"][row]
    assert starts.queries.calls == 8 and starts.queries.rows == 18


def test_same_step_and_stable_baselines() -> None:
    starts = GuidedStarts(two_words, 0.5)
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=3, seed=0, starts=starts)
    native = gym.make_vec("text_envs/Toy-v0", num_envs=3, autoreset_mode="SAME_STEP", starts=starts)
    assert np.array_equal(venv.reset(), native.reset(seed=0)[0])
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(40):
        actions = rng.integers(3, size=3)
        observations, _, dones, _ = venv.step(actions)
        expected = native.step(actions)
        assert np.array_equal(observations, expected[0])
        for row in np.flatnonzero(dones).tolist():
            length = venv.reset_infos[row]["prefix_length"]
            assert length == expected[4]["prefix_length"][row]
            assert (observations[row, 1:] != venv.env.tokenizer.pad_id).sum() == length
            seen.add(length)
    assert seen == {0, 1, 2}


def test_a_saved_state_repeats_the_starts_that_follow() -> None:
    env = TokenVectorEnv(Toy(), num_envs=3, starts=GuidedStarts(two_words, 0.5))
    env.reset(seed=0)
    state = env.get_state()
    actions = np.random.default_rng(0).integers(3, size=(50, 3))
    first = [env.step(row)[0] for row in actions]
    env.set_state(state)
    assert np.array_equal(first, [env.step(row)[0] for row in actions])


# -- several turns -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 4))
def test_random_replies_come_again_when_the_prefix_is_written(seed: int, rows: int) -> None:
    task = Echo()
    views: list[Any] = []

    def speaker(query: Query) -> list[list[int]]:
        views.append(query)
        return [[int(rng.integers(3)), END] for rng in query.rngs]

    env = TokenVectorEnv(task, num_envs=rows, starts=GuidedStarts(speaker, 1.0))
    observations, infos = env.reset(seed=seed)
    # What the guide saw at its later turns is what now stands in the rows, replies included.
    for row in range(rows):
        stop = int(env.engine.position[row])
        for view in views:
            for i in np.flatnonzero(view.rows == row).tolist():
                common = min(stop, int(view.stop[i]))
                assert np.array_equal(view.tokens[i, :common], observations[row, :common])
    marks = env.engine.roles(env.engine.all_rows)
    assert np.array_equal((marks == Role.PREFIX).sum(axis=1), infos["prefix_length"])
    assert not (marks == Role.ACTION).any()
    turns = ((observations == END) & (marks == Role.PREFIX)).sum(axis=1)
    assert np.array_equal(env.engine.memory["turns"], turns)


def test_turns_of_a_batch_are_asked_for_together() -> None:
    starts = GuidedStarts(lambda q: [[SAY, END]] * len(q), 1.0)
    env = TokenVectorEnv(Echo(max_tokens=12), num_envs=8, starts=starts)
    env.reset(seed=0)
    assert starts.queries.calls <= 4 and starts.queries.rows >= 8 * 3


# -- groups --------------------------------------------------------------------------------------


def test_rows_of_a_group_share_prefix_and_query() -> None:
    starts = GuidedStarts(two_words, 0.7)
    env = TokenVectorEnv(Toy(), num_envs=40, starts=starts)
    observations, infos = env.reset(seed=0, options={"group_size": 4})
    groups = observations.reshape(10, 4, -1)
    assert (groups == groups[:, :1]).all() and len(np.unique(groups[:, 0], axis=0)) > 2
    assert starts.queries.rows == (infos["prefix_length"].reshape(10, 4)[:, 0] > 0).sum()


# -- failures ------------------------------------------------------------------------------------


class Flaky:
    """A guide that fails while it is told to."""

    def __init__(self) -> None:
        self.broken = False

    def __call__(self, query: Query) -> list[list[int]]:
        if self.broken:
            raise ConnectionError("no route to the guide")
        return [[A, B, EOS]] * len(query)


def test_a_failing_guide_fails_a_reset() -> None:
    guide = Flaky()
    guide.broken = True
    env = TokenEnv(Toy(), starts=GuidedStarts(guide, 1.0))
    with pytest.raises(GuideError, match="guide Flaky raised ConnectionError: no route"):
        env.reset(seed=0)
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(A)
    guide.broken = False
    assert env.reset(seed=0)[1]["prefix_length"] > 0


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_a_guide_that_fails_within_a_step_loses_nothing(mode: str) -> None:
    guide = Flaky()
    env = TokenVectorEnv(Toy(), num_envs=2, starts=GuidedStarts(guide, 1.0), autoreset_mode=mode)
    env.reset(seed=0, options={"prefix": [[A, B], []]})
    guide.broken = True
    _, rewards, terminated, _, infos = env.step(np.array([EOS, A]))
    if mode == "NEXT_STEP":
        assert infos["finish_reason"].tolist() == ["stop", ""]
        assert rewards.tolist() == [1.5, 0.0]
        observations, rewards, terminated, _, infos = env.step(np.array([A, EOS]))
        assert rewards.tolist() == [0.0, 0.5] and terminated.tolist() == [False, True]
    else:
        observations = env.engine.tokens.copy()
        assert rewards.tolist() == [1.5, 0.0] and infos["_final_info"].tolist() == [True, False]
    pad = env.tokenizer.pad_id
    assert observations[0].tolist() == [4, pad, pad, pad] and infos["prefix_length"][0] == 0
    before = env.engine.tokens.copy()
    with pytest.raises(GuideError, match="no route") as caught:
        env.step(np.array([A, A]))
    if hasattr(caught.value, "add_note"):  # from Python 3.11 on
        assert any("rows [0] started again" in note for note in caught.value.__notes__)
    assert np.array_equal(env.engine.tokens, before)
    guide.broken = False
    observations, *_ = env.step(np.array([A, A]))  # raised once: stepping goes on
    assert observations[0].tolist() == [4, A, pad, pad]


def test_stable_baselines_gets_the_results_of_the_step_before_the_error() -> None:
    guide = Flaky()
    venv = text_envs.make_sb3(Toy(), num_envs=2, seed=0, starts=GuidedStarts(guide, 1.0))
    venv.set_options({"prefix": [A, B]})
    venv.reset()
    guide.broken = True
    observations, rewards, dones, infos = venv.step(np.array([EOS, EOS]))
    assert rewards.tolist() == [1.5, 1.5] and dones.all()
    assert [info["episode"]["r"] for info in infos] == [1.5, 1.5]
    assert [info["prefix_length"] for info in venv.reset_infos] == [0, 0]
    with pytest.raises(GuideError):
        venv.step(np.array([A, A]))
    guide.broken = False
    venv.step(np.array([A, A]))
    guide.broken = True
    venv.step(np.array([EOS, EOS]))  # fails again, and is forgotten by a reset that succeeds
    guide.broken = False
    venv.reset()
    venv.step(np.array([EOS, EOS]))


def test_a_start_plug_in_whose_prefix_ends_the_text_is_an_error_too() -> None:
    class Wrong:
        def bind(self, task: Any) -> None: ...

        def prefixes(self, engine: Any, rows: Any) -> Any:
            return [[A, EOS]] * len(rows)

    env = TokenVectorEnv(Toy(), num_envs=1, starts=Wrong(), autoreset_mode="SAME_STEP")
    with pytest.raises(ValueError, match="ends the episode"):
        env.reset(seed=0)
    env.reset(options={"prefix": []})
    assert env.step(np.array([EOS]))[1].tolist() == [0.5]
    assert env.engine.tokens[0, 1] == env.tokenizer.pad_id
    with pytest.raises(ValueError, match="ends the episode"):
        env.step(np.array([A]))


# -- building ------------------------------------------------------------------------------------


def test_one_plug_in_serves_environments_of_several_kinds() -> None:
    starts = GuidedStarts("script:expert", 1.0)
    small, large = TokenEnv(Toy(), starts=starts), TokenEnv(Toy(max_tokens=5), starts=starts)
    small.reset(seed=0)
    large.reset(seed=0)
    assert starts.queries.calls == 2
    guide = as_guide(two_words, Toy())
    shared = GuidedStarts(guide, 1.0)
    TokenEnv(Toy(), starts=shared).reset(seed=0)
    assert guide.queries.calls == shared.queries.calls == 1
    with pytest.raises(GuideError, match="was made for Toy.*max_tokens=3; Echo has"):
        TokenEnv(Echo(), starts=shared)


def test_bad_arguments() -> None:
    for beta in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="beta must be a probability"):
            GuidedStarts(two_words, beta)
    with pytest.raises(ValueError, match="unknown quality 'exprt'.*Did you mean 'expert'"):
        gym.make("text_envs/Toy-v0", starts=GuidedStarts("script:exprt"))
