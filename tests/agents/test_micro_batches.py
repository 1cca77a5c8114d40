"""One optimiser step in parts: the same gradients, parameters and logs as in one pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import Share, tiny_gpt2, tiny_llama
from torch import nn

import agents
import text_envs
from agents.common.packing import packed
from agents.losses import on_policy as F
from agents.training import EpisodicAlgorithm, micro_batches
from text_envs import datasets

TOY = "text_envs/Toy-v0"
OFFLINE = {
    "BC": {}, "BC smoothed": {"label_smoothing": 0.1}, "DecisionTransformer": {}, "CQL": {},
    "MCValues": {}, "ILQL": {}, "ILQL joint": {"awac_weight": 1.0, "beta_train": 0.5},
    "ILQL utterance": {"variant": "utterance", "awac_weight": 1.0},
    "ILQL mc": {"target": "mc", "cql_weight": 0.0},
}  # fmt: skip
ON_POLICY: dict[str, dict[str, Any]] = {
    "PPO": {"kl_coef": 0.1, "ent_coef": 0.02, "clip_range_vf": 0.2, "batch_size": 8},
    "REINFORCE": {"ent_coef": 0.02}, "RLOO": {"group_size": 4}, "GRPO": {"group_size": 4},
    "DPG": {"beta": 0.5}, "DPG js": {"beta": 0.5, "divergence": "js"},
    "PPOPlusPlus": {"guide": "script:random"}, "AggreVaTeD": {"guide": "script:random"},
    "LOLS": {"guide": "script:random", "tau": 0.0}, "D2LOLS": {"guide": "script:random"},
    "HIR": {}, "FARL": {"levels": [-1.0]}, "HIR batch": {"negatives": "batch"},
    "HIR plain": {"contrastive_coef": 0.0},
}  # fmt: skip
KINDS = [*OFFLINE, *ON_POLICY]


@pytest.fixture(scope="module")
def recorded() -> Any:
    return datasets.collect("text_envs/Wordle-v0", "random", 9, seed=0)


def make(kind: str, recorded: Any, **kwargs: Any) -> Any:
    """Return an agent with texts of different lengths, and ready to take one step."""
    cls: Any = getattr(agents, kind.split()[0])
    # With SGD a parameter moves by its gradient, and by nothing that hides a wrong scale.
    model = {"model": {"layers": 1, "width": 16}, "optimizer_class": torch.optim.SGD}
    common: dict[str, Any] = {
        "learning_rate": 1.0, "max_grad_norm": 1e9, "seed": 0, "device": "cpu",
        "policy_kwargs": model, **kwargs,
    }  # fmt: skip
    if kind in OFFLINE:
        policy = "ValueGuidedPolicy" if cls.__name__ in ("CQL", "ILQL", "MCValues") else None
        policy = policy or "CausalLMPolicy"
        extra = OFFLINE[kind] | {"batch_size": 9, "num_envs": 2}
        return cls(policy, dataset=recorded, **extra, **common)
    extra = {"n_episodes": 8, "num_envs": 8, **ON_POLICY[kind]}
    if cls.__name__ in ("HIR", "FARL"):
        extra = {"levels": [1.0], "group_size": 2, "n_epochs": 1, "ent_coef": 0.1, **extra}
        extra["batch_size"] = 8
    return cls("CausalLMPolicy", TOY, **extra, **common)


def stepped(kind: str, recorded: Any, monkeypatch: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Return the parameters after one step, what was logged, and the sequences of each pass."""
    agent = make(kind, recorded, **kwargs)
    torch.manual_seed(1)
    for parameter in agent.policy.parameters():  # heads that start at 0 would hide their errors
        nn.init.normal_(parameter, std=0.2)
    rows: list[int] = []
    encode = type(agent.policy.actor)._encode

    def counted(actor: Any, tokens: Any, *rest: Any) -> Any:
        if torch.is_grad_enabled():
            rows.append(len(tokens))
        return encode(actor, tokens, *rest)

    monkeypatch.setattr(type(agent.policy.actor), "_encode", counted)
    if kind in OFFLINE:
        data = agent.data.select(np.arange(9))
        logged = agent.train_step(data)
    else:
        agent._setup_learn(1)
        agent.set_logger(agents_logger())
        agent.collect_rollouts(agent.env, NO_CALLBACK, None, 0)
        lengths = agent.rollout.lengths
        assert len(set(lengths.tolist())) > 1, "texts of one length would hide a mean of means"
        rows.clear()
        agent.train()
        logged = agent.logger.name_to_value
    monkeypatch.undo()
    named = {n: p.detach().clone() for n, p in agent.policy.named_parameters()}
    return named, {k: float(v) for k, v in logged.items()}, rows


def agents_logger() -> Any:
    from stable_baselines3.common.logger import Logger

    return Logger(None, [])


class _Nothing:
    def on_rollout_start(self) -> None: ...
    def on_rollout_end(self) -> None: ...
    def update_locals(self, scope: Any) -> None: ...
    def on_step(self) -> bool:
        return True


NO_CALLBACK: Any = _Nothing()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_parts_is_the_step(
    kind: str, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, logged, rows = stepped(kind, recorded, monkeypatch)
    moved = [n for n, p in whole.items() if p.abs().max() > 0]
    assert moved and max(rows) > 3
    for size in (1, 3):
        parts, again, passes = stepped(kind, recorded, monkeypatch, micro_batch_size=size)
        assert max(passes) <= size and len(passes) > len(rows)
        for name, parameter in whole.items():
            torch.testing.assert_close(parts[name], parameter, rtol=2e-4, atol=2e-5, msg=name)
        assert again.keys() == logged.keys()
        for name, value in logged.items():
            if "time" not in name and not np.isnan(value):
                assert again[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_the_agents_of_the_test_are_all_there_are() -> None:
    tested = {kind.split()[0] for kind in KINDS}
    from test_copies import ALGORITHMS

    assert tested == set(ALGORITHMS)


@pytest.mark.parametrize("kind", ["PPO", "RLOO", "BC", "HIR"])
def test_without_a_size_a_budget_decides(
    kind: str, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _, rows = stepped(kind, recorded, monkeypatch)
    monkeypatch.setattr(micro_batches, "_ACTIVATIONS", 20 * 16 * 4 * 12)  # 12 tokens
    parts, _, passes = stepped(kind, recorded, monkeypatch)
    assert len(passes) > len(rows)
    for name, parameter in whole.items():
        torch.testing.assert_close(parts[name], parameter, rtol=2e-4, atol=2e-5, msg=name)


def test_a_part_larger_than_the_whole_is_refused(recorded: Any) -> None:
    with pytest.raises(ValueError, match=r"micro_batch_size=9 .*batch_size=8 .*None or 1..8"):
        make("PPO", recorded, micro_batch_size=9)
    with pytest.raises(ValueError, match=r"micro_batch_size=10 .*batch_size=9"):
        make("BC", recorded, micro_batch_size=10)
    with pytest.raises(ValueError, match=r"micro_batch_size=9 .*n_episodes=8"):
        make("RLOO", recorded, micro_batch_size=9)
    with pytest.raises(ValueError, match="micro_batch_size must be None or an integer"):
        make("RLOO", recorded, micro_batch_size=0)
    agent = make("PPO", recorded, micro_batch_size=4)
    for name, value in (("micro_batch_size", 9), ("batch_size", 3)):
        with pytest.raises(ValueError, match=r"micro_batch_size=\d .*batch_size=\d"):
            setattr(agent, name, value)
    assert (agent.micro_batch_size, agent.batch_size) == (4, 8)


def test_it_is_saved(recorded: Any, tmp_path: Path) -> None:
    agent = make("BC", recorded, micro_batch_size=4)
    agent.micro_batch_size = 2
    agent.save(tmp_path / "a")
    assert agents.BC.load(tmp_path / "a", device="cpu").micro_batch_size == 2


def test_an_algorithm_that_computes_whole_minibatches_says_so() -> None:
    class Mine(EpisodicAlgorithm):
        """Someone's own."""

        def train(self) -> None:
            part = self.rollout
            assert part is not None
            log_probs, _, _ = self.policy.evaluate_episodes(
                part.tokens, part.columns, part.actions, part.mask
            )
            self.optimize(-log_probs.mean())

    kwargs: dict[str, Any] = {"n_episodes": 4, "policy_kwargs": {"model": "scratch"}}
    with pytest.raises(ValueError, match=r"Mine computes whole minibatches.*self\.descend"):
        Mine("CausalLMPolicy", TOY, micro_batch_size=2, **kwargs).learn(4)
    Mine("CausalLMPolicy", TOY, **kwargs).learn(4)


def test_a_loss_that_is_no_number_leaves_the_weights_alone(recorded: Any) -> None:
    agent = make("BC", recorded, micro_batch_size=3)
    before = copy.deepcopy(agent.policy.state_dict())
    real, calls = agent.log_probs, []

    def broken(batch: Any) -> Any:
        calls.append(len(batch))
        return real(batch) * (float("nan") if len(calls) == 2 else 1.0)

    agent.log_probs = broken
    with pytest.raises(FloatingPointError, match="diverged"):
        agent.train_step(agent.data.select(np.arange(9)))
    assert len(calls) == 2
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in agent.policy.parameters())


def test_a_mean_over_parts_is_that_of_the_whole_and_no_mean_of_means() -> None:
    x, mask = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    mask = mask.bool()
    shares = [F.masked_mean(x[i : i + 1], mask[i : i + 1], mask.sum()) for i in range(2)]
    assert [s.item() for s in shares] == [1.75, 2.0]
    assert sum(shares).item() == F.masked_mean(x, mask).item() == 3.75  # type: ignore[union-attr]
    means = [F.masked_mean(x[i : i + 1], mask[i : i + 1]).item() for i in range(2)]
    assert np.mean(means) != 3.75


def test_packs_hold_what_they_may() -> None:
    lengths = torch.tensor([7, 1, 3, 7, 2, 30, 1])
    packs = packed(lengths, 14, 3)
    assert sorted(torch.cat(packs).tolist()) == list(range(7))
    for pack in packs:
        assert len(pack) <= 3
        assert len(pack) == 1 or len(pack) * int(lengths[pack].max()) <= 14
    assert packs[0].tolist() == [5]


# -- gradient checkpointing -----------------------------------------------------------------------


def gradients(lm: Any, checkpointing: bool | None) -> tuple[list[torch.Tensor], int, int]:
    """Return the gradients of a PPO minibatch, states kept, and passes through the first layer."""
    env = text_envs.make_sb3(Share(max_tokens=8), num_envs=6, seed=0)
    kwargs = {"model": lm, "gradient_checkpointing": checkpointing}
    agent = agents.PPO(
        "CausalLMPolicy", env, n_episodes=6, batch_size=6, seed=0, device="cpu",
        learning_rate=0.0, policy_kwargs=kwargs,
    )  # fmt: skip
    agent.learn(1, callback=lambda scope, _: True)
    layers = next(m for m in lm.modules() if isinstance(m, nn.ModuleList))
    calls: list[int] = []
    real = layers[0].forward
    name = "self_attn" if hasattr(layers[0], "self_attn") else "attn"
    hook = getattr(layers[0], name).register_forward_hook(lambda *_: calls.append(1))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        rollout = agent.rollout
        log_probs, values, _ = agent.policy.evaluate_episodes(
            rollout.tokens, rollout.columns, rollout.actions, rollout.mask
        )
    states = sum(kept.values())
    agent.policy.optimizer.zero_grad()
    (log_probs.sum() + values.square().sum()).backward()
    hook.remove()
    assert layers[0].forward == real and not any(m.training for m in lm.modules())
    return [p.grad for p in lm.parameters()], states, len(calls)  # type: ignore[misc]


@pytest.mark.parametrize("make_lm", [tiny_llama, lambda n: tiny_gpt2(n, layers=3)])
def test_checkpointing_recomputes_and_changes_no_gradient(make_lm: Any) -> None:
    plain, states, calls = gradients(make_lm(16), False)
    again, fewer, twice = gradients(make_lm(16), True)
    assert (calls, twice) == (1, 2) and fewer < 0.8 * states
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    given = make_lm(16)  # one that comes with it switched on is not silently left without
    given.activation_checkpointing_enable()
    assert gradients(given, None)[2] == 2
    assert gradients(given, False)[2] == 1


def test_checkpointing_is_a_setting_that_is_saved(recorded: Any, tmp_path: Path) -> None:
    agent = make("ILQL", recorded)
    assert agent.policy.gradient_checkpointing is False
    agent.policy.gradient_checkpointing = True
    for module in (agent.policy.actor, agent.policy.critic):
        assert any(getattr(m, "gradient_checkpointing", False) for m in module.modules())
    agent.save(tmp_path / "a")
    again = agents.ILQL.load(tmp_path / "a", device="cpu")
    assert again.policy.gradient_checkpointing is True
    assert copy.deepcopy(again.policy).gradient_checkpointing is True


def test_dropout_stays_off() -> None:
    """Layers that drop out by themselves, as OPT's do, are in evaluation mode when they compute."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=16, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16, dropout=0.5, attention_dropout=0.5,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    plain, _, _ = gradients_of_opt(OPTForCausalLM(config), False)
    torch.manual_seed(0)
    again, _, calls = gradients_of_opt(OPTForCausalLM(config), True)
    assert calls == 2
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def gradients_of_opt(lm: Any, checkpointing: bool) -> tuple[list[torch.Tensor], int, int]:
    for parameter in lm.parameters():  # OPT offsets its positions; none is out of use
        parameter.requires_grad_(True)
    found, states, calls = gradients(lm, checkpointing)
    return [g for g in found if g is not None], states, calls


def test_a_family_without_such_layers_is_refused() -> None:
    lm = tiny_gpt2(16)
    lm.transformer.h[0] = _Plain(lm.transformer.h[0])
    with pytest.raises(ValueError, match="no layers that can be checkpointed.*micro_batch_size"):
        gradients(lm, True)
    lm.transformer.gradient_checkpointing = True
    with pytest.raises(ValueError, match="no layers that can be checkpointed"):
        gradients(lm, None)


class _Plain(nn.Module):
    """A layer that is none of transformers'."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attn, self.rest = layer.attn, nn.ModuleList([layer.ln_1, layer.ln_2, layer.mlp])

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden
