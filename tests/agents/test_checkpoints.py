"""Saving without pickle, resuming exactly, and saying what is wrong with a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from transformers import GPTNeoConfig, GPTNeoForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

import text_envs
from agents import PPO, CausalLMPolicy, SaveEvery, load_lm, policy_kwargs_for
from agents.checkpoints import storage as checkpoints
from agents.checkpoints.storage import CheckpointError
from text_envs.tokenizers import WordTokenizer


class Kill(BaseCallback):
    """Raise in the middle of iteration number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.iteration, self.step = at, 0, 0

    def _on_rollout_start(self) -> None:
        self.iteration += 1
        self.step = 0

    def _on_step(self) -> bool:
        self.step += 1
        if self.iteration == self.at and self.step == 3:
            raise KeyboardInterrupt
        return True


def states(agent: Any) -> dict[str, torch.Tensor]:
    found = {f"policy.{k}": v for k, v in agent.policy.state_dict().items()}
    for index, state in agent.policy.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    if agent.reference is not None:
        found |= {f"reference.{k}": v for k, v in agent.reference.state_dict().items()}
    return found


def assert_equal(one: Any, other: Any) -> None:
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    for name in ("num_timesteps", "_n_updates", "kl_coef", "_episode_num"):
        assert getattr(one, name) == getattr(other, name), name
    assert list(one.ep_info_buffer) == list(other.ep_info_buffer)


TOTAL = 500


@pytest.mark.parametrize("name", ["run", "run.zip"])
@pytest.mark.parametrize("face", ["native", "dummy"])
def test_killed_and_resumed_equals_uninterrupted(
    make_agent: Any, share: Any, tmp_path: Path, name: str, face: str
) -> None:
    def make_env() -> Any:
        if face == "native":
            return text_envs.make_sb3(share, num_envs=8)
        return DummyVecEnv([lambda: text_envs.TokenEnv(share)] * 8)

    kwargs = {
        "kl_coef": 0.1, "kl_target": 0.5, "kl_horizon": 100, "n_episodes": 16,
        "learning_rate": LinearSchedule(1e-3, 1e-4, 1.0),
    }  # fmt: skip
    path = tmp_path / name
    whole = make_agent(make_env(), **kwargs).learn(TOTAL)
    broken = make_agent(make_env(), **kwargs)
    with pytest.raises(KeyboardInterrupt):
        broken.learn(TOTAL, callback=[SaveEvery(path), Kill(at=4)])
    torch.manual_seed(12345)
    np.random.seed(1)
    resumed = PPO.load(path, env=make_env(), device="cpu")
    assert 0 < resumed.num_timesteps < broken.num_timesteps < whole.num_timesteps
    resumed.learn(TOTAL - resumed.num_timesteps, reset_num_timesteps=False)
    assert_equal(whole, resumed)
    assert not list(tmp_path.glob(".*")), "temporary files are gone"


def test_resume_in_another_process(make_agent: Any, tmp_path: Path) -> None:
    """Nothing that matters lives in the process."""
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8)
    whole = make_agent(env, kl_coef=0.1).learn(TOTAL)
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8)
    with pytest.raises(KeyboardInterrupt):
        make_agent(env, kl_coef=0.1).learn(TOTAL, callback=[SaveEvery(tmp_path / "a"), Kill(at=3)])
    script = (
        "import torch, text_envs; from agents import PPO; torch.set_num_threads(1)\n"
        "env = text_envs.make_sb3('text_envs/Toy-v0', num_envs=8)\n"
        f"agent = PPO.load({str(tmp_path / 'a')!r}, env=env, device='cpu')\n"
        f"agent.learn({TOTAL} - agent.num_timesteps, reset_num_timesteps=False)\n"
        f"agent.save({str(tmp_path / 'b')!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ}, timeout=120)
    assert_equal(whole, PPO.load(tmp_path / "b", device="cpu"))


def test_saving_changes_nothing(make_agent: Any, tmp_path: Path) -> None:
    one = make_agent().learn(300)
    other = make_agent().learn(300, callback=SaveEvery(tmp_path / "x", iterations=2))
    assert_equal(one, other)
    loaded = PPO.load(tmp_path / "x", device="cpu")
    assert_equal(one, loaded)
    loaded.save(tmp_path / "y")  # without having gone on in between
    assert_equal(one, PPO.load(tmp_path / "y", device="cpu"))


def test_arguments_come_back(make_agent: Any, tmp_path: Path) -> None:
    agent = make_agent(
        n_episodes=24, batch_size=6, gamma=0.9, clip_range=LinearSchedule(0.2, 0.1, 0.5),
        clip_range_vf=0.3, normalize_advantage=False, target_kl=0.1, stats_window_size=7,
        policy_kwargs={
            "temperature": 0.7, "forbidden": [1, 2], "value_hidden": [8], "detach_value": True,
            "optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1},
        },
    )  # fmt: skip
    agent.save(tmp_path / "x.zip")
    loaded = PPO.load(tmp_path / "x", device="cpu")
    for name in ("n_episodes", "batch_size", "gamma", "normalize_advantage", "target_kl", "seed"):
        assert getattr(loaded, name) == getattr(agent, name), name
    for progress in (1.0, 0.7, 0.2):
        assert loaded.clip_range(progress) == agent.clip_range(progress)
    assert loaded.clip_range_vf(0.5) == 0.3 and loaded._stats_window_size == 7
    for name in ("pad_id", "bos_id", "prompt_length", "forbidden", "temperature", "detach_value"):
        assert loaded.policy.arguments[name] == agent.policy.arguments[name], name
    assert isinstance(loaded.policy.optimizer, torch.optim.AdamW)
    assert loaded.policy.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert loaded.observation_space == agent.observation_space
    assert PPO.load(tmp_path / "x", gamma=1.0).gamma == 1.0


def test_predictions_come_back_without_an_environment(make_agent: Any, tmp_path: Path) -> None:
    agent = make_agent().learn(200)
    agent.save(tmp_path / "x")
    agent.policy.save(tmp_path / "p")
    obs = agent.env.reset()
    wanted, _ = agent.predict(obs, deterministic=True)
    lm, _ = load_lm(tmp_path / "x" / "policy" / "lm")
    assert torch.equal(lm.transformer.wte.weight, agent.policy.actor.lm.transformer.wte.weight)
    for loaded in (
        PPO.load(tmp_path / "x", device="cpu"),
        CausalLMPolicy.load(tmp_path / "x", device="cpu"),
        CausalLMPolicy.load(tmp_path / "p", device="cpu"),
    ):
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], wanted)


def test_parameters_get_and_set(make_agent: Any, tmp_path: Path) -> None:
    agent = make_agent().learn(200)
    agent.save(tmp_path / "x.zip")
    for source in (tmp_path / "x.zip", agent.get_parameters()):
        other = make_agent(seed=9)
        other.set_parameters(source)
        one, two = states(agent), states(other)
        assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(ValueError, match="do not match"):
        make_agent().set_parameters({"policy": agent.policy.state_dict()})


def test_no_file_is_a_pickle(make_agent: Any, tmp_path: Path) -> None:
    make_agent(kl_coef=0.1).learn(100, callback=SaveEvery(tmp_path / "x"))
    names = {p.relative_to(tmp_path / "x").as_posix() for p in (tmp_path / "x").rglob("*.*")}
    assert {Path(name).suffix for name in names} == {".json", ".safetensors"}
    assert {"config.json", "policy/lm/model.safetensors", "reference/model.safetensors"} <= names
    for name in names:
        if name.endswith(".json"):
            json.loads((tmp_path / "x" / name).read_text())


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
@pytest.mark.parametrize(
    "file", ["config.json", "optimizer.safetensors", "policy/lm/model.safetensors", "state.json"]
)
def test_damaged_files_are_named(make_agent: Any, tmp_path: Path, file: str, damage: str) -> None:
    make_agent().save(tmp_path / "x")
    path = tmp_path / "x" / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        half = len(content) // 2
        cut = content[:half]
        path.write_bytes(cut if damage == "truncate" else cut + b"\xff" + content[half + 1 :])
    expected = "no checkpoint" if file == "config.json" else file
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'x'}.*{expected}"):
        PPO.load(tmp_path / "x")


def test_the_ending_of_an_archive_may_be_missing_or_too_much(
    make_agent: Any, tmp_path: Path
) -> None:
    agent = make_agent()
    agent.save(tmp_path / "best_model")  # as Stable-Baselines3's EvalCallback does
    agent.save(tmp_path / "archive.zip")
    for name in ("best_model", "best_model.zip", "archive", "archive.zip"):
        loaded = PPO.load(tmp_path / name)
        for key, value in agent.policy.state_dict().items():
            assert torch.equal(value, loaded.policy.state_dict()[key])


def test_damaged_and_foreign_archives(make_agent: Any, tmp_path: Path, gpt2: Any) -> None:
    import stable_baselines3

    make_agent().save(tmp_path / "x.zip")
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"x\.zip is truncated"):
        PPO.load(tmp_path / "x.zip")
    stable_baselines3.PPO("MlpPolicy", gym.make("CartPole-v1"), device="cpu").save(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"no checkpoint of text_envs \(one of Stable"):
        PPO.load(tmp_path / "s.zip")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        PPO.load(tmp_path / "nothing")
    make_agent().policy.save(tmp_path / "p")
    with pytest.raises(CheckpointError, match="saved by a policy alone, not by PPO"):
        PPO.load(tmp_path / "p")


def test_what_is_no_checkpoint_is_not_overwritten(make_agent: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(ValueError, match="is not overwritten"):
        make_agent().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_a_failed_save_leaves_the_old_one(
    make_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent()
    for name in ("x", "x.zip"):
        agent.save(tmp_path / name)

        def fail(*args: Any) -> None:
            raise OSError("disk full")

        with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
            patched.setattr("agents.checkpoints.algorithms.save_tree", fail)
            agent.save(tmp_path / name)
        assert_equal(agent, agent) if agent.ep_info_buffer else None
        PPO.load(tmp_path / name)
        assert not list(tmp_path.glob(".*"))


def test_killed_between_two_renames(make_agent: Any, tmp_path: Path) -> None:
    """A folder cannot be exchanged in one step; the old one is found where it was moved to."""
    make_agent().save(tmp_path / "x")
    (tmp_path / ".x.abc").mkdir()
    (tmp_path / "x").rename(tmp_path / ".x.abc" / "previous")
    PPO.load(tmp_path / "x")


def test_schedules_that_json_cannot_hold(make_agent: Any, tmp_path: Path) -> None:
    agent = make_agent(learning_rate=lambda progress: 1e-3 * progress)
    agent.save(tmp_path / "x")
    with pytest.raises(CheckpointError, match="pass learning_rate=... to load"):
        PPO.load(tmp_path / "x")
    PPO.load(tmp_path / "x", learning_rate=1e-3)


def test_an_environment_that_does_not_fit(make_agent: Any, tmp_path: Path) -> None:
    make_agent().save(tmp_path / "x")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        PPO.load(tmp_path / "x", env=text_envs.make_sb3("text_envs/Toy-v0", num_envs=8))


@pytest.mark.parametrize("other", ["fewer rows", "another face"])
def test_resume_with_other_environments(
    make_agent: Any, share: Any, tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on, and says that it is not exactly what it would have been."""
    make_agent().learn(200, callback=SaveEvery(tmp_path / "x"))
    if other == "fewer rows":
        env: Any = text_envs.make_sb3(share, num_envs=4)
    else:
        env = DummyVecEnv([lambda: text_envs.TokenEnv(share)] * 8)
    agent = PPO.load(tmp_path / "x", env=env, device="cpu")
    before = agent.num_timesteps
    agent.learn(100, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 100
    assert "reset instead of restored" in caplog.text


def test_trees_of_values_and_arrays(tmp_path: Path) -> None:
    tree = {
        "a": [1, 2.5, None, "x", True, 2**100],
        "b": {"c": np.arange(3, dtype=np.uint8), "d": torch.ones(2, 0)},
        "e": np.bool_(True), "f": np.array(3.0), "g": float("inf"),
    }  # fmt: skip
    checkpoints.save_tree(tree, tmp_path, "t")
    back = checkpoints.load_tree(tmp_path, "t")
    assert back["a"] == tree["a"] and back["e"] is True and back["g"] == float("inf")
    np.testing.assert_array_equal(back["b"]["c"], tree["b"]["c"])  # type: ignore[index,call-overload]
    assert back["b"]["c"].dtype == np.uint8 and back["b"]["d"].shape == (2, 0)
    assert back["f"].shape == ()
    with pytest.raises(TypeError, match=r"t\.x\[1\] is a set"):
        checkpoints.save_tree({"x": [1, {2}]}, tmp_path, "t")
    with pytest.raises(TypeError, match="array of object"):
        checkpoints.save_tree({"x": np.array([None])}, tmp_path, "t")


def test_archives_do_not_escape_their_folder(make_agent: Any, tmp_path: Path) -> None:
    make_agent().save(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("../evil.txt", "boo")
    PPO.load(tmp_path / "x.zip")
    assert not (tmp_path / "evil.txt").exists() and not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("face", ["single", "rows", "monitored"])
def test_rows_inside_wrappers_go_on_exactly(tmp_path: Path, face: str) -> None:
    """Texts of one token end together, so that nobody resets the wrappers after the roll-out."""

    def environment() -> Any:
        def one() -> Any:
            return gym.make("text_envs/Toy-v0", max_tokens=1)

        if face == "single":
            return one()
        return DummyVecEnv([one] * 2) if face == "rows" else make_vec_env(one, 2)

    def agent_on(env: Any) -> PPO:
        return PPO("CausalLMPolicy", env, n_episodes=8, seed=0, device="cpu",
                   policy_kwargs={"model": {"layers": 1, "width": 16}})  # fmt: skip

    straight = agent_on(environment()).learn(8)
    straight.save(tmp_path / "x")
    straight.learn(16, reset_num_timesteps=False)
    again = PPO.load(tmp_path / "x", env=environment(), device="cpu")
    again.learn(16, reset_num_timesteps=False)
    assert torch.equal(*(torch.cat([p.flatten() for p in a.policy.parameters()])
                         for a in (straight, again)))  # fmt: skip


def small_family(name: str) -> Any:
    if name == "neox":
        config: Any = GPTNeoXConfig(
            vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16,
        )  # fmt: skip
        return GPTNeoXForCausalLM(config)
    config = GPTNeoConfig(
        vocab_size=6, hidden_size=16, num_layers=1, num_heads=2, max_position_embeddings=16,
        attention_types=[[["global"], 1]], intermediate_size=32,
    )  # fmt: skip
    return GPTNeoForCausalLM(config)


@pytest.mark.parametrize("family", ["neox", "neo"])
def test_families_with_other_names_on_disk_or_slow_attention_only(
    tmp_path: Path, family: str
) -> None:
    kwargs: dict[str, Any] = {"n_episodes": 8, "device": "cpu", "seed": 0}
    agent = PPO(
        "CausalLMPolicy", "text_envs/Toy-v0", policy_kwargs={"model": small_family(family)},
        kl_coef=0.1, **kwargs,
    ).learn(20)  # fmt: skip
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", env="text_envs/Toy-v0")
    for one, other in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    PPO("CausalLMPolicy", "text_envs/Toy-v0", policy_kwargs={"model": tmp_path / "agent"}, **kwargs)


def test_a_seed_after_loading_counts(make_agent: Any, share: Any, tmp_path: Path) -> None:
    make_agent().learn(100).save(tmp_path / "x")

    def after(reset: bool, **seed: int) -> torch.Tensor:
        env = text_envs.make_sb3(share, num_envs=8)
        agent = PPO.load(tmp_path / "x", env=env, device="cpu", **seed)
        agent.learn(100, reset_num_timesteps=reset)
        return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])

    for reset in (True, False):
        assert torch.equal(after(reset, seed=5), after(reset, seed=5))
        assert not torch.equal(after(reset, seed=5), after(reset, seed=6))
    assert torch.equal(after(True), after(True))


def test_what_the_library_s_load_takes(make_agent: Any, tmp_path: Path) -> None:
    make_agent().save(tmp_path / "x")
    changed = {"learning_rate": 0.5}
    agent = PPO.load(
        tmp_path / "x", custom_objects=changed, print_system_info=False, force_reset=True
    )
    assert agent.learning_rate == 0.5


def test_other_words_are_refused_wherever_they_come_from(
    make_agent: Any, share: Any, tmp_path: Path
) -> None:
    class Turned(type(share)):  # type: ignore[misc]
        """The same words in the other order."""

        def __init__(self) -> None:
            words = list(share.tokenizer.words)[:12][::-1]
            text_envs.Task.__init__(
                self, [share.example(i) for i in range(len(share))],
                tokenizer=WordTokenizer(words), prompt_length=share.prompt_length,
                max_tokens=share.max_tokens,
            )  # fmt: skip

    agent = make_agent()
    other = text_envs.make_sb3(Turned(), num_envs=8)
    with pytest.raises(ValueError, match="this PPO learnt with another tokenizer"):
        agent.set_env(other)
    agent.save(tmp_path / "x")
    with pytest.raises(ValueError, match="this PPO learnt with another tokenizer"):
        PPO.load(tmp_path / "x").set_env(other)
    kwargs: dict[str, Any] = {"policy_kwargs": {"model": "scratch"}, "n_episodes": 8}
    with pytest.raises(ValueError, match="the agent in .*x learnt with another tokenizer"):
        PPO("CausalLMPolicy", other, **kwargs).set_parameters(tmp_path / "x")
    with pytest.raises(ValueError, match="policy PPO learnt with another tokenizer"):
        text_envs.datasets.collect(other, agent, 2)


def test_the_default_model_knows_the_words() -> None:
    def model_of(env_id: str) -> Any:
        kwargs = policy_kwargs_for(gym.make(env_id))
        return kwargs["model"]

    assert model_of("text_envs/Reviews-v0") == "reviews"
    assert model_of("text_envs/Wordle-v0").config.vocab_size < 40
    with pytest.raises(ValueError, match="model has the tokenizer WordTokenizer.*'scratch'"):
        PPO("CausalLMPolicy", "text_envs/Wordle-v0", n_episodes=8,
            policy_kwargs={"model": "reviews"})  # fmt: skip


class Fixed(CausalLMPolicy):
    """A policy that names what it takes."""

    def __init__(
        self, observation_space: Any, action_space: Any, lr_schedule: Any, *, model: Any,
        pad_id: int, bos_id: int, eos_id: int, prompt_length: int, forbidden: Any,
        use_sde: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            observation_space, action_space, lr_schedule, model=model, pad_id=pad_id,
            bos_id=bos_id, eos_id=eos_id, prompt_length=prompt_length, forbidden=forbidden,
        )  # fmt: skip


def test_a_policy_of_few_arguments(tmp_path: Path) -> None:
    agent = PPO(Fixed, "text_envs/Toy-v0", n_episodes=8, policy_kwargs={"model": "scratch"})
    assert agent.policy.vocabulary is not None
    agent.policy.save(tmp_path / "policy")


def test_an_algorithm_without_environment() -> None:
    with pytest.raises(ValueError, match="PPO needs env; accepted: an id"):
        PPO("CausalLMPolicy", None)
