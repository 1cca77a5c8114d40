"""Recorded episodes as tensors, their order, and the loop that all offline algorithms share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import ClipReward
from helpers import Echo
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_gpt2
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    LogEveryNTimesteps,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule

import text_envs
from agents import BC, ILQL, SaveEvery
from agents.checkpoints.storage import CheckpointError
from agents.data.batches import OfflineBatch, offline_batch
from agents.data.order import BatchOrder
from agents.decision_transformer import DecisionTransformer
from agents.training.offline import OfflineAlgorithm
from text_envs import DatasetError
from text_envs.datasets import EpisodeDataset, collect, recipe, save
from text_envs.tokenizers import WordTokenizer

TOY = "text_envs/Toy-v0"
SAY, HELLO, BYE, YES, END, PAD = range(6)
P, G, A, R = 1, 2, 3, 4  # roles


def dialogue(**changes: Any) -> EpisodeDataset:
    """Three episodes of `Echo`: two turns, one that is cut after a reply, one with a guide."""
    rows = [
        # say | hello end | yes hello | bye end
        ([PAD, PAD, PAD, SAY, HELLO, END, YES, HELLO, BYE, END], [0, 0, 0, P, A, A, R, R, A, A]),
        # say bye | hello end | yes, and cut
        ([PAD, PAD, SAY, BYE, HELLO, END, YES, PAD, PAD, PAD], [0, 0, P, P, A, A, R, 0, 0, 0]),
        # say | hello end, by a guide | yes | yes, and cut in the turn
        ([PAD, PAD, PAD, SAY, HELLO, END, YES, YES, PAD, PAD], [0, 0, 0, P, G, G, R, A, 0, 0]),
    ]
    tokens, roles = (np.array(x) for x in zip(*rows, strict=True))
    rewards = np.zeros(tokens.shape)
    rewards[0, 5], rewards[0, 9], rewards[1, 5] = -1.0, 2.0, -3.0
    fields = {
        "tokens": tokens, "roles": roles, "rewards": rewards, "example_indices": np.zeros(3, int),
        "finish_reasons": ("bye", "cut", "cut"), "truncated": np.array([False, True, True]),
    }  # fmt: skip
    return EpisodeDataset(**{**fields, **changes})


def test_states_and_actions_of_a_dialogue_by_hand() -> None:
    batch = offline_batch(dialogue(), pad_id=PAD, eos_id=END)
    assert batch.columns.tolist() == [[3, 4, 7, 8], [3, 4, 0, 0], [6, 0, 0, 0]]
    assert batch.actions.tolist() == [[HELLO, END, BYE, END], [HELLO, END, 0, 0], [YES, 0, 0, 0]]
    assert batch.mask.sum(dim=1).tolist() == [4, 2, 1]
    assert batch.rewards.tolist() == [[0, -1, 0, 2], [0, -3, 0, 0], [0, 0, 0, 0]]
    assert batch.returns.tolist() == [1, -3, 0]
    assert batch.terminated.tolist() == [True, False, False]
    assert batch.last_column.tolist() == [9, 6, 7]
    # s_5 stands at the last token, right after the others; the reply is no state.
    assert batch.state_columns[0].tolist() == [3, 4, 7, 8, 9]
    assert batch.state_columns[1, :3].tolist() == [3, 4, 6]
    assert batch.state_mask.sum(dim=1).tolist() == [5, 3, 2]
    # The flag is the next state's: of the last action only, and not where the episode was cut.
    assert batch.next_terminal.tolist() == [[False] * 3 + [True], [False] * 4, [False] * 4]
    assert batch.turn_ends[0].tolist() == [False, True, False, True]
    assert batch.turn_ends[1].tolist() == [False, True, False, False]
    assert "7 actions" in repr(batch)


def test_a_guide_s_tokens_are_actions_only_if_asked_for() -> None:
    batch = offline_batch(dialogue(), pad_id=PAD, eos_id=END, include_prefix=True)
    assert batch.columns[2].tolist() == [3, 4, 6, 0]
    assert batch.actions[2, :3].tolist() == [HELLO, END, YES]


def test_a_turn_without_a_reply_ends_by_its_end_token() -> None:
    data = dialogue()
    tokens, roles = data.tokens.copy(), data.roles.copy()
    tokens[0, 6:8], roles[0, 6:8] = [BYE, END], A  # nothing was replied
    changed = dialogue(tokens=tokens, roles=roles)
    assert offline_batch(changed, pad_id=PAD, eos_id=END).turn_ends[0].tolist() == [
        False, True, False, True, False, True,
    ]  # fmt: skip
    assert offline_batch(changed, pad_id=PAD).turn_ends[0].tolist() == [False] * 5 + [True]


def test_selecting_cuts_to_the_longest() -> None:
    whole = offline_batch(dialogue(), pad_id=PAD, eos_id=END)
    part = whole.select(np.array([2, 1]))
    assert part.tokens.shape == (2, 8) and part.columns.shape == (2, 2)
    assert part.returns.tolist() == [0, -3]
    alone = whole.select(np.array([1]))
    for field in dataclasses.fields(OfflineBatch):
        value = getattr(alone, field.name)[0]
        among = getattr(part, field.name)[1]
        assert torch.equal(among[: len(value)] if value.ndim else among, value), field.name


@pytest.mark.parametrize(
    ("changes", "kwargs", "message"),
    [
        ({}, {"pad_id": 9}, "episode 0, column 0: token 5 has the role PAD, .* padding is 9"),
        ({}, {"pad_id": PAD, "num_actions": 4}, "episode 0, column 5: token 4 is no action; .* 4"),
        ({}, {"pad_id": PAD, "forbidden": [BYE]}, "column 8: token 2 is forbidden"),
    ],
)
def test_data_of_another_vocabulary(changes: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        offline_batch(dialogue(**changes), **kwargs)


@pytest.mark.parametrize("field", ["roles", "rewards", "truncated"])
def test_arrays_that_disagree_in_length(field: str) -> None:
    with pytest.raises(DatasetError, match=field):
        offline_batch(dialogue(**{field: getattr(dialogue(), field)[:2]}), pad_id=PAD)


def test_no_episodes() -> None:
    with pytest.raises(DatasetError, match="has no episodes"):
        offline_batch(dialogue().select([]), pad_id=PAD)


# -- order -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_every_pass_is_a_partition(lengths: list[int], size: int, pool: int, seed: int) -> None:
    order = BatchOrder(np.array(lengths), size, seed, pool)
    for _ in range(2):
        batches = [order.next()]
        while order.position < len(order):
            batches.append(order.next())
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert all(len(batch) for batch in batches)
        assert len(batches) <= -(-len(lengths) // size)


def test_minibatches_hold_equal_numbers_of_actions() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, size=500)
    order = BatchOrder(lengths, 20, 0)
    counts = [lengths[order.next()].sum() for _ in range(len(order))]
    assert len(counts) == 25
    # Half an episode too many or too few at either end of a minibatch.
    assert np.abs(np.array(counts) - lengths.sum() / 25).max() <= lengths.max()
    # With a pool, similar lengths go together.
    order = BatchOrder(lengths, 20, 0, pool=8)
    spread = [np.ptp(lengths[order.next()]) for _ in range(len(order))]
    assert np.mean(spread) < 15


def test_order_goes_on_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    lengths = np.arange(1, 30)
    one, other = BatchOrder(lengths, 4, 0), BatchOrder(lengths, 4, 1)
    for _ in range(11):
        one.next()
    other.set_state(one.state())
    for _ in range(20):
        np.testing.assert_array_equal(one.next(), other.next())
    assert not caplog.records
    BatchOrder(lengths, 5).set_state(one.state())
    assert "not exactly as the saved run" in caplog.text


@pytest.mark.parametrize("kwargs", [{"batch_size": 0}, {"batch_size": 1, "pool": 0}])
def test_order_refuses(kwargs: Any) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        BatchOrder(np.ones(3, dtype=np.int64), **kwargs)


# -- the loop ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> EpisodeDataset:
    return collect(TOY, "random", 60, seed=0)


def make(data: Any, **kwargs: Any) -> BC:
    policy_kwargs = {"model": {"layers": 1, "width": 16}, **kwargs.pop("policy_kwargs", {})}
    arguments = {"batch_size": 8, "seed": 0, "device": "cpu", "env": TOY} | kwargs
    return BC("CausalLMPolicy", dataset=data, policy_kwargs=policy_kwargs, **arguments)


def states(agent: OfflineAlgorithm) -> dict[str, Any]:
    found = {f"policy.{k}": v for k, v in agent.policy.state_dict().items()}
    for index, state in agent.policy.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    return found


def assert_equal(one: OfflineAlgorithm, other: OfflineAlgorithm) -> None:
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert (one.num_timesteps, one._n_updates) == (other.num_timesteps, other._n_updates)


def test_a_timestep_is_an_action_token(data: EpisodeDataset) -> None:
    agent = make(data).learn(n_epochs=3)
    assert agent.num_timesteps == 3 * data.num_steps
    assert agent._n_updates == 3 * 8  # 60 episodes, 8 a minibatch
    agent.learn(1, reset_num_timesteps=False)
    assert agent._n_updates == 25
    assert make(data).learn(total_timesteps=3 * data.num_steps)._n_updates == 24


def test_same_seed_same_run(data: EpisodeDataset) -> None:
    one, other, third = (make(data, seed=seed).learn(300) for seed in (3, 3, 4))
    assert_equal(one, other)
    assert any(not torch.equal(v, states(third)[k]) for k, v in states(one).items())


class Kill(BaseCallback):
    """Raise after minibatch number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return True


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_resume_is_exact_in_the_middle_of_a_pass(
    data: EpisodeDataset, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"agent{suffix}"
    schedule = LinearSchedule(1e-2, 1e-3, 1.0)
    whole = make(data, learning_rate=schedule).learn(n_epochs=4)
    killed = make(data, learning_rate=schedule)
    with pytest.raises(KeyboardInterrupt):
        killed.learn(n_epochs=4, callback=[SaveEvery(path), Kill(at=12)])
    agent = BC.load(path, env=TOY, dataset=data, device="cpu")
    assert agent._n_updates == 11
    agent.save(path)  # without having gone on in between
    agent = BC.load(path, env=TOY, dataset=data, device="cpu")
    agent.learn(4 * data.num_steps - agent.num_timesteps, reset_num_timesteps=False)
    assert_equal(whole, agent)


def test_loading_without_data_or_environment(data: EpisodeDataset, tmp_path: Path) -> None:
    agent = make(data, label_smoothing=0.1, top=0.5, batch_size=5).learn(200)
    agent.save(tmp_path / "x")
    loaded = BC.load(tmp_path / "x", device="cpu")
    assert (loaded.label_smoothing, loaded.top, loaded.batch_size) == (0.1, 0.5, 5)
    obs = agent.env.reset()  # type: ignore[union-attr]
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0]
    )
    with pytest.raises(ValueError, match="without a data set"):
        loaded.learn(10)
    other = make(data, seed=5)
    other.set_parameters(tmp_path / "x")
    assert all(torch.equal(v, states(agent)[k]) for k, v in states(other).items())
    other.set_parameters(make(data).get_parameters())
    assert torch.equal(states(other)["policy.actor.lm.lm_head.weight"],
                       states(make(data))["policy.actor.lm.lm_head.weight"])  # fmt: skip
    with pytest.raises(CheckpointError, match="saved by BC, not by PPO"):
        from agents import PPO

        PPO.load(tmp_path / "x")


def test_weights_that_a_subclass_adds_are_saved(data: EpisodeDataset, tmp_path: Path) -> None:
    from agents import CausalLMPolicy

    class WithHead(CausalLMPolicy):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.head = torch.nn.Linear(self.actor.hidden_size, 2)
            self.twin = self.head  # shared, as tied weights are

    agent = BC(WithHead, TOY, dataset=data, policy_kwargs={"model": "scratch"}, device="cpu")
    agent.save(tmp_path / "x")
    loaded = BC.load(tmp_path / "x", policy=WithHead, device="cpu")
    assert torch.equal(loaded.policy.head.weight, agent.policy.head.weight)  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match=r"heads are of another policy; .* \['head.bias'"):
        BC.load(tmp_path / "x", policy="CausalLMPolicy", device="cpu")
    make(data, policy_kwargs={"model": "scratch"}).save(tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"missing \['head.bias'"):
        agent.set_parameters(tmp_path / "plain")
    head = agent.policy.head.weight.clone()  # type: ignore[operator,union-attr]
    agent.set_parameters(tmp_path / "plain", exact_match=False)  # a warm start: the rest is new
    assert torch.equal(agent.policy.head.weight, head)  # type: ignore[arg-type,union-attr]


def test_callbacks_look_and_stop(data: EpisodeDataset, tmp_path: Path) -> None:
    evaluation = EvalCallback(
        text_envs.make_sb3(TOY, num_envs=4), eval_freq=5, n_eval_episodes=8, verbose=0,
        log_path=str(tmp_path), best_model_save_path=str(tmp_path),
    )  # fmt: skip
    saving = CheckpointCallback(save_freq=5, save_path=str(tmp_path), name_prefix="bc")
    agent = make(data).learn(200, callback=[evaluation, saving], log_interval=1)
    assert "eval/mean_reward" in agent.logger.name_to_value or evaluation.last_mean_reward >= 0
    assert list(tmp_path.glob("bc_*_steps.zip"))
    BC.load(tmp_path / "best_model", device="cpu")

    seen = []

    def stop(local: dict[str, Any], _: Any) -> bool:
        seen.append((len(local["batch"]), float(local["metrics"]["loss"])))
        return len(seen) < 3

    agent = make(data).learn(10_000, callback=stop)
    assert agent._n_updates == 3 and all(loss > 0 for _, loss in seen)


def test_progress_bar_counts_tokens(data: EpisodeDataset, capsys: Any) -> None:
    make(data).learn(n_epochs=1, progress_bar=True)
    shown = capsys.readouterr().err
    assert f"{data.num_steps}/{data.num_steps}" in shown and "tok" in shown and "loss=" in shown


def test_metrics_are_means_over_tokens(data: EpisodeDataset) -> None:
    records: list[dict[str, Any]] = []
    losses: list[tuple[int, float]] = []

    class Spy(Logger):
        def dump(self, step: int = 0) -> None:
            records.append(dict(self.name_to_value))
            super().dump(step)

    def note(local: dict[str, Any], _: Any) -> bool:
        losses.append((local["batch"].num_steps, float(local["metrics"]["loss"])))
        return True

    agent = make(data)
    agent.set_logger(Spy(None, []))
    agent.learn(n_epochs=1, log_interval=3, callback=note)
    assert [r["train/n_updates"] for r in records] == [3, 6, 8]
    weights, values = zip(*losses[:3], strict=True)
    assert records[0]["train/loss"] == pytest.approx(np.average(values, weights=weights), rel=1e-5)
    assert records[-1]["time/epochs"] == 1 and records[-1]["time/fps"] > 0
    assert records[-1]["time/total_timesteps"] == data.num_steps


def test_divergence_is_reported_before_the_weights_break(data: EpisodeDataset) -> None:
    agent = make(data)
    agent.policy.actor.lm.transformer.wte.weight.data[3] = torch.inf  # the embedding of padding
    agent.policy.actor.lm.transformer.wte.weight.data[4] = torch.nan
    before = agent.policy.actor.lm.transformer.wpe.weight.clone()
    with pytest.raises(FloatingPointError, match="the loss of update 1 is nan"):
        agent.learn(10)
    assert torch.equal(before, agent.policy.actor.lm.transformer.wpe.weight)


# -- environments and data ---------------------------------------------------------------------


def test_the_data_name_their_environment(data: EpisodeDataset, tmp_path: Path) -> None:
    agent = make(data, env=None)
    assert agent.env is not None and agent.env.get_attr("task")[0].max_tokens == 3
    path = save(collect(TOY, "random", 20, max_tokens=5), tmp_path / "toy.npz")
    agent = make(path, env=None)
    assert agent.env.get_attr("task")[0].max_tokens == 5  # type: ignore[union-attr]
    agent.learn(20)


def test_the_data_name_the_limit_of_their_environment() -> None:
    for limited in (collect(TOY, "random", 4, max_episode_steps=2), one_limited()):
        env = make(limited, env=None).get_env()
        env.reset()  # type: ignore[union-attr]
        for last in (False, True):
            _, _, dones, infos = env.step(np.zeros(16, dtype=int))  # type: ignore[union-attr]
            assert dones.tolist() == [last] * 16
        assert all(info["TimeLimit.truncated"] for info in infos)


def one_limited() -> EpisodeDataset:
    with gym.make(TOY, max_episode_steps=2) as env:
        return collect(env, lambda obs: np.zeros(len(obs), dtype=int), 4)


def test_why_an_environment_is_needed(data: EpisodeDataset) -> None:
    facts = {**data.metadata, "env_spec": None}
    with pytest.raises(ValueError, match="does not say how to make text_envs/Toy-v0 again"):
        make(dataclasses.replace(data, metadata=facts), env=None)


@pytest.mark.parametrize("env", [None, "other"])
def test_a_loaded_agent_refuses_other_tokens(
    data: EpisodeDataset, tmp_path: Path, env: str | None
) -> None:
    words = [word * 2 for word in text_envs.tasks.toy.Toy().tokenizer.words]
    other = text_envs.make_sb3(Renamed(words), num_envs=2)
    renamed = collect(other, np_uniform_3, 8)
    assert renamed.tokens.shape[1:] == data.tokens.shape[1:]
    make(data).save(tmp_path / "agent")
    given = {"env": None if env is None else other, "device": "cpu"}
    with pytest.raises(DatasetError, match="another tokenizer"):
        BC.load(tmp_path / "agent", dataset=renamed, **given)
    # What an agent was trained with is not forgotten by loading and saving without it.
    BC.load(tmp_path / "agent", device="cpu").save(tmp_path / "again")
    with pytest.raises(DatasetError, match="another tokenizer"):
        BC.load(tmp_path / "again", dataset=renamed, **given)
    BC.load(tmp_path / "again", dataset=data, device="cpu").learn(20)


class Renamed(text_envs.Task):
    """`Toy-v0` in other words."""

    reward = staticmethod(lambda episodes: np.zeros(len(episodes)))

    def __init__(self, words: list[str]) -> None:
        super().__init__(
            [text_envs.Example("")],
            tokenizer=WordTokenizer(words),
            prompt_length=1,
            max_tokens=3,
        )


def np_uniform_3(observations: Any) -> Any:
    return np.full((len(observations), 3), -np.log(3))


def test_rewards_beyond_float32_are_refused(data: EpisodeDataset) -> None:
    rewards = data.rewards * 1e300
    large = dataclasses.replace(data, rewards=rewards, source="large.npz")
    episode, column = np.argwhere(rewards > 1e39)[0]
    message = f"large.npz: episode {episode}, column {column}: rewards is 5e.299, which a float32"
    with pytest.raises(DatasetError, match=message):
        make(large)


def test_data_of_another_environment(data: EpisodeDataset) -> None:
    with pytest.raises(DatasetError, match="tokenizer"):
        make(data, env="text_envs/Maze-v0")
    with pytest.raises(DatasetError, match="max_tokens=3"):
        make(data, env=text_envs.make_sb3(TOY, num_envs=2, max_tokens=4))
    with pytest.raises(DatasetError, match="is forbidden"):
        make(data, policy_kwargs={"forbidden": [1]})


def test_any_kind_of_environment(data: EpisodeDataset) -> None:
    import gymnasium as gym

    for env in (gym.make(TOY), gym.make_vec(TOY, num_envs=3), text_envs.make_sb3(TOY, num_envs=2)):
        make(data, env=env).learn(20)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1, got 2.5"),
        ({"env": None, "num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0"),
        ({"env": None, "dataset": None}, "BC needs env, or a dataset that says"),
    ],
)
def test_arguments(data: EpisodeDataset, kwargs: dict[str, Any], message: str) -> None:
    given = kwargs.pop("dataset", data)
    with pytest.raises(ValueError, match=message):
        make(given, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"total_timesteps": 5, "n_epochs": 1}])
def test_one_length_is_given(data: EpisodeDataset, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either total_timesteps or n_epochs"):
        make(data).learn(**kwargs)


def test_multi_turn_data(echo: Echo) -> None:
    data = collect(text_envs.TokenVectorEnv(echo, num_envs=4), np_uniform, 12, seed=1)
    agent = make(data, env=text_envs.make_sb3(echo, num_envs=4))
    assert agent.data is not None
    assert agent.data.num_steps == data.num_steps
    assert agent.data.turn_ends.sum() > len(data)
    agent.learn(n_epochs=2)


def np_uniform(observations: Any) -> Any:
    return np.full((len(observations), 5), -np.log(5))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"total_timesteps": float("nan")}, "total_timesteps must be a finite number.* got nan"),
        ({"total_timesteps": -5}, "total_timesteps must be .* at least 0, got -5"),
        ({"n_epochs": float("nan")}, "n_epochs must be a finite number of at least 0, got nan"),
        ({"n_epochs": "2"}, "n_epochs must be a finite number of at least 0, got '2'"),
        ({"n_epochs": 1, "log_interval": 0}, "log_interval must be an integer of at least 1"),
    ],
)
def test_how_long_to_learn_is_checked(
    data: EpisodeDataset, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(data).learn(**kwargs)


def test_a_wrapper_of_the_recording_asks_for_an_environment() -> None:
    """Without it, the same texts would be paid otherwise."""
    clipped = collect(ClipReward(gym.make("text_envs/Maze-v0"), -0.5, 0.0), "expert", 2)
    with pytest.raises(ValueError, match="does not say how to make text_envs/Maze-v0 again"):
        make(clipped, env=None)


def test_a_model_that_lacks_tokens_of_replies_is_refused() -> None:
    data = recipe("wordle-mixed", 2, seed=0)  # 27 actions, and the colours of replies beyond
    with pytest.raises(ValueError, match="knows 30 tokens, the .* texts hold ids up to 33"):
        BC("CausalLMPolicy", dataset=data, policy_kwargs={"model": tiny_gpt2(30, positions=128)})
    value = {"model": "scratch", "value_model": tiny_gpt2(30, positions=128)}
    with pytest.raises(ValueError, match="knows 30 tokens, the .* texts hold ids up to 33"):
        ILQL("ValueGuidedPolicy", dataset=data, policy_kwargs=value)
    # Which appends tokens for returns: they must not take the ids of the replies.
    appended = {"model": tiny_gpt2(30, positions=128)}
    with pytest.raises(ValueError, match="knows 30 tokens, the .* texts hold ids up to 33"):
        DecisionTransformer("CausalLMPolicy", dataset=data, policy_kwargs=appended)


@pytest.mark.parametrize("kwargs", [{"variant": "utterance"}, {"policy_kwargs": {"candidates": 3}}])
def test_agents_that_plan_utterances_can_be_recorded(
    data: EpisodeDataset, kwargs: dict[str, Any]
) -> None:
    """Rows that are over are not shown to them, and the others keep their plans."""
    policy_kwargs = {"model": "scratch", **kwargs.get("policy_kwargs", {})}
    agent = ILQL(
        "ValueGuidedPolicy", dataset=data, seed=0, **kwargs | {"policy_kwargs": policy_kwargs}
    )
    played = collect("text_envs/Toy-v0", agent, 200, seed=1, num_envs=8)
    assert len(played) == 200 and played.terminated.all()
    again = collect("text_envs/Comments-v0", quick(), 20, seed=1)
    assert len(again) == 20


def quick() -> Any:
    return ILQL(
        "ValueGuidedPolicy", dataset=recipe("comments", 10, seed=1), variant="utterance", seed=0,
        policy_kwargs={"model": "scratch"},
    )  # fmt: skip


def test_callbacks_of_the_library_that_log_and_count(data: EpisodeDataset) -> None:
    class Count(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def _on_rollout_start(self) -> None:
            self.seen.append("start")

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            self.seen.append("end")

    count = Count()
    make(data).learn(n_epochs=2, callback=[LogEveryNTimesteps(10), count])
    assert count.seen and count.seen == ["start", "end"] * (len(count.seen) // 2)


def test_a_model_that_is_passed_stays_trainable(data: EpisodeDataset) -> None:
    lm = tiny_gpt2(6)
    ILQL("ValueGuidedPolicy", dataset=data, policy_kwargs={"model": lm}).learn(n_epochs=1)
    assert all(p.requires_grad for p in lm.parameters())
