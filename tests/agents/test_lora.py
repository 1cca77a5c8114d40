"""Adapters: every agent learns them over one base that nobody copies, and loses nothing saved."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_helpers import ALGORITHMS, TOY, VALUES, held, make, neox, peft_model, reload
from hir_helpers import tiny_t5
from models import tiny_gpt2, tiny_llama
from test_copies import COPIES, modules_of, storages
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    pipeline,
)

import agents
import text_envs
from agents.checkpoints import CheckpointError
from agents.rollouts.episodes import score
from text_envs import datasets
from text_envs.lm import load_lm
from text_envs.lm.adapters import add_lora, starts_as_base
from text_envs.lm.sharing import base_names, base_of

pytest.importorskip("peft")

LORA = {"r": 2, "lora_alpha": 8}
FAMILIES = {"gpt2": tiny_gpt2, "llama": tiny_llama, "neox": neox, "t5": tiny_t5}


@pytest.fixture(scope="module")
def recorded() -> Any:
    return datasets.collect(TOY, "random", 24, seed=0)


@pytest.fixture
def named(tmp_path: Path) -> str:
    """A small model in a folder."""
    text_envs.lm.make_lm(TOY, layers=1, width=16, seed=3).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def ppo(model: Any, **kwargs: Any) -> Any:
    given = {"n_episodes": 16, "num_envs": 4, "kl_coef": 0.1, "seed": 0, "device": "cpu"} | kwargs
    policy_kwargs = {"model": model, "lora": LORA} | given.pop("policy_kwargs", {})
    return agents.PPO(given.pop("policy", "CausalLMPolicy"), TOY, policy_kwargs=policy_kwargs,
                      **given)  # fmt: skip


def scores(policy: Any, obs: Any) -> Any:
    with torch.no_grad():
        return policy.get_distribution(torch.from_numpy(obs)).distribution.logits


def parameters(agent: Any) -> list[Any]:
    return [p.detach().clone() for module in modules_of(agent) for p in module.parameters()]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


# -- every agent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_agent_learns_saves_and_goes_on(name: str, recorded: Any, tmp_path: Path) -> None:
    agent = make(name, recorded, lora=LORA)
    base = {k: v.clone() for k, v in agent.policy.state_dict().items()
            if k in base_names(agent.policy)}  # fmt: skip
    agent.learn(24)
    assert base and all(torch.equal(agent.policy.state_dict()[k], v) for k, v in base.items())
    learns = [p for g in agent.policy.optimizer.param_groups for p in g["params"]]
    assert all(p.requires_grad for p in learns)
    assert not {p.data_ptr() for p in learns} & {v.data_ptr() for v in base.values()}
    agent.save(tmp_path / "agent")
    obs = agent.env.reset()
    agent.save(tmp_path / "agent.zip")
    wanted = scores(agent.policy, obs["observation"] if isinstance(obs, dict) else obs)
    agent = reload(agent, tmp_path / "agent", recorded)
    again = reload(agent, tmp_path / "agent.zip", recorded)
    found = scores(again.policy, obs["observation"] if isinstance(obs, dict) else obs)
    assert torch.equal(found, wanted)
    agent.learn(24, reset_num_timesteps=False)
    again.learn(24, reset_num_timesteps=False)
    assert_same(parameters(agent), parameters(again))


def test_a_resumed_run_is_the_run_that_never_stopped(recorded: Any, tmp_path: Path) -> None:
    for name in ("PPO", "DPG", "ILQL", "HIR"):
        agent = make(name, recorded, lora=LORA).learn(24)
        agent.save(tmp_path / name)
        agent.learn(24, reset_num_timesteps=False)
        again = reload(agent, tmp_path / name, recorded)
        again.learn(24, reset_num_timesteps=False)
        assert_same(parameters(agent), parameters(again))


@pytest.mark.parametrize("how", COPIES)
def test_copies_share_nothing_with_the_original_but_a_base_within(how: str, recorded: Any) -> None:
    for name in ("PPO", "DPG", "ILQL"):
        agent = make(name, recorded, lora=LORA).learn(24)
        again = COPIES[how](agent)
        assert not storages(*modules_of(agent)) & storages(*modules_of(again))
        assert held(*modules_of(agent)) == held(*modules_of(again)), "one base, as before"
        ends = []
        for one in (agent, again):
            torch.manual_seed(5)
            np.random.seed(5)
            one.learn(24, reset_num_timesteps=False)
            ends.append(parameters(one))
        assert_same(*ends)


@pytest.mark.parametrize("name", ["PPO", "GRPO", "DPG", "LOLS", *VALUES])
def test_there_is_one_trunk(name: str, recorded: Any) -> None:
    """Without adapters each further model is as large as the first."""
    agent, full = make(name, recorded, lora=LORA), make(name, recorded)
    trunk = sum(p.numel() for p in full.policy.actor.lm.parameters())
    heads = held(agent.policy.value_net, *([agent.policy.critic.heads, agent.policy.target.heads]
                                           if name in VALUES else []))  # fmt: skip
    adapters = sum(p.numel() for n, p in agent.policy.actor.lm.named_parameters() if "lora" in n)
    further = held(*modules_of(agent)) - trunk - heads
    copies = {"DPG": 2, "LOLS": 1}.get(name, 3 if name in VALUES else 1)
    assert further <= copies * adapters + 200 < trunk  # the second heads of DPG and LOLS
    assert held(*modules_of(full)) > 1.9 * trunk


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_has_no_kl_and_later_that_to_a_copy(family: str) -> None:
    """The reference without a copy is the reference that is one, bit for bit."""

    def run(shared: bool) -> tuple[Any, list[float]]:
        lm = FAMILIES[family](6)
        policy = "Seq2SeqPolicy" if family == "t5" else "CausalLMPolicy"
        reference = None if shared else copy.deepcopy(lm)
        agent = ppo(lm, policy=policy, reference=reference, learning_rate=1e-2)
        torch.manual_seed(1)
        rollout = agent._play(agent.env, agent.env.reset(), lambda step: True).rollout
        own = score(agent.policy.actor, rollout)
        assert torch.equal(own, score(agent.reference, rollout)), "exactly 0 at first"
        kls: list[float] = []
        agent._last_obs = agent.env.reset()
        agent.learn(64, callback=lambda scope, _: kls.append(
            agent.logger.name_to_value.get("rollout/kl_ref", 0.0)) or True)  # fmt: skip
        return agent, kls

    (one, kls), (other, wanted) = run(True), run(False)
    assert kls == wanted
    assert_same([p.detach() for p in one.policy.parameters()],
                [p.detach() for p in other.policy.parameters()])  # fmt: skip
    assert held(one.policy, one.reference) == held(one.policy)
    assert held(other.policy, other.reference) > 1.5 * held(other.policy)
    torch.manual_seed(1)
    rollout = one._play(one.env, one.env.reset(), lambda step: True).rollout
    kl = (rollout.log_probs - score(one.reference, rollout)).sum(dim=1)
    assert kl.abs().max() > 1e-3, "it learnt"
    assert torch.equal(score(one.reference, rollout), score(other.reference, rollout))


def test_switching_is_not_needed_in_a_backward_pass(recorded: Any) -> None:
    """Policy and critic in one loss: each gradient is that of its own adapter."""
    agent = agents.ILQL("ValueGuidedPolicy", TOY, dataset=recorded, num_envs=4, awac_weight=1.0,
                        seed=0, device="cpu", policy_kwargs={"model": tiny_llama(6), "lora": LORA},
                        )  # fmt: skip
    batch = agent.data.select(torch.arange(8))
    agent.losses(batch)[0].backward()
    lm, trunk = agent.policy.actor.lm, agent.policy.critic.actor.lm
    for model in (lm, trunk):
        grads = [p.grad for n, p in model.named_parameters() if "lora_B" in n]
        assert grads and all(g is not None for g in grads)
    assert any(bool(g.any()) for n, p in lm.named_parameters() if "lora_B" in n
               for g in [p.grad])  # fmt: skip
    assert all(p.grad is None for p in agent.policy.target.parameters())


# -- models of peft ------------------------------------------------------------------------------


def test_a_trained_adapter_is_what_the_policy_starts_from(tmp_path: Path) -> None:
    lm = tiny_llama(6)
    model = peft_model(lm, trained=True)
    before = copy.deepcopy(model)
    agent = ppo(model, policy_kwargs={"lora": None}, learning_rate=1e-2)
    assert not starts_as_base(agent.policy.actor.lm)
    adapters = sum(p.numel() for n, p in model.named_parameters() if "lora" in n)
    assert held(agent.policy, agent.reference) == held(agent.policy) + adapters
    agent.learn(64)
    ids = torch.tensor([[0, 1, 2, 3]])
    with torch.no_grad():
        wanted, found = before(ids).logits, agent.reference.lm(ids).logits
        assert torch.equal(found, wanted), "the initial policy, not the base without adapters"
        assert not torch.allclose(model(ids).logits, wanted), "the user's model is what learns"
    agent.save(tmp_path / "a")
    again = agents.PPO.load(tmp_path / "a", env=TOY, device="cpu")
    with torch.no_grad():
        assert torch.equal(again.reference.lm(ids).logits, wanted)
    assert held(again.policy, again.reference) == held(agent.policy, agent.reference)


@pytest.mark.parametrize(
    "name", ["BC", "DPG", "DecisionTransformer", "HIR", "ILQL", "LOLS", "RLOO"]
)
def test_models_of_peft_serve_every_kind_of_agent(name: str, recorded: Any, tmp_path: Path) -> None:
    model = peft_model(tiny_gpt2(6, width=16), trained=True, fan_in_fan_out=True)
    agent = make(name, recorded, model=model).learn(24)
    agent.save(tmp_path / "a")
    again = reload(agent, tmp_path / "a", recorded)
    assert_same(parameters(agent), parameters(again))
    trunk = sum(p.numel() for p in model.parameters())
    assert held(*modules_of(again)) < 2 * trunk


def test_what_a_model_of_peft_must_not_have() -> None:
    model = peft_model(tiny_llama(6), trained=False, bias="all")
    with pytest.raises(ValueError, match=r"bias='all' trains or changes its base.*accepted: bias="):
        ppo(model, policy_kwargs={"lora": None})
    model = peft_model(tiny_llama(6), trained=False)
    with pytest.raises(ValueError, match=r"has adapters already; accepted: lora="):
        ppo(model)
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged into its base; unmerge it first"):
        ppo(model, policy_kwargs={"lora": None})


def test_guides_rewards_and_references_take_adapters(named: str, tmp_path: Path) -> None:
    ppo(named).learn(32).save(tmp_path / "a")
    lm, _ = load_lm(tmp_path / "a")
    agent = ppo(named, reference=str(tmp_path / "a"), policy_kwargs={"lora": None})
    ids = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        assert torch.equal(agent.reference.lm(ids).logits, lm(ids).logits)
    model = peft_model(tiny_llama(6), trained=True)
    guided = agents.PPOPlusPlus("CausalLMPolicy", TOY, guide=model, n_episodes=8, device="cpu",
                                policy_kwargs={"model": named, "lora": LORA}).learn(8)  # fmt: skip
    assert guided.num_timesteps >= 8


def test_a_saved_agent_with_adapters_is_a_start_for_another(
    named: str, recorded: Any, tmp_path: Path
) -> None:
    make("BC", recorded, model=named, lora=LORA).learn(200).save(tmp_path / "bc")
    agent = ppo(tmp_path / "bc", policy_kwargs={"lora": None}).learn(32)
    assert base_of(agent.policy.actor.lm).name == named
    agent.save(tmp_path / "bc")  # onto what it came from
    assert not (tmp_path / "bc" / "policy" / "lm" / "base").exists()
    again = agents.PPO.load(tmp_path / "bc", device="cpu")
    assert_same(parameters(agent), parameters(again))
    values = make("ILQL", recorded, model=tmp_path / "bc")
    heads = held(values.policy.critic.heads, values.policy.target.heads)
    assert held(values.policy) - heads < 1.2 * held(values.policy.actor)


# -- saving --------------------------------------------------------------------------------------


def test_a_named_base_is_not_saved_and_found_again(named: str, tmp_path: Path) -> None:
    agent = ppo(named).learn(32)
    agent.save(tmp_path / "a")
    files = {p.name for p in (tmp_path / "a" / "policy" / "lm").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json"} <= files
    assert not {"base", "model.safetensors"} & files
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "a", device="cpu")))
    agent.save(tmp_path / "b", save_base=True)
    (Path(named) / "model.safetensors").rename(tmp_path / "elsewhere")
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "b", device="cpu")))
    with pytest.raises(CheckpointError, match=r"the base of the adapters in .* cannot be loaded"):
        agents.PPO.load(tmp_path / "a", device="cpu")


def test_the_bundled_base_keeps_its_name(tmp_path: Path) -> None:
    agent = agents.RLOO(
        "CausalLMPolicy", "text_envs/Reviews-v0", n_episodes=8, group_size=2, kl_coef=0.1,
        device="cpu", policy_kwargs={"lora": LORA},
    ).learn(8)  # fmt: skip
    agent.save(tmp_path / "a")
    size = sum(p.stat().st_size for p in (tmp_path / "a").rglob("*") if p.is_file())
    whole = 4 * sum(p.numel() for p in agent.policy.actor.lm.parameters())
    assert size < whole / 4
    again = agents.RLOO.load(tmp_path / "a", device="cpu")
    assert_same(parameters(agent), parameters(again))
    assert held(again.policy, again.reference) == held(again.policy)


def test_a_base_that_no_name_finds_is_saved(
    named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = ppo(tiny_llama(6))
    agent.save(tmp_path / "a")
    assert "the base of the adapters is saved with them: it has no name" in caplog.text
    again = agents.PPO.load(tmp_path / "a", device="cpu")
    again.save(tmp_path / "a")  # from and to the same place
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "a", device="cpu")))

    changed = AutoModelForCausalLM.from_pretrained(named)  # has a name, and other weights by now
    with torch.no_grad():
        changed.get_input_embeddings().weight.mul_(2)
    agent = ppo(
        peft_model(changed, trained=False, fan_in_fan_out=True), policy_kwargs={"lora": None}
    )
    agent.save(tmp_path / "b")
    assert "has other weights" in caplog.text
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "b", device="cpu")))

    same = AutoModelForCausalLM.from_pretrained(named)
    agent = ppo(peft_model(same, trained=True, fan_in_fan_out=True), policy_kwargs={"lora": None})
    agent.save(tmp_path / "c")
    assert not (tmp_path / "c" / "policy" / "lm" / "base").exists()
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "c", device="cpu")))


def test_saving_over_the_base_keeps_the_base(
    recorded: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("BC", recorded).save(tmp_path / "agent")
    agent = ppo(tmp_path / "agent")
    agent.save(tmp_path / "agent")
    assert "which this save replaces" in caplog.text
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "agent", device="cpu")))


def test_a_base_that_is_gone_is_saved_instead(
    named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = ppo(named)
    Path(named).rename(tmp_path / "moved")
    agent.save(tmp_path / "a")
    assert "is gone" in caplog.text
    assert_same(parameters(agent), parameters(agents.PPO.load(tmp_path / "a", device="cpu")))


def test_an_adapter_for_another_base_names_both(named: str, tmp_path: Path) -> None:
    agent = ppo(named).learn(32)
    agent.save(tmp_path / "a")
    other = text_envs.lm.make_lm(TOY, layers=1, width=16, seed=4)  # of the same shape
    other.save_pretrained(tmp_path / "other")
    for model, shown in ((str(tmp_path / "other"), "other"), (tiny_llama(6), "LlamaForCausalLM")):
        with pytest.raises(
            CheckpointError, match=rf"belong to the base '.*base'.*not to .*{shown}"
        ):
            agents.PPO.load(tmp_path / "a", device="cpu", policy_kwargs={"model": model})
    other.save_pretrained(named)  # somebody trained on, in the same folder
    with pytest.raises(CheckpointError, match="belong to the base"):
        agents.PPO.load(tmp_path / "a", device="cpu")
    moved = tmp_path / "moved"
    text_envs.lm.make_lm(TOY, layers=1, width=16, seed=3).save_pretrained(moved)
    again = agents.PPO.load(tmp_path / "a", device="cpu", policy_kwargs={"model": str(moved)})
    assert_same(parameters(agent), parameters(again))


def test_peft_reads_what_is_saved(named: str, tmp_path: Path) -> None:
    import warnings

    import peft

    agent = ppo(named).learn(32)
    agent.policy.save(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(named), str(tmp_path / "a" / "lm")
        )
    ids = torch.tensor([[0, 1, 2, 3]])
    with torch.no_grad():
        wanted = agent.policy.actor.lm(ids).logits
        torch.testing.assert_close(theirs.eval()(ids).logits, wanted)
        ours, _ = load_lm(tmp_path / "a" / "lm")
        assert torch.equal(ours(ids).logits, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_has_the_scores_of_the_policy(family: str, tmp_path: Path) -> None:
    policy = "Seq2SeqPolicy" if family == "t5" else "CausalLMPolicy"
    agent = ppo(FAMILIES[family](6), policy=policy, learning_rate=1e-2).learn(64)
    before = parameters(agent)
    agent.merge_and_export(tmp_path / "whole")
    assert_same(before, parameters(agent))
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    lm = auto.from_pretrained(tmp_path / "whole").eval()
    ids = torch.tensor([[0, 1, 2, 3]])
    given = {"input_ids": ids, **({"decoder_input_ids": ids} if family == "t5" else {})}
    with torch.no_grad():
        wanted = agent.policy.actor.lm(**given).logits
        torch.testing.assert_close(lm(**given).logits, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(agent.reference.lm(**given).logits, wanted, atol=1e-3)
    with pytest.raises(ValueError, match="exists and is not empty"):
        agent.merge_and_export(tmp_path / "whole")


def test_a_pipeline_reads_an_export(bpe_tokenizer: Any, tmp_path: Path) -> None:
    from test_exports import Texts

    tokenizer = text_envs.tokenizers.load_tokenizer(bpe_tokenizer)
    env = text_envs.make_sb3(Texts(tokenizer), num_envs=4)
    model = tiny_gpt2(tokenizer.vocab_size, positions=40)
    agent = agents.PPO("InstructedPolicy", env, n_episodes=8, device="cpu", seed=0,
                       policy_kwargs={"model": model, "lora": LORA}).learn(32)  # fmt: skip
    agent.merge_and_export(tmp_path / "whole")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    first = agent.policy.actor.instructions[0][0]
    ids = torch.tensor([[first, 5, 6]])
    with torch.no_grad():  # with the learnt tokens of instructions as rows of the embedding
        wanted = agent.policy.actor.lm(ids).logits
        assert lm.get_input_embeddings().weight.shape[0] == first + 2
        torch.testing.assert_close(lm(ids).logits[..., : wanted.shape[-1]], wanted,
                                   rtol=1e-4, atol=1e-4)  # fmt: skip
    write = pipeline("text-generation", model=str(tmp_path / "whole"), device="cpu")
    assert write("the film is", max_new_tokens=4)[0]["generated_text"].startswith("the film is")
    auto = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert auto("the film is")["input_ids"] == tokenizer.encode_prompt("the film is")


# -- tokens of instructions and returns ----------------------------------------------------------


@pytest.mark.parametrize("name", ["HIR", "DecisionTransformer"])
def test_appended_tokens_are_learnt_beside_a_frozen_embedding(
    name: str, recorded: Any, tmp_path: Path, named: str
) -> None:
    agent = make(name, recorded, model=named, lora=LORA)
    embedding = agent.policy.actor.lm.get_input_embeddings()
    rows, base = embedding.rows.detach().clone(), embedding.base_layer.weight.detach().clone()
    agent.learn(200)
    assert not torch.equal(embedding.rows, rows)
    assert torch.equal(embedding.base_layer.weight, base)
    agent.save(tmp_path / "a")
    assert not (tmp_path / "a" / "policy" / "lm" / "base").exists()
    again = reload(agent, tmp_path / "a", recorded)
    assert_same(parameters(agent), parameters(again))
    agent.policy.save(tmp_path / "p")
    policy = type(agent.policy).load(tmp_path / "p", device="cpu")
    assert torch.equal(policy.actor.lm.get_input_embeddings().rows, embedding.rows)


def test_a_value_model_of_its_own(recorded: Any, named: str, tmp_path: Path) -> None:
    agent = make("ILQL", recorded, model=tiny_llama(6), lora=LORA, value_model=named).learn(24)
    critic, target = agent.policy.critic, agent.policy.target
    assert base_of(critic.actor.lm).name == named
    adapters = sum(p.numel() for n, p in critic.named_parameters() if "lora" in n)
    assert held(critic, target) == held(critic) + adapters + held(target.heads)
    agent.save(tmp_path / "a")
    again = reload(agent, tmp_path / "a", recorded)
    for one in (agent, again):
        torch.manual_seed(0)
        one.learn(24, reset_num_timesteps=False)
    assert_same(parameters(again), parameters(agent))


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        (8, TypeError, "lora must be a dictionary of arguments of peft.LoraConfig"),
        ({"rank": 8}, TypeError, r"lora has 'rank', which is not taken here.*Accepted:.*'r'"),
        ({"lora_dropout": 0.1}, ValueError, r"lora_dropout must be 0, got 0.1: with dropout"),
        ({"bias": "all"}, ValueError, "bias of lora must be 'none', got 'all'"),
        ({"init_lora_weights": "pissa"}, ValueError, "got 'pissa', which changes the base"),
        ({"r": 0}, ValueError, r"lora=\{'r': 0\} does not fit"),
        ({"target_modules": ["nope"]}, ValueError, r"does not fit.*c_attn"),
    ],
)
def test_arguments_that_cannot_work(lora: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ppo(tiny_gpt2(6), policy_kwargs={"lora": lora})


def test_a_family_that_peft_does_not_know_asks_for_its_layers() -> None:
    class Mine(GPT2Config):
        model_type = "mine"

    lm = GPT2LMHeadModel(Mine(vocab_size=6, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"does not fit GPT2LMHeadModel.*c_attn, c_fc, c_proj"):
        add_lora(lm, {"r": 2})
    add_lora(tiny_gpt2(6), {"r": 2, "target_modules": ["c_attn"]})


def test_lora_cannot_be_set_later() -> None:
    agent = ppo(tiny_gpt2(6))
    with pytest.raises(AttributeError, match="lora cannot be set once CausalLMPolicy is made"):
        agent.policy.lora = {"r": 4}


def test_peft_is_imported_only_for_adapters() -> None:
    code = (
        "import sys, agents; "
        "agents.PPO('CausalLMPolicy', 'text_envs/Toy-v0', n_episodes=8, device='cpu', "
        "policy_kwargs={'model': {'layers': 1, 'width': 16}}).learn(4); "
        "print('peft' in sys.modules); sys.modules['peft'] = None\n"
        "try:\n    agents.PPO('CausalLMPolicy', 'text_envs/Toy-v0', n_episodes=8, "
        "policy_kwargs={'model': {'layers': 1, 'width': 16}, 'lora': {'r': 2}})\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    assert lines[0] == "False"
    assert "pip install 'text_envs[lora]'" in lines[-1]
