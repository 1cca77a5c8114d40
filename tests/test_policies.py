"""Policies of every kind become the same function of observations."""

from __future__ import annotations

import doctest
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import SENTENCES
from models import Share, tiny_gpt2

import text_envs.policies.functions
from text_envs import Example, Task
from text_envs.policies.functions import PolicyFunction, as_log_probs, uniform
from text_envs.tasks.toy import Toy
from text_envs.tokenizers import HFTokenizer

LOG_P = np.log([0.5, 0.3, 0.2])
OBS = np.array([[4, 3, 3, 3], [4, 0, 3, 3], [4, 0, 1, 3]])  # of Toy: begin 4, padding 3


def fixed(tokens: Any) -> Any:
    return np.tile(LOG_P, (len(tokens), 1))


def share_observations(task: Share, rng: np.random.Generator, written: int = 3) -> Any:
    tokens = np.full((8, task.prompt_length + task.max_tokens), task.tokenizer.pad_id)
    tokens[:, : task.prompt_length] = task.prompts(rng.integers(4, size=8))
    tokens[:, task.prompt_length :][:, :written] = rng.integers(12, size=(8, written))
    return tokens


def hf_task(bpe: Any) -> Task:
    examples = [Example(text) for text in SENTENCES]
    return Task(examples, tokenizer=HFTokenizer(bpe), prompt_length=40, max_tokens=4)


def test_doctests() -> None:
    assert doctest.testmod(text_envs.policies.functions).failed == 0


def test_a_function_is_checked_and_passed_through() -> None:
    policy = as_log_probs(fixed, Toy())
    np.testing.assert_allclose(policy(OBS), fixed(OBS), atol=1e-15)
    assert as_log_probs(policy, Toy()) is policy
    assert policy(OBS[:0]).shape == (0, 3)


def test_single_precision_is_normalised_again() -> None:
    policy = as_log_probs(lambda tokens: fixed(tokens).astype(np.float32), Toy())
    sums = np.exp(policy(OBS)).sum(axis=1)
    np.testing.assert_allclose(sums, 1.0, atol=1e-15)


def test_a_tensor_with_gradients_is_accepted() -> None:
    import torch

    weight = torch.zeros(3, requires_grad=True)
    policy = as_log_probs(lambda tokens: weight.log_softmax(0).expand(len(tokens), 3), Toy())
    np.testing.assert_allclose(policy(OBS), np.log(1 / 3), atol=1e-7)


def test_a_function_with_rows_gets_them() -> None:
    seen: list[Any] = []

    def with_rows(tokens: Any, rows: Any = None) -> Any:
        seen.append(rows)
        return fixed(tokens)

    policy = as_log_probs(with_rows, Toy())
    policy(OBS)
    policy(OBS, np.array([7, 8, 9]))
    assert seen[0] is None
    assert seen[1].tolist() == [7, 8, 9]


def test_whatever_has_a_policy_is_unwrapped() -> None:
    policy = as_log_probs(SimpleNamespace(policy=fixed), Toy())
    np.testing.assert_allclose(policy(OBS), fixed(OBS))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(3), r"shape \(3,\) for 3 observations; expected \(3, 3\)"),
        (np.tile(np.exp(LOG_P), (3, 1)), "sum to 4.2.*log-softmax"),
        (np.full((3, 3), np.nan), "the score nan at observation 0"),
        (np.full((3, 3), np.inf), "the score inf at observation 0"),
        (np.full((3, 3), -np.inf), "nothing a probability at observation 0"),
        (np.array([LOG_P, LOG_P, LOG_P - 0.1]), "observation 2 sum to 0.904837"),
    ],
)
def test_what_is_no_distribution_is_refused(returned: Any, message: str) -> None:
    policy = as_log_probs(lambda tokens: returned, Toy())
    with pytest.raises(ValueError, match=message):
        policy(OBS)


def test_observations_are_checked() -> None:
    policy = as_log_probs(fixed, Toy())
    with pytest.raises(ValueError, match=r"shape \(B, L\), got int64 of shape \(4,\)"):
        policy(OBS[0])
    with pytest.raises(ValueError, match="float64"):
        policy(OBS.astype(float))
    with pytest.raises(ValueError, match=r"rows must name 3 observations, got shape \(2,\)"):
        policy(OBS, np.arange(2))


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="a policy must be.*got int"):
        as_log_probs(3, Toy())
    with pytest.raises(ValueError, match="3 actions, the task 13"):
        as_log_probs(uniform(Toy()), Share())


def test_uniform_leaves_out_what_may_not_be_written(bpe_tokenizer: Any) -> None:
    task = hf_task(bpe_tokenizer)
    forbidden = task.tokenizer.forbidden
    assert forbidden.any()
    log_p = uniform(task)(task.prompts(np.array([0])))[0]
    assert (log_p[forbidden] == -np.inf).all()
    np.testing.assert_allclose(log_p[~forbidden], -np.log((~forbidden).sum()))
    everything = np.full(len(forbidden), -np.log(len(forbidden)))
    with pytest.raises(ValueError, match="may not be written.*return -inf"):
        as_log_probs(lambda t: np.tile(everything, (len(t), 1)), task)(task.prompts(np.array([0])))


@pytest.mark.parametrize("count", [3, 600])  # one chunk, and several
def test_language_model_with_and_without_cache(count: int) -> None:
    import torch

    task, rng = Share(), np.random.default_rng(0)
    lm = tiny_gpt2(16)
    policy = as_log_probs(lm, task)
    tokens = np.concatenate([share_observations(task, rng) for _ in range(-(-count // 8))])[:count]
    got = policy(tokens)
    np.testing.assert_allclose(policy(tokens, np.arange(count)), got, atol=1e-5)
    for i in (0, count - 1):
        ids = torch.tensor(tokens[i][tokens[i] != task.tokenizer.pad_id])[None]
        expected = lm(ids).logits[0, -1, :13].double().log_softmax(0).detach().numpy()
        np.testing.assert_allclose(got[i], expected, atol=1e-5)


def test_cached_stepping_computes_only_what_is_new() -> None:
    task, rng = Share(), np.random.default_rng(1)
    lm = tiny_gpt2(16)
    policy = as_log_probs(lm, task)
    widths: list[int] = []
    lm.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    tokens = share_observations(task, rng, written=4)
    earlier = tokens.copy()
    earlier[:, task.prompt_length + 3 :] = task.tokenizer.pad_id
    rows = np.arange(8) + 5
    policy(earlier, rows)
    widths.clear()
    policy(tokens, rows)
    assert widths == [1]


def test_action_lm_keeps_its_temperature() -> None:
    from text_envs.lm import ActionLM

    task, rng = Share(), np.random.default_rng(2)
    lm, tokens = tiny_gpt2(16), share_observations(Share(), rng)
    hot = ActionLM(lm, num_actions=13, pad_id=task.tokenizer.pad_id, temperature=2.0)
    plain = as_log_probs(lm, task)(tokens)
    np.testing.assert_allclose(
        as_log_probs(hot, task)(tokens), as_log_probs(lambda t: _soft(plain / 2), task)(tokens),
        atol=1e-5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="takes 14 for padding, the task 13"):
        as_log_probs(ActionLM(lm, num_actions=13, pad_id=14), task)


def _soft(scores: Any) -> Any:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def test_names_of_models_need_the_models_tokenizer() -> None:
    from text_envs.tasks.reviews import Reviews

    task = Reviews()
    tokens = np.full((2, task.prompt_length + task.max_tokens), task.tokenizer.pad_id)
    tokens[:, : task.prompt_length] = task.prompts(np.array([0, 1]))
    log_p = as_log_probs("reviews", task)(tokens)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1.0)
    with pytest.raises(ValueError, match="has the tokenizer WordTokenizer.*tokenizer="):
        as_log_probs("reviews", Toy())
    with pytest.raises(ValueError, match="Did you mean 'reviews'"):
        as_log_probs("review", Toy())


def test_saved_model_of_the_same_tokenizer(tmp_path: Any, bpe_tokenizer: Any) -> None:
    model = tiny_gpt2(len(bpe_tokenizer), positions=44)
    model.save_pretrained(tmp_path)
    bpe_tokenizer.save_pretrained(tmp_path)
    task = hf_task(bpe_tokenizer)
    tokens = np.concatenate([task.prompts(np.arange(4)), np.full((4, 4), task.tokenizer.pad_id)], 1)
    by_name = as_log_probs(tmp_path, task)(tokens)
    np.testing.assert_allclose(by_name, as_log_probs(model, task)(tokens), atol=1e-6)
    assert (by_name[:, task.tokenizer.forbidden] == -np.inf).all()


def test_model_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="8 positions, observations have 12 columns"):
        as_log_probs(tiny_gpt2(16, positions=8), Share())


@pytest.fixture(scope="module")
def toy_env() -> Any:
    import text_envs

    return text_envs.make_sb3("text_envs/Toy-v0", num_envs=2)


def test_stock_agents(toy_env: Any) -> None:
    import torch
    from stable_baselines3 import DQN, PPO

    agent = PPO("MlpPolicy", toy_env, n_steps=8, batch_size=4, device="cpu", seed=0)
    log_p = as_log_probs(agent, Toy())(OBS)
    with torch.no_grad():
        for action in range(3):
            actions = torch.full((3,), action)
            values = agent.policy.evaluate_actions(torch.from_numpy(OBS), actions)[1]
            np.testing.assert_allclose(log_p[:, action], values, atol=1e-6)
    dqn = DQN("MlpPolicy", toy_env, buffer_size=16, device="cpu", seed=0)
    choice = as_log_probs(dqn, Toy())(OBS)
    np.testing.assert_array_equal(choice.argmax(axis=1), dqn.predict(OBS, deterministic=True)[0])
    assert ((choice == 0) | (choice == -np.inf)).all()
    assert (np.exp(choice).sum(axis=1) == 1).all()


def test_language_model_policy_of_an_agent() -> None:
    import text_envs
    from agents import PPO

    env, lm = text_envs.make_sb3(Share, num_envs=2), tiny_gpt2(16)
    agent = PPO(
        "CausalLMPolicy", env, policy_kwargs={"model": lm}, n_episodes=2, batch_size=2,
        device="cpu",
    )  # fmt: skip
    tokens = share_observations(Share(), np.random.default_rng(3))
    expected = as_log_probs(lm, Share())(tokens)
    np.testing.assert_allclose(as_log_probs(agent, Share())(tokens), expected, atol=1e-5)


def test_agents_of_another_task_are_refused(toy_env: Any) -> None:
    from stable_baselines3 import PPO

    agent = PPO("MlpPolicy", toy_env, n_steps=8, batch_size=4, device="cpu")
    with pytest.raises(ValueError, match="ActorCriticPolicy has 3 actions, the task 13"):
        as_log_probs(agent, Share())
    with pytest.raises(ValueError, match=r"shape \(4,\), the task gives \(6,\)"):
        as_log_probs(agent, Toy(max_tokens=5))


def test_torch_stays_unloaded_for_functions() -> None:
    code = (
        "import sys, numpy as np\n"
        "from text_envs.policies.functions import as_log_probs, uniform\n"
        "from text_envs.tasks.toy import Toy\n"
        "obs = np.array([[4, 3, 3, 3]])\n"
        "as_log_probs(lambda tokens: uniform(Toy())(tokens), Toy())(obs)\n"
        "from text_envs import exact\n"
        "exact.evaluate('text_envs/Toy-v0', exact.solve('text_envs/Toy-v0', beta=1.0))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repr_names_the_source() -> None:
    assert repr(as_log_probs(fixed, Toy())) == "PolicyFunction(fixed, 3 actions)"
    assert isinstance(uniform(Toy().tokenizer), PolicyFunction)
