"""What is set on an agent that is made reaches everything that depends on it, or is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.utils import LinearSchedule
from test_arguments import ALGORITHMS as CLASSES
from test_copies import ALGORITHMS, TOY, make

import agents
import text_envs
from agents.common.arguments import parameters_of
from agents.common.settings import Setting
from agents.losses.on_policy import kl_k1
from agents.policies.instructed import InstructedPolicy
from agents.policies.return_conditioned import ReturnConditionedPolicy
from agents.policies.two_critics import TwoCriticPolicy
from agents.rollouts.episodes import score
from text_envs import datasets

POLICIES = [
    agents.CausalLMPolicy, agents.Seq2SeqPolicy, InstructedPolicy, ReturnConditionedPolicy,
    agents.ValueGuidedPolicy, TwoCriticPolicy,
]  # fmt: skip

# Another value that can be used, and one that cannot, of every setting.
VALUES: dict[str, tuple[Any, Any]] = {
    "awac_max_weight": (5.0, 0), "baseline": (None, "mean"), "batch_size": (4, 0),
    "beta": (0.25, -1), "beta_train": (0.5, -1), "buffer_limit": (9, 0), "clip_range": (0.1, -1),
    "clip_range_vf": (0.3, 0), "contrastive_coef": (0.5, -1), "cql_weight": (0.2, -1),
    "credit": ("to_go", "x"), "divergence": ("js", "x"), "ent_coef": (0.01, -1),
    "fit_episodes": (16, 0), "gae_lambda": (0.5, 2), "gamma": (0.5, 1.5), "group_size": (4, 3),
    "kl_coef": (0.3, -1), "kl_horizon": (50.0, 0), "kl_target": (0.7, 0),
    "label_smoothing": (0.1, 1), "learning_rate": (1e-5, -1.0), "max_grad_norm": (0.5, 0),
    "micro_batch_size": (2, 0),
    "n_episodes": (16, 7), "n_epochs": (3, 0), "negatives": ("batch", "x"),
    "normalize_advantage": (False, 1),
    "polyak": (0.5, 0), "proposal_interval": (4, 0), "stats_window_size": (7, 0),
    "strict": (True, 1), "target": ("mc", "x"), "target_kl": (0.2, 0), "target_return": (0.5, "x"),
    "tau": (0.6, 2), "tensorboard_log": (None, 3), "to_the_end": (False, 1),
    "verbose": (0, -1), "vf_coef": (0.2, -1), "weight_decay": (0.2, -1),
}  # fmt: skip
# Of the values above, what a class takes in another form, or must have as it was made.
SPECIAL = {
    ("D2LOLS", "tau"): (3, -1), ("DPG", "baseline"): (False, 3), ("GRPO", "baseline"): ("group", 3),
    ("RLOO", "baseline"): ("batch", 3), ("REINFORCE", "baseline"): ("none", 3),
    ("GRPO", "credit"): ("text", "to_go"), ("GRPO", "gamma"): (1, 0.5), ("RLOO", "gamma"): (1, 0.5),
    ("REINFORCE", "gamma"): (1, 0.5), ("PPO", "group_size"): (2, 3),
    ("ILQL", "awac_weight"): (0.0, 1.0), ("DPG", "batch_size"): (None, 9),
    ("ILQL", "tau"): (0.6, 1), ("DPG", "n_episodes"): (16, 7),
}  # fmt: skip
# What only ever stands for the whole of training, and is refused once an agent is made.
MODEL_FREE = {"reference"}


def kinds(cls: Any) -> dict[str, str]:
    """Return of every argument of a class whether it is "live" or "fixed" once it is made."""
    fixed = set().union(*(vars(kind).get("fixed", ()) for kind in cls.__mro__))
    found = {}
    for name in parameters_of(cls):
        if name.startswith("_"):
            continue
        live = inspect.getattr_static(cls, name, None)
        settable = isinstance(live, Setting) or getattr(live, "fset", None) is not None
        found[name] = "live" if settable else "fixed" if name in fixed else "neither"
    return found


@pytest.mark.parametrize("cls", [*CLASSES, *POLICIES], ids=lambda cls: cls.__name__)
def test_every_argument_is_a_setting_or_fixed(cls: Any) -> None:
    neither = [name for name, kind in kinds(cls).items() if kind == "neither"]
    assert not neither, f"{cls.__name__}: setting {neither} would reach nothing"


@pytest.fixture(scope="module")
def recorded() -> Any:
    return datasets.collect(TOY, "random", 24, seed=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_settings_are_checked_used_saved_and_loaded(
    name: str, recorded: Any, tmp_path: Path
) -> None:
    agent = make(name, recorded)
    given = {}
    for setting, kind in kinds(type(agent)).items():
        if kind == "fixed":
            with pytest.raises(AttributeError, match=f"{setting} cannot be set.*accepted: "):
                setattr(agent, setting, 1)
        elif setting not in MODEL_FREE:
            value, bad = SPECIAL.get((name, setting)) or VALUES[setting]
            before = getattr(agent, setting)
            with pytest.raises(ValueError, match=f"{setting}"):
                setattr(agent, setting, bad)
            assert getattr(agent, setting) is before or getattr(agent, setting) == before
            given[setting] = value
    for setting in sorted(given, key=lambda n: (n == "batch_size", n == "group_size")):
        setattr(agent, setting, given[setting])
    agent.learn(16)
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent", device="cpu")
    for setting, value in given.items():
        for one in (agent, again):
            found = getattr(one, setting)
            found = found(1.0) if callable(found) and not isinstance(value, str) else found
            if setting != "kl_coef":  # which adapts
                assert found == value, setting
    assert again.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def kl_of_equal_weights(agent: Any) -> float:
    """Return the KL of the policy from its reference, in a roll-out that it plays now."""
    torch.manual_seed(0)
    collected = agent._play(agent.env, agent.env.reset(), lambda step: True)
    rollout = collected.rollout
    reference = score(agent.reference, rollout)
    return float(kl_k1(rollout.log_probs, reference, rollout.mask).abs().max())


@pytest.mark.parametrize("name", ["PPO", "RLOO", "GRPO", "REINFORCE", "AggreVaTeD", "LOLS"])
@pytest.mark.parametrize("setter", ["actor", "policy"])
def test_equal_weights_have_no_kl_whatever_the_temperature(
    name: str, setter: str, recorded: Any
) -> None:
    agent = make(name, recorded)
    for temperature in (0.5, 2.0):
        owner = agent.policy.actor if setter == "actor" else agent.policy
        owner.temperature = temperature
        assert agent.reference.temperature == agent.policy.temperature == temperature
        if name in ("PPO", "RLOO", "GRPO", "REINFORCE"):
            assert kl_of_equal_weights(agent) < 1e-5
        agent.learn(1, callback=lambda scope, _: False)


@pytest.mark.parametrize("proposal", ["policy", "adaptive", "reference"])
def test_proposal_and_target_have_the_temperature(proposal: str, tmp_path: Path) -> None:
    agent = agents.DPG(
        "CausalLMPolicy", TOY, beta=1e6, proposal=proposal, n_episodes=64, num_envs=8, seed=0,
        learning_rate=0.0, device="cpu", policy_kwargs={"model": {"layers": 1, "width": 16}},
    )  # fmt: skip
    with torch.no_grad():  # far from uniform, so that a temperature matters
        for parameter in agent.reference.lm.parameters():
            parameter.mul_(4)
        agent.policy.actor.lm.load_state_dict(agent.reference.lm.state_dict())
        if agent._sampler is not None:
            agent._sampler.actor.lm.load_state_dict(agent.reference.lm.state_dict())
    agent.policy.actor.temperature = 0.5
    agent.learn(64)
    # The reward hardly counts, so target, policy and proposal are the same distribution.
    logged = agent.logger.name_to_value
    assert agent.behaviour.actor.temperature == 0.5
    for name in ("target/kl_p_pi", "target/kl_p_q", "target/tvd", "target/log_z"):
        assert abs(logged.get(name, 0.0)) < 1e-4, name
    agent.save(tmp_path / "agent")
    again = agents.DPG.load(tmp_path / "agent", env=TOY, device="cpu")
    assert again.reference.temperature == again.policy.temperature == 0.5
    assert again.behaviour.actor.temperature == 0.5


def test_the_goal_is_the_reference_s_too() -> None:
    agent = agents.PPO(
        "InstructedPolicy", TOY, kl_coef=0.1, n_episodes=16, num_envs=4, seed=0, device="cpu",
        policy_kwargs={"model": {"layers": 1, "width": 16, "columns": 8}},
    )  # fmt: skip
    for goal in (0, 1):
        agent.policy.goal = goal
        assert agent.reference.goal == goal
        assert kl_of_equal_weights(agent) < 1e-5


def test_the_wanted_return_is_the_reference_s_too() -> None:
    agent = agents.PPO(
        ReturnConditionedPolicy, TOY, kl_coef=0.1, n_episodes=16, num_envs=4, device="cpu",
        policy_kwargs={
            "model": {"layers": 1, "width": 16, "columns": 8}, "returns": [0.0, 1.0, 2.0],
        },
    )  # fmt: skip
    for wanted in (0.0, 1.0, 2.0):
        agent.policy.target_return = wanted
        assert agent.reference.level == agent.policy.actor.level == int(wanted)
        assert kl_of_equal_weights(agent) < 1e-5
    with pytest.raises(ValueError, match="needed; accepted: a model that was saved with such"):
        agent.reference = text_envs.lm.make_lm(TOY, 8)


def test_a_reference_may_be_exchanged_and_is_saved_as_it_is(tmp_path: Path) -> None:
    other = text_envs.lm.make_lm(TOY, layers=1, width=16, seed=7)
    agent = make("PPO", None)
    agent.reference = other
    assert kl_of_equal_weights(agent) > 0
    agent.save(tmp_path / "a")
    again = agents.PPO.load(tmp_path / "a", device="cpu")
    for one, two in zip(again.reference.lm.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    agent.reference = agent.policy.actor
    assert kl_of_equal_weights(agent) < 1e-5
    with pytest.raises(ValueError, match="reference must be a model"):
        agent.reference = None
    free = agents.PPO("CausalLMPolicy", TOY, n_episodes=8, policy_kwargs={"model": "scratch"})
    with pytest.raises(ValueError, match=r"kl_coef=0.1 needs a reference.*agent\.reference = "):
        free.kl_coef = 0.1
    assert free.kl_coef == 0
    free.reference = other
    free.kl_coef = 0.1
    free.learn(16)
    assert "rollout/kl_ref" in free.logger.name_to_value or free.reference is not None


def test_a_bundled_reference_that_was_changed_is_saved_whole(tmp_path: Path) -> None:
    agent = agents.PPO("CausalLMPolicy", "text_envs/Reviews-v0", n_episodes=8, kl_coef=0.1,
                       device="cpu")  # fmt: skip
    assert agent.reference_name == "reviews"
    with torch.no_grad():
        next(agent.reference.lm.parameters()).add_(1.0)
    assert agent.reference_name is None
    agent.save(tmp_path / "a")
    again = agents.PPO.load(tmp_path / "a", device="cpu")
    assert torch.equal(next(again.reference.lm.parameters()), next(agent.reference.lm.parameters()))


@pytest.mark.parametrize(
    ("name", "value"),
    [("lm", "new"), ("bos_id", 1), ("pad_id", 1), ("num_actions", 2), ("prompt_length", 3)],
)
def test_what_an_actor_is_made_of_cannot_be_replaced(name: str, value: Any, recorded: Any) -> None:
    actor = make("PPO", recorded).policy.actor
    value = text_envs.lm.make_lm(TOY) if value == "new" else value
    with pytest.raises(AttributeError, match=rf"{name} of ActionLM cannot be set.*load_state_dict"):
        setattr(actor, name, value)


def test_settings_of_a_guided_policy(recorded: Any, tmp_path: Path) -> None:
    agent = make("ILQL", recorded)
    new = {"beta": 3.0, "top_k": 2, "top_p": 0.5, "advantage_clip": 1.5, "log_prob_weight": 0.5,
           "max_turn_tokens": 2, "candidates": 3, "temperature": 0.5}  # fmt: skip
    for name, value in new.items():
        setattr(agent.policy, name, value)
    assert agent.beta == 3.0 and agent.policy.plans.candidates == 3
    agent.save(tmp_path / "a")
    again = agents.ILQL.load(tmp_path / "a", device="cpu")
    assert {name: getattr(again.policy, name) for name in new} == new
    agent.policy.candidates = None
    assert agent.policy.plans is None
    obs = agent.env.reset()
    agent.policy.top_p, agent.policy.beta = None, 0.0
    agent.policy.top_k = 1
    assert len({tuple(agent.predict(obs)[0]) for _ in range(5)}) == 1, "only the likeliest token"
    with pytest.raises(AttributeError, match=r"top_p is the policy's; accepted: agent\.policy"):
        agent.top_p = 0.3


def test_plans_of_another_temperature_are_dropped(recorded: Any) -> None:
    policy = make("ILQL", recorded).policy
    policy.candidates = 2
    obs = text_envs.make_sb3(TOY, num_envs=8).reset()
    policy.predict(obs)
    assert policy.plans.waiting
    made = policy.plans.made_by
    policy.actor.temperature = 0.1
    policy.predict(obs)
    assert policy.plans.made_by != made


def test_schedules_and_the_learning_rate_reach_the_optimiser() -> None:
    agent = make("PPO", None)
    agent.learning_rate = LinearSchedule(1e-2, 0.0, 1.0)
    agent.clip_range = 0.05
    agent.learn(16)
    assert agent.policy.optimizer.param_groups[0]["lr"] < 1e-2
    assert agent.logger.name_to_value.get("train/clip_range", 0.05) == 0.05


def test_overrides_of_load_reach_the_optimiser(recorded: Any, tmp_path: Path) -> None:
    agent = make("BC", recorded).learn(8)
    agent.save(tmp_path / "a")
    again = agents.BC.load(tmp_path / "a", weight_decay=0.3, device="cpu")
    assert again.policy.optimizer.param_groups[0]["weight_decay"] == 0.3
    agent.weight_decay = 0.4
    agent.save(tmp_path / "a")
    again = agents.BC.load(tmp_path / "a", device="cpu")
    assert again.policy.optimizer.param_groups[0]["weight_decay"] == 0.4 == again.weight_decay


def test_batches_and_seeds_of_data_may_change(recorded: Any) -> None:
    agent = make("BC", recorded).learn(8)
    agent.batch_size = 3
    assert len(agent.order) == 8 and len(agent.order.next()) <= 5
    orders = []
    for _ in range(2):
        agent.set_random_seed(5)
        orders.append([agent.order.next().tolist() for _ in range(4)])
    assert orders[0] == orders[1]


def test_what_another_package_adds_is_left_to_it() -> None:
    class Mine(agents.PPO):
        """PPO with a thing of its own.

        Args:
            decay: of nothing.
        """

        def __init__(self, policy: Any, env: Any, decay: float = 0.5, **kwargs: Any) -> None:
            self.decay = decay
            super().__init__(policy, env, **kwargs)

    agent = Mine("CausalLMPolicy", TOY, n_episodes=8, policy_kwargs={"model": "scratch"})
    agent.decay = 0.25
    assert agent.decay == 0.25
