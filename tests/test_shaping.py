"""KL control as a reward: sums of token terms, exact optima, every face, caches and errors."""

from __future__ import annotations

import doctest
import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import Echo
from models import Share, tiny_gpt2
from stable_baselines3 import A2C, PPO

from text_envs import (
    EpisodeBatch,
    Example,
    RewardModelError,
    Role,
    Task,
    TokenEnv,
    TokenVectorEnv,
    exact,
    shaping,
)
from text_envs.envs.goal import GoalTokenEnv, GoalTokenVectorEnv
from text_envs.envs.sb3 import make_sb3
from text_envs.guides.shaping import ReferenceShaping
from text_envs.policies.functions import as_log_probs
from text_envs.rewards.likelihood import Likelihood
from text_envs.tasks.generation import Generation
from text_envs.tasks.toy import Toy

A, B, END = 0, 1, 2  # the tokens of Toy
PI0 = np.array([0.5, 0.3, 0.2])
TEXTS = [
    words + ((END,) if n < 3 else ())
    for n in range(4)
    for words in itertools.product((A, B), repeat=n)
]


def reference(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.log([PI0] * len(tokens))


def random_policy(seed: int) -> Any:
    """Return a policy with other probabilities in every state of Toy."""
    tree = exact.enumerate_tree(Toy())
    drawn = np.random.default_rng(seed).dirichlet(np.ones(3), size=tree.num_nodes)
    return tree.as_policy(np.log(drawn), "random")


def play(env: Any, text: Any, **options: Any) -> list[dict[str, Any]]:
    """Write a text into a single environment; return each step's ledger."""
    env.reset(seed=0, options=options)
    ledger = []
    for token in text:
        _, reward, *_, info = env.step(token)
        assert reward == pytest.approx(sum(info["reward_terms"].values()), abs=1e-12)
        ledger.append(info["reward_terms"])
    return ledger


# -- exactness -------------------------------------------------------------------------------------


def test_the_card_runs() -> None:
    assert doctest.testmod(shaping).failed == 0


def test_the_sum_over_a_text_is_that_of_the_text() -> None:
    plain = TokenEnv(Toy(), shaping=ReferenceShaping(reference, 0.7))
    policy = random_policy(0)
    full = TokenEnv(Toy(), shaping=ReferenceShaping(reference, 0.7, policy=policy))
    for text in TEXTS:
        log_pi0 = float(np.log(PI0[list(text)]).sum())
        assert sum(t["shaping"] for t in play(plain, text)) == pytest.approx(0.7 * log_pi0)
        states = np.full((len(text), 4), 3)  # padding
        for i in range(len(text)):
            states[i, : i + 1] = [4, *text[:i]]
        log_pi = policy(states)[np.arange(len(text)), list(text)].sum()
        expected = -0.7 * (log_pi - log_pi0)
        assert sum(t["shaping"] for t in play(full, text)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.1])
def test_shaping_and_an_entropy_bonus_have_the_optimum_of_kl_control(beta: float) -> None:
    """max E[r + beta log pi0] + beta H(pi) is max E[r] - beta KL(pi || pi0)."""

    def soft_maximum(q: Any, level: slice) -> Any:
        top = q.max(axis=1)
        return top + beta * np.log(np.exp((q - top[:, None]) / beta).sum(axis=1))

    optimum = exact.solve(Toy(), reference, beta)
    tree = exact.enumerate_tree(TokenEnv(Toy(), shaping=ReferenceShaping(reference, beta)))
    v, q = tree.backward(soft_maximum, gamma=1.0)
    assert np.allclose((q - v[:, None]) / beta, optimum.log_policy, rtol=0, atol=1e-12)
    assert v[0] == pytest.approx(optimum.value, abs=1e-12)

    # Against a uniform reference instead of an entropy: a token more costs beta log 3, which must
    # be given back, as texts differ in length.
    class GivesBack(ReferenceShaping):
        def shape(self, *args: Any) -> Any:
            return super().shape(*args) + self.beta * np.log(3)

    uniform = exact.solve(TokenEnv(Toy(), shaping=GivesBack(reference, beta)), None, beta)
    assert np.allclose(uniform.log_policy, optimum.log_policy, rtol=0, atol=1e-12)
    assert uniform.value == pytest.approx(optimum.value, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_with_the_policy_the_mean_return_is_the_objective(seed: int) -> None:
    policy, beta = random_policy(seed), 0.5
    env = TokenEnv(Toy(), shaping=ReferenceShaping(reference, beta, policy=policy))
    plain = exact.evaluate(Toy(), policy, reference=reference, beta=beta)
    assert exact.evaluate(env, policy).mean_return == pytest.approx(plain.objective, abs=1e-12)
    assert plain.objective == pytest.approx(plain.mean_return - beta * plain.kl_reference)


@pytest.mark.parametrize(("beta", "rests"), [(0.1, 0.0002), (0.5, 0.405)])
def test_where_an_entropy_bonus_of_each_state_alone_comes_to_rest(
    beta: float, rests: float
) -> None:
    """The numbers of the card: pi = softmax(Q / beta) with Q of that very policy."""

    def softmax(q: Any) -> Any:
        p = np.exp((q - q.max(axis=1, keepdims=True)) / beta)
        return p / p.sum(axis=1, keepdims=True)

    tree = exact.enumerate_tree(TokenEnv(Toy(), shaping=ReferenceShaping(reference, beta)))
    _, q = tree.backward(lambda q, level: (softmax(q) * q).sum(axis=1), gamma=1.0)
    resting = tree.as_policy(np.log(softmax(q)), "resting")
    found = exact.evaluate(Toy(), resting, reference=reference, beta=beta)
    assert found.reverse_kl == pytest.approx(rests, abs=5e-5 if beta < 0.5 else 5e-4)
    of_pi0 = exact.evaluate(Toy(), reference, reference=reference, beta=0.5)
    assert of_pi0.reverse_kl == pytest.approx(0.331, abs=5e-4)


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_stock_agents_with_an_entropy_bonus_move_to_the_posterior(algorithm: Any) -> None:
    beta = 0.1
    venv = make_sb3(Toy(), num_envs=32, shaping=ReferenceShaping(reference, beta), seed=0)
    agent = stock(algorithm, venv, ent_coef=beta)
    before = exact.evaluate(Toy(), agent, reference=reference, beta=beta).reverse_kl
    agent.learn(20_000)
    after = exact.evaluate(Toy(), agent, reference=reference, beta=beta).reverse_kl
    assert before > 6.0 and after < 0.25


def test_a_stock_agent_that_is_followed_reaches_the_posterior() -> None:
    kl = ReferenceShaping(reference, 0.5)
    agent = stock(A2C, make_sb3(Toy(), num_envs=32, shaping=kl, seed=0), ent_coef=0.0)
    kl.follow(agent)
    agent.learn(30_000)
    found = exact.evaluate(Toy(), agent, reference=reference, beta=0.5)
    assert found.reverse_kl < 0.06  # 0.43 before; pi0 has 0.33


def stock(algorithm: Any, venv: Any, ent_coef: float) -> Any:
    kwargs = (
        {"n_steps": 16, "batch_size": 512, "n_epochs": 5, "normalize_advantage": False}
        if algorithm is PPO
        else {"n_steps": 8}
    )
    return algorithm(
        "MlpPolicy", venv, gamma=1.0, gae_lambda=1.0, learning_rate=3e-3, seed=0, device="cpu",
        ent_coef=ent_coef, **kwargs,
    )  # fmt: skip


# -- faces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_vector_single_and_sb3_pay_the_same(mode: str) -> None:
    def shaped() -> ReferenceShaping:
        return ReferenceShaping(random_policy(0), 0.3)

    vector = TokenVectorEnv(Toy(), num_envs=3, shaping=shaped(), autoreset_mode=mode)
    singles = [TokenEnv(Toy(), shaping=shaped()) for _ in range(3)]
    venv = make_sb3(Toy(), num_envs=3, shaping=shaped(), seed=0)
    vector.reset(seed=0)
    venv.reset()
    for env in singles:
        env.reset()
    ended = np.zeros(3, dtype=bool)
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(3, size=3)
        _, rewards, terminated, _, infos = vector.step(actions)
        assert np.allclose(sum(infos["reward_terms"][k] for k in ("task", "shaping")), rewards)
        of_venv = venv.step(actions) if mode == "SAME_STEP" else None
        for row, env in enumerate(singles):
            if ended[row]:
                env.reset()
                assert rewards[row] == 0.0
                continue
            _, reward, over, _, info = env.step(actions[row])
            assert (reward, over) == (rewards[row], terminated[row])
            assert info["reward_terms"]["shaping"] == infos["reward_terms"]["shaping"][row] < 0
            if of_venv is not None:
                assert of_venv[1][row] == np.float32(reward)
                assert of_venv[3][row]["reward_terms"] == info["reward_terms"]
            if over and mode == "SAME_STEP":
                env.reset()
        ended = terminated if mode == "NEXT_STEP" else ended


def test_one_call_a_step_and_what_was_given_is_not_paid() -> None:
    calls: list[tuple[int, list[int]]] = []

    def spy(tokens: Any, rows: Any) -> Any:
        calls.append((len(tokens), rows.tolist()))
        return reference(tokens)

    env = TokenVectorEnv(Toy(), num_envs=3, shaping=ReferenceShaping(spy, 1.0))
    env.reset(seed=0, options={"prefix": [[A], [A, B], []]})
    assert calls == []
    env.step(np.array([END, B, A]))
    assert calls == [(3, [0, 1, 2])]
    env.step(np.array([A, A, A]))  # the first two rows start again
    assert calls[1:] == [(1, [2])]


def test_replies_are_not_the_agent_s() -> None:
    task = Echo()
    halves = np.log(np.full((1, 5), 0.2))
    env = TokenEnv(task, shaping=ReferenceShaping(lambda t: np.repeat(halves, len(t), 0), 2.0))
    ledger = play(env, [1, 4, 2, 4])  # "hello", end of turn; reply; "bye", end of turn
    assert [t["shaping"] for t in ledger] == pytest.approx([2 * np.log(0.2)] * 4)
    assert [t["task"] for t in ledger] == [0.0, -1.0, 0.0, 0.0]


def test_a_failed_step_can_be_repeated() -> None:
    class Flaky:
        broken = True

        def __call__(self, episodes: EpisodeBatch) -> Any:
            if self.broken:
                raise OSError("no answer")
            return np.ones(len(episodes))

    model = Flaky()
    env = TokenEnv(Toy(), reward=model, shaping=ReferenceShaping(reference, 1.0))
    observation, _ = env.reset(seed=0)
    with pytest.raises(RewardModelError):
        env.step(END)
    assert np.array_equal(env.engine.tokens[0], observation)
    model.broken = False
    assert env.step(END)[1] == pytest.approx(1.0 + np.log(0.2))


def test_a_forbidden_id_counts_as_the_end(bpe_tokenizer: Any) -> None:
    task = Generation(dataset=["the film"], tokenizer=bpe_tokenizer, max_tokens=4)
    tokenizer = task.tokenizer
    scores = np.random.default_rng(0).normal(size=tokenizer.num_actions)
    scores[tokenizer.forbidden] = -np.inf
    log_p = scores - np.log(np.exp(scores).sum())
    env = TokenEnv(task, shaping=ReferenceShaping(lambda t: np.stack([log_p] * len(t)), 1.0))
    for token in (int(np.flatnonzero(tokenizer.forbidden)[0]), tokenizer.eos_id):
        assert play(env, [token])[0]["shaping"] == pytest.approx(log_p[tokenizer.eos_id])


# -- goals -----------------------------------------------------------------------------------------


def test_goal_environments_refuse_it_and_keep_their_start_states() -> None:
    kl = ReferenceShaping(reference, 1.0)
    for make in (GoalTokenEnv, GoalTokenVectorEnv):
        with pytest.raises(ValueError, match="takes no shaping=.*compute_reward"):
            make(Toy(), shaping=kl)
    with pytest.raises(ValueError, match="takes no shaping"):
        gym.make("text_envs/ObjectCountingGoal-v0", shaping=kl)

    class Begun:
        def bind(self, task: Task) -> None:
            pass

        def prefixes(self, engine: Any, rows: Any) -> list[list[int]]:
            return [[A]] * len(rows)

    single = GoalTokenEnv(Toy(), threshold=1.0, starts=Begun())
    assert single.reset(seed=0)[0]["observation"].tolist() == [4, A, 3, 3]
    vector = GoalTokenVectorEnv(Toy(), num_envs=2, threshold=1.0, starts=Begun())
    vector.reset(seed=0)
    *_, infos = [vector.step(np.full(2, action)) for action in (B, END)][-1]
    assert infos["roles"][0].tolist() == [Role.PROMPT, Role.PREFIX, Role.ACTION, Role.ACTION]


# -- language models -------------------------------------------------------------------------------


def test_a_cached_language_model_scores_as_one_without_a_cache(any_lm: Any) -> None:
    """Rows of different prompts, restarted at different times, over many episodes."""
    task = Share()
    plain = as_log_probs(any_lm, task)
    env = TokenVectorEnv(
        task, num_envs=5, shaping=ReferenceShaping(any_lm, 0.5), autoreset_mode="SAME_STEP"
    )
    observations, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(25):
        actions = rng.integers(13, size=5)
        expected = 0.5 * plain(observations)[np.arange(5), actions]
        observations, _, _, _, infos = env.step(actions)
        assert np.allclose(infos["reward_terms"]["shaping"], expected, atol=1e-5)


def test_the_bundled_model_by_name() -> None:
    env = gym.make("text_envs/Reviews-v0", shaping=ReferenceShaping("reviews", 0.5)).unwrapped
    env.reset(seed=0)
    total, n, over = 0.0, 0, False
    while not over:
        _, _, over, _, info = env.step((17 * n) % 200)
        total, n = total + info["reward_terms"]["shaping"], n + 1
    episode = env.engine.episodes(env.engine.all_rows, [info["finish_reason"]])
    assert total / 0.5 == pytest.approx(n * Likelihood()(episode)[0], rel=1e-5)


def test_the_reference_is_frozen_and_the_policy_is_not() -> None:
    lm = tiny_gpt2(20)
    kl = ReferenceShaping(lm, 1.0, policy=lm)
    env = TokenEnv(Share(), shaping=kl)
    env.reset(seed=0)
    assert env.step(3)[-1]["reward_terms"]["shaping"] == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.5)
    assert abs(env.step(3)[-1]["reward_terms"]["shaping"]) > 1e-3
    kl.follow(None)
    assert env.step(3)[-1]["reward_terms"]["shaping"] < 0
    frozen = lm.requires_grad_(False)
    assert ReferenceShaping(frozen, 1.0)._sources["reference"] is frozen  # nothing to copy for


# -- supplied numbers ------------------------------------------------------------------------------


def test_supplied_numbers_serve_one_step() -> None:
    kl = ReferenceShaping(reference, 2.0, supplied=True)
    env = TokenVectorEnv(Toy(), num_envs=2, shaping=kl)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"call supply\(log_probs\) first"):
        env.step(np.array([A, B]))
    kl.supply([np.log(0.9), np.log(0.1)])
    _, rewards, *_ = env.step(np.array([A, B]))
    assert rewards.tolist() == pytest.approx([-2 * np.log(0.9 / 0.5), -2 * np.log(0.1 / 0.3)])
    with pytest.raises(ValueError, match="call supply"):
        env.step(np.array([A, B]))
    kl.supply([-1.0])
    with pytest.raises(ValueError, match="1 log-probabilities were supplied, .* has a row 1"):
        env.step(np.array([A, B]))
    for wrong in ([-1.0, -np.inf], [[-1.0, -1.0]]):
        with pytest.raises(ValueError, match="must be finite, one a row"):
            kl.supply(wrong)
    with pytest.raises(ValueError, match="through supply"):
        kl.follow(reference)
    with pytest.raises(ValueError, match="supplied=True"):
        ReferenceShaping(reference, 1.0).supply([0.0])
    single = TokenEnv(Toy(), shaping=ReferenceShaping(reference, 1.0, supplied=True))
    single.reset(seed=0)
    single.engine.shaping.supply(np.log(0.5))
    assert single.step(A)[1] == pytest.approx(0.0)


# -- errors ----------------------------------------------------------------------------------------


def test_a_token_without_probability_is_named_and_nothing_is_written() -> None:
    def never_b(tokens: Any) -> Any:
        with np.errstate(divide="ignore"):
            return np.log([[0.8, 0.0, 0.2]] * len(tokens))

    env = TokenEnv(Toy(), shaping=ReferenceShaping(never_b, 1.0))
    env.reset(seed=0)
    env.step(A)
    message = r"the reference never_b gives 'b' \(id 1\) probability 0 after the prompt '' and the "
    with pytest.raises(ValueError, match=message + r"text 'a' \(row 0\).*infinite.*mask"):
        env.step(B)
    assert env.step(A)[1] == pytest.approx(np.log(0.8))
    env = TokenEnv(Toy(), shaping=ReferenceShaping(reference, 1.0, policy=never_b))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="the policy never_b gives 'b'"):
        env.step(B)


def test_arguments() -> None:
    for beta in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="beta must be above 0"):
            ReferenceShaping(reference, beta)
    with pytest.raises(ValueError, match="not both"):
        ReferenceShaping(reference, 1.0, policy=reference, supplied=True)
    with pytest.raises(ValueError, match="in no environment"):
        ReferenceShaping(reference, 1.0).shape(np.zeros((1, 4), int), np.zeros(1, int), np.zeros(1))
    with pytest.raises(ValueError, match="has 3 actions, the task 13"):
        TokenEnv(Share(), shaping=ReferenceShaping(as_log_probs(reference, Toy()), 1.0))
    kl = ReferenceShaping(reference, 1.0)
    TokenEnv(Toy(), shaping=kl)
    TokenEnv(Toy(), shaping=kl)  # for evaluation
    with pytest.raises(ValueError, match="make one for each task"):
        TokenEnv(Toy(max_tokens=4), shaping=kl)
    with pytest.raises(TypeError, match="a policy must be a function"):
        TokenEnv(Toy(), shaping=ReferenceShaping(3, 1.0))
    assert gym.make(gym.make("text_envs/Toy-v0", shaping=kl).spec).unwrapped.engine.shaping is kl
    assert repr(kl) == "ReferenceShaping(reference, beta=1)"


def test_an_example_task_with_prompts_is_quoted() -> None:
    class Prompted(Task):
        reward = "length"

        def __init__(self) -> None:
            toy = Toy()
            super().__init__(
                [Example("b a")], tokenizer=toy.tokenizer, prompt_length=3, max_tokens=2
            )

    def only_end(tokens: Any) -> Any:
        with np.errstate(divide="ignore"):
            return np.log([[0.0, 0.0, 1.0]] * len(tokens))

    env = TokenVectorEnv(Prompted(), num_envs=2, shaping=ReferenceShaping(only_end, 1.0))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"'a' .* the prompt 'b a' and the text '' \(row 1\)"):
        env.step(np.array([END, A]))
