"""Where models are put that are named: by guides, references and rewards."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch

from agents import PPOPlusPlus
from text_envs.guides import as_guide
from text_envs.guides.roll_in import GuidedStarts
from text_envs.guides.shaping import ReferenceShaping
from text_envs.lm.devices import pick_device
from text_envs.policies import as_log_probs
from text_envs.rewards import resolve
from text_envs.tasks.reviews import Reviews


class Asked(Exception):
    """Which device a model was to be put on."""


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let loading a model raise `Asked`, so that no device need be there."""

    def load(name: Any, *, device: Any = "cpu", **_: Any) -> Any:
        raise Asked(str(device))

    monkeypatch.setattr("text_envs.lm.load_lm", load)
    monkeypatch.setattr("text_envs.lm.loading.load_lm", load)
    return load


REVIEWS = "text_envs/Reviews-v0"


@pytest.mark.parametrize(
    "use",
    [
        lambda device: as_log_probs("reviews", Reviews(), device),
        lambda device: as_guide("reviews", Reviews(), device=device),
        lambda device: gym.make(REVIEWS, starts=GuidedStarts("reviews", device=device)),
        lambda device: gym.make(
            REVIEWS, starts=GuidedStarts("reviews", guide_kwargs={"device": device})
        ),
        lambda device: gym.make(REVIEWS, shaping=ReferenceShaping("reviews", 0.1, device=device)),
        lambda device: resolve("likelihood", device=device),
        lambda device: gym.make("text_envs/LikelihoodContinuation-v0", device=device),
    ],
)
def test_devices_are_handed_through(use: Any, spy: Any) -> None:
    with pytest.raises(Asked, match="^meta$"):
        use("meta")


def test_a_named_guide_goes_where_its_agent_is(spy: Any) -> None:
    with pytest.raises(Asked, match="^cpu$"):
        PPOPlusPlus(
            "CausalLMPolicy", REVIEWS, guide="reviews", num_envs=2, n_episodes=2, batch_size=2,
            device="cpu",
            policy_kwargs={"model": _tiny()},
        )  # fmt: skip


def _tiny() -> Any:
    from models import tiny_gpt2

    return tiny_gpt2(Reviews().tokenizer.vocab_size, positions=64)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device(torch.device("cpu")) == pick_device("cpu") == torch.device("cpu")


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="'cuda:3' is not here: PyTorch finds 1"):
        pick_device("cuda:3")
    with pytest.raises(ValueError, match="unknown device 'gpu'; accepted: 'auto', 'cpu', 'cuda'"):
        as_log_probs("reviews", Reviews(), "gpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        resolve("likelihood", device="gpu")
