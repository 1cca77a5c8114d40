"""Savers that are killed at any moment: the newest whole checkpoint is found, and nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents import PPO
from agents.checkpoints.archive import open_checkpoint
from agents.checkpoints.storage import writing_checkpoint

# One process makes an agent and forks savers, so that a trial costs milliseconds.
TRIALS = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from agents import PPO
from agents.checkpoints.archive import open_checkpoint

torch.set_num_threads(1)
path, rng = Path(sys.argv[1]), random.Random(0)
agent = PPO("CausalLMPolicy", "text_envs/Toy-v0", n_episodes=8, device="cpu", seed=0,
            policy_kwargs={"model": {"layers": 1, "width": 8}})
agent.num_timesteps = 0
agent.save(path)
PPO.load(path, device="cpu")  # what the first call imports is not what is measured
start = time.time()
agent.save(path)
duration = time.time() - start
trials = between = 0
until = time.time() + float(sys.argv[2])
while time.time() < until and trials < 60:
    trials += 1
    ours, theirs = os.pipe()
    first = agent.num_timesteps
    child = os.fork()
    if child == 0:
        os.close(ours)
        while True:
            agent.num_timesteps += 1
            agent.save(path)
            os.write(theirs, b".")
    os.close(theirs)
    time.sleep(rng.random() * 3 * duration)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = b""
    while part := os.read(ours, 4096):
        done += part
    os.close(ours)
    between += not path.exists()
    saved = first + len(done)
    found = PPO.load(path, device="cpu").num_timesteps
    assert saved <= found <= saved + 1, (saved, found)
    agent.num_timesteps = found
    if rng.random() < 0.5:  # else what is left adds up
        agent.save(path)
        left = [p.name for p in path.parent.iterdir() if p != path]
        assert not left, left
print(trials, between)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
@pytest.mark.parametrize("name", ["run", "run.zip"])
def test_killed_at_random_moments(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", TRIALS, str(tmp_path / name), "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= 10


def small_agent() -> Any:
    return PPO(
        "CausalLMPolicy", "text_envs/Toy-v0", n_episodes=8, device="cpu", seed=0,
        policy_kwargs={"model": {"layers": 1, "width": 8}},
    )  # fmt: skip


class Killed(BaseException):
    pass


def killed_save(agent: Any, path: Path, rename: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save, and leave everything as a kill right before rename number `rename` would."""
    real, calls = os.replace, iter(range(1, 100))

    def replace(*args: Any) -> None:
        if next(calls) >= rename:
            raise Killed
        real(*args)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("os.replace", replace)
        patched.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        agent.save(path)


def test_several_killed_saves_in_a_row_are_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the renames again and again, nothing was ever saved to its place."""
    agent, path = small_agent(), tmp_path / "run"
    agent.save(path)
    for number in range(1, 12):
        agent.num_timesteps = number
        # The config's rename, that of the old one if it is there, that of the new one.
        killed_save(agent, path, 3 if path.exists() else 2, monkeypatch)
        assert PPO.load(path, device="cpu").num_timesteps == number
    assert len(list(tmp_path.iterdir())) >= 11
    agent.num_timesteps = 50
    agent.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert PPO.load(path, device="cpu").num_timesteps == 50


def test_a_damaged_survivor_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, path = small_agent(), tmp_path / "run"
    agent.save(path)
    agent.num_timesteps = 1
    killed_save(agent, path, 3, monkeypatch)
    (newest,) = tmp_path.glob(".run.*/tree")
    (newest / "state.json").write_bytes(b"{}")
    assert PPO.load(path, device="cpu").num_timesteps == 0


def test_an_interrupt_between_the_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, path = small_agent(), tmp_path / "run"
    agent.save(path)
    real, calls = os.replace, iter(range(1, 100))

    def replace(*args: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("os.replace", replace)
        agent.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    PPO.load(path, device="cpu")


def test_writers_that_live_and_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    agent, path = small_agent(), tmp_path / "run"
    (tmp_path / ".run.notes").mkdir()
    (tmp_path / ".run.notes" / "mine.txt").write_text("...")
    with writing_checkpoint(path, {"by": "a slow one"}) as tree:
        (tree / "weights").write_text("...")
        agent.save(path)
        agent.save(tmp_path / "run.zip")
        assert tree.is_dir()
    with open_checkpoint(path) as (_, config):
        assert config["by"] == "a slow one"
    assert {p.name for p in tmp_path.iterdir()} == {"run", "run.zip", ".run.notes"}
