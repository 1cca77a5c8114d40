"""Weights in bfloat16 that learn as those in float32, and autocast around whole runs."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_helpers import ALGORITHMS, TOY, make, neox, reload
from hir_helpers import tiny_t5
from models import tiny_gpt2, tiny_llama
from test_copies import COPIES, modules_of

import agents
import text_envs
from agents.common.master_weights import kind_of, with_master_weights
from agents.policies.optimisers import make_optimizer
from agents.policies.value_networks import polyak_update
from agents.rollouts.episodes import score
from text_envs import datasets
from text_envs.lm import load_lm, make_lm
from text_envs.lm.likelihood import linear_log_probs, token_log_probs
from text_envs.lm.precision import check_dtype

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def recorded() -> Any:
    return datasets.collect(TOY, "random", 24, seed=0)


def ppo(model: Any, **kwargs: Any) -> Any:
    given = {"n_episodes": 16, "num_envs": 4, "seed": 0, "device": "cpu"} | kwargs
    policy_kwargs = {"model": model} | given.pop("policy_kwargs", {})
    return agents.PPO("CausalLMPolicy", TOY, policy_kwargs=policy_kwargs, **given)


# -- master weights ------------------------------------------------------------------------------


def steps(kind: Any, weights: torch.Tensor, count: int, lr: float) -> Any:
    """Return a parameter after steps of Adam on gradients of a fixed sign."""
    p = torch.nn.Parameter(weights.clone())
    optimizer = kind([p], lr=lr)
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        p.grad = (1 + torch.rand(p.shape, generator=generator)).to(BF16).to(p.dtype)
        optimizer.step()
    return p.detach()


def test_small_steps_add_up_and_are_lost_without_master_weights() -> None:
    """A learning rate of 1e-6, as for pretrained models: the reason why there are masters."""
    torch.manual_seed(0)
    weights = (0.02 * torch.randn(2_000)).to(BF16)
    lost = steps(torch.optim.Adam, weights, 100, 1e-6)
    kept = steps(with_master_weights(torch.optim.Adam), weights, 100, 1e-6)
    exact = steps(torch.optim.Adam, weights.float(), 100, 1e-6)
    assert (lost != weights).float().mean() < 0.05, "nearly all of bfloat16 stands still"
    assert (kept != weights).float().mean() > 0.5
    assert torch.equal(kept, exact.to(BF16)), "what float32 would have, rounded"
    far = torch.full((100,), 1.0, dtype=BF16)
    assert torch.equal(steps(torch.optim.Adam, far, 5000, 1e-6), far)
    moved = steps(with_master_weights(torch.optim.Adam), far, 5000, 1e-6)
    torch.testing.assert_close(moved.float(), torch.full((100,), 1 - 5e-3), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop]
)
def test_masters_are_what_the_optimiser_would_do_in_float32(kind: Any) -> None:
    torch.manual_seed(0)
    weights = torch.randn(50).to(BF16)
    kept = steps(with_master_weights(kind), weights, 20, 1e-3)
    assert torch.equal(kept, steps(kind, weights.float(), 20, 1e-3).to(BF16))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state"])
def test_copies_and_states_go_on_exactly(how: str) -> None:
    def step(optimizer: Any, p: Any) -> None:
        p.grad = torch.linspace(1, 2, 64).to(BF16)
        optimizer.step()

    p = torch.nn.Parameter(torch.linspace(-1, 1, 64).to(BF16))
    optimizer = make_optimizer(torch.optim.AdamW, [p], 1e-4, {"weight_decay": 0.1})
    assert kind_of(optimizer) is torch.optim.AdamW
    for _ in range(3):
        step(optimizer, p)
    if how == "state":
        q = torch.nn.Parameter(p.detach().clone())
        other = make_optimizer(torch.optim.AdamW, [q], 1.0, {})
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        both = (p, optimizer)
        q, other = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert {t.dtype for t in other.state[q].values()} == {torch.float32}
    for _ in range(30):
        step(optimizer, p)
        step(other, q)
    assert torch.equal(p, q)
    assert torch.equal(optimizer.state[p]["master"], other.state[q]["master"])


def test_whoever_sets_a_weight_is_obeyed() -> None:
    p = torch.nn.Parameter(torch.ones(4, dtype=BF16))
    optimizer = make_optimizer(torch.optim.SGD, [p], 1e-4, {})
    p.grad = torch.ones(4, dtype=BF16)
    optimizer.step()
    with torch.no_grad():
        p[0] = 5.0
    optimizer.step()
    expected = torch.tensor([5 - 1e-4, 1 - 2e-4, 1 - 2e-4, 1 - 2e-4])
    torch.testing.assert_close(optimizer.state[p]["master"], expected, rtol=0, atol=1e-6)


def test_updates_are_noticed_by_caches() -> None:
    agent = ppo(tiny_llama(6).to(BF16))
    before = agent.policy.actor._fingerprint()
    agent.learn(16)
    assert agent.policy.actor._fingerprint() != before


def test_float32_models_have_the_optimiser_they_ask_for() -> None:
    optimizer = ppo(tiny_llama(6)).policy.optimizer
    assert kind_of(optimizer) is torch.optim.Adam
    assert not hasattr(optimizer, "without_master")


def test_a_learning_rate_of_1e_6_moves_a_policy() -> None:
    """Of the agent itself, against the same one whose optimiser is the plain one."""
    moved = {}
    for masters in (True, False):
        lm = tiny_gpt2(6, width=32).to(BF16)
        agent = ppo(lm, learning_rate=1e-6, n_epochs=40, n_episodes=8, batch_size=8)
        if not masters:
            optimizer = agent.policy.optimizer
            agent.policy.optimizer = kind_of(optimizer)(optimizer.param_groups[0]["params"])
        start = [p.detach().clone() for p in agent.policy.actor.lm.parameters()]
        agent.learn(8)
        ends = zip(start, agent.policy.actor.lm.parameters(), strict=True)
        # Zeros, as biases are, have no digits to lose.
        changed = torch.cat([(a != b)[a.abs() > 0.01].flatten() for a, b in ends])
        moved[masters] = float(changed.float().mean())
    assert moved[False] < 0.01
    assert moved[True] > 3 * moved[False] + 0.01


# -- bfloat16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_agent_learns_in_bfloat16_and_goes_on(
    name: str, recorded: Any, tmp_path: Path
) -> None:
    agent = make(name, recorded, dtype="bfloat16").learn(24)
    assert agent.policy.actor.lm.dtype == BF16
    agent.save(tmp_path / "a")
    agent.learn(24, reset_num_timesteps=False)
    again = reload(agent, tmp_path / "a", recorded)
    assert again.policy.actor.lm.dtype == BF16 and again.policy.arguments["dtype"] == "bfloat16"
    again.learn(24, reset_num_timesteps=False)
    for one, two in zip(modules_of(agent), modules_of(again), strict=True):
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_bfloat16_agents_go_on_alike(how: str, recorded: Any) -> None:
    for name in ("PPO", "ILQL"):
        agent = make(name, recorded, dtype="bfloat16").learn(24)
        ends = []
        for one in (agent, COPIES[how](agent)):
            torch.manual_seed(5)
            np.random.seed(5)
            one.learn(24, reset_num_timesteps=False)
            ends.append([p.detach().clone() for p in one.policy.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("family", [tiny_gpt2, tiny_llama, neox])
def test_a_bfloat16_policy_is_near_the_float32_one(family: Any) -> None:
    one, other = ppo(family(6)), ppo(family(6), policy_kwargs={"dtype": "bfloat16"})
    torch.manual_seed(0)
    rollout = one._play(one.env, one.env.reset(), lambda step: True).rollout
    exact, rounded = (score(agent.policy.actor, rollout) for agent in (one, other))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.15)


def test_the_type_where_a_model_is_named(tmp_path: Path, recorded: Any) -> None:
    make_lm(TOY, layers=1, width=16).to(BF16).save_pretrained(tmp_path / "bf16")
    for dtype, wanted in ((None, torch.float32), ("auto", BF16), (BF16, BF16), ("float32", None)):
        lm, _ = load_lm(tmp_path / "bf16", dtype=dtype)
        assert lm.dtype == (wanted or torch.float32)
        agent = ppo(str(tmp_path / "bf16"), policy_kwargs={"dtype": dtype}, kl_coef=0.1,
                    reference=str(tmp_path / "bf16"))  # fmt: skip
        assert agent.policy.actor.lm.dtype == agent.reference.lm.dtype == lm.dtype
    agent = make("ILQL", recorded, dtype="bfloat16", value_model=str(tmp_path / "bf16"))
    assert agent.policy.critic.actor.lm.dtype == BF16
    assert agent.policy.critic.heads["v"][0].weight.dtype == torch.float32
    agent = ppo(tiny_llama(6).to(BF16))  # an object keeps its own
    agent.save(tmp_path / "a")
    assert agents.PPO.load(tmp_path / "a", device="cpu").policy.actor.lm.dtype == BF16
    agent.policy.save(tmp_path / "p")
    assert agents.CausalLMPolicy.load(tmp_path / "p", device="cpu").actor.lm.dtype == BF16


def test_adapters_over_a_bfloat16_base_are_float32(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    agent = ppo(tiny_llama(6), kl_coef=0.1, learning_rate=1e-2,
                policy_kwargs={"dtype": "bfloat16", "lora": {"r": 2}})  # fmt: skip
    lm = agent.policy.actor.lm
    assert lm.dtype == BF16
    learns = [p for g in agent.policy.optimizer.param_groups for p in g["params"]]
    assert {p.dtype for p in learns} == {torch.float32}
    agent.learn(64).save(tmp_path / "a")
    again = agents.PPO.load(tmp_path / "a", device="cpu")
    for a, b in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    ids = torch.tensor([[0, 1, 2, 3]])
    agent.merge_and_export(tmp_path / "exact", dtype="float32")
    agent.merge_and_export(tmp_path / "small")
    exact, small = (load_lm(tmp_path / n, dtype="auto")[0] for n in ("exact", "small"))
    assert (exact.dtype, small.dtype) == (torch.float32, BF16)
    with torch.no_grad():
        wanted = copy.deepcopy(lm).float()(ids).logits
        torch.testing.assert_close(exact(ids).logits, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(small(ids).logits.float(), wanted, rtol=0.1, atol=0.2)


def test_a_slow_copy_moves_in_bfloat16(recorded: Any) -> None:
    """A step of 0.005 of the way is below the resolution of bfloat16."""
    agent = make("ILQL", recorded, dtype="bfloat16")
    critic, target = agent.policy.critic, agent.policy.target
    backbone = critic.actor.lm.base_model
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(1.0)
        for number, parameter in enumerate(target.actor.lm.base_model.parameters()):
            parameter.fill_(0.9375)
            target.exact()[number].fill_(0.9375)
    for _ in range(100):
        polyak_update(target, critic, 0.005)
    moved = next(target.actor.lm.base_model.parameters())
    expected = 1 - 0.0625 * 0.995**100
    assert float(moved.flatten()[0]) == pytest.approx(expected, abs=4e-3)
    plain = torch.tensor([0.9375], dtype=BF16)
    for _ in range(100):
        plain.lerp_(torch.ones(1, dtype=BF16), 0.005)
    assert float(plain) == 0.9375, "so it would stand still"


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("float8", "dtype must be one of 'float32', 'bfloat16', 'auto', or a floating"),
        ("int64", "dtype must be one of"),
        (16, "dtype must be one of"),
        ("float16", "float16 has too small a range for gradients"),
    ],
)
def test_types_that_cannot_be(dtype: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppo(tiny_llama(6), policy_kwargs={"dtype": dtype})


def test_half_precision_found_in_a_file_is_refused_for_training(tmp_path: Path) -> None:
    make_lm(TOY, layers=1, width=16).to(torch.float16).save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match="float16 has too small a range"):
        ppo(str(tmp_path / "half"), policy_kwargs={"dtype": "auto"})
    assert load_lm(tmp_path / "half", dtype="auto")[0].dtype == torch.float16  # to read with


def test_a_device_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda.* cannot compute in torch.bfloat16"):
            check_dtype("bfloat16", "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(ValueError, match="cuda.*bfloat16"):
        check_dtype("bfloat16", "cuda")
    check_dtype("bfloat16", "cpu")


# -- autocast ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["whole", "lora"])
def test_every_agent_learns_and_acts_inside_of_autocast(
    name: str, lora: Any, recorded: Any
) -> None:
    if lora:
        pytest.importorskip("peft")
    agent = make(name, recorded, lora=lora)
    start = [p.detach().clone() for p in agent.policy.parameters()]
    with torch.autocast("cpu", dtype=BF16):
        agent.learn(48)
        inside, _ = agent.predict(agent.env.reset(), deterministic=True)
    outside, _ = agent.predict(agent.env.reset(), deterministic=True)
    assert inside.shape == outside.shape
    ends = list(agent.policy.parameters())
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in ends)
    if name != "FARL":  # which found nothing good among so few texts
        assert any(not torch.equal(a, b) for a, b in zip(start, ends, strict=True))


def test_a_run_inside_of_autocast_uses_the_weights_it_learns() -> None:
    """torch keeps its casts until the context is left: stale weights, and none with gradients."""
    agent = ppo(tiny_llama(6), kl_coef=0.1, learning_rate=1e-2)
    with torch.autocast("cpu", dtype=BF16):
        agent.learn(64 * 2)
        obs = agent.env.reset()
        inside = agent.policy.get_distribution(torch.from_numpy(obs)).distribution.logits
    with torch.autocast("cpu", dtype=BF16):
        again = copy.deepcopy(agent.policy)
        again.actor.drop_cache()
        anew = again.get_distribution(torch.from_numpy(obs)).distribution.logits
    assert torch.equal(inside, anew)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=BF16):
        rollout = agent._play(agent.env, agent.env.reset(), lambda step: True).rollout
        scored = score(agent.policy.actor, rollout)
    torch.testing.assert_close(scored, rollout.log_probs, rtol=0.05, atol=0.1)


def test_autocast_learns_nearly_what_float32_learns() -> None:
    """The gradient of the same loss, in and out of autocast."""
    grads = []
    for enabled in (False, True):
        agent = ppo(tiny_llama(6), seed=0)
        torch.manual_seed(0)
        rollout = agent._play(agent.env, agent.env.reset(), lambda step: True).rollout
        with torch.autocast("cpu", dtype=BF16, enabled=enabled):
            with torch.inference_mode():  # casts made here must not serve below
                score(agent.policy.actor, rollout)
            log_probs, values, _ = agent.policy.evaluate_episodes(
                rollout.tokens, rollout.columns, rollout.actions, rollout.mask
            )
            loss = (log_probs.sum() + values.sum()) / len(rollout)
        loss.backward()
        parameters = agent.policy.actor.lm.parameters()
        assert log_probs.dtype == values.dtype == torch.float32
        grads.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    exact, cast = grads
    assert torch.nn.functional.cosine_similarity(exact, cast, dim=0) > 0.99


def test_a_cache_of_another_precision_is_not_used() -> None:
    policy = ppo(tiny_gpt2(6)).policy
    obs = text_envs.make_sb3(TOY, num_envs=4).reset()
    exact = policy.get_distribution(torch.from_numpy(obs)).distribution.logits
    with torch.autocast("cpu", dtype=BF16):
        rounded = policy.get_distribution(torch.from_numpy(obs)).distribution.logits
    again = policy.get_distribution(torch.from_numpy(obs)).distribution.logits
    assert torch.equal(exact, again)
    assert not torch.equal(exact, rounded)


def test_an_encoder_decoder_inside_of_autocast() -> None:
    agent = agents.PPO("Seq2SeqPolicy", TOY, n_episodes=8, num_envs=4, kl_coef=0.1, seed=0,
                       device="cpu", policy_kwargs={"model": tiny_t5(6)})  # fmt: skip
    with torch.autocast("cpu", dtype=BF16):
        agent.learn(64)
    assert agent.num_timesteps >= 64


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_log_probs_and_gradients_in_lower_precision(with_entropy: bool, inside: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(40, 8, requires_grad=True)
    weight = torch.randn(11, 8, requires_grad=True)
    bias = torch.randn(11, requires_grad=True)
    actions = torch.randint(11, (40,))
    wanted = token_log_probs(hidden @ weight.T + bias, actions)
    exact = torch.autograd.grad(wanted.sum(), (hidden, weight, bias))
    with torch.autocast("cpu", dtype=BF16):
        found, entropies = linear_log_probs(
            hidden, weight, bias, actions, with_entropy=with_entropy, chunk=4
        )
        total = found.sum() + (0.0 * entropies.sum() if entropies is not None else 0.0)
        if inside:
            total.backward()
    if not inside:
        total.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.1)
    for gradient, parameter in zip(exact, (hidden, weight, bias), strict=True):
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, gradient, rtol=0.05, atol=0.1)


def test_gradients_of_bfloat16_weights_are_summed_in_float32() -> None:
    """Over 1,000 chunks of one row each, a bfloat16 sum would stop growing."""
    hidden = torch.ones(1000, 4, dtype=BF16)
    weight = torch.zeros(3, 4, dtype=BF16, requires_grad=True)
    found, _ = linear_log_probs(hidden, weight, None, torch.zeros(1000, dtype=torch.long), chunk=1)
    found.sum().backward()
    torch.testing.assert_close(weight.grad[0].float(), torch.full((4,), 1000 * 2 / 3), rtol=5e-3,
                               atol=0.0)  # fmt: skip
