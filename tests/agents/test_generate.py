"""`generate(prompts)`: the texts that transformers' `generate` makes of the same model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_models import OVER, QUESTION, chat_folder, chat_tokenizer
from models import tiny_gpt2, tiny_llama
from transformers import T5Config, T5ForConditionalGeneration

import text_envs
from agents import BC, ILQL, PPO, Seq2SeqPolicy
from agents.policies.instructed import InstructedPolicy
from agents.rollouts.episodes import collect_episodes
from text_envs.tokens import load_tokenizer

PROMPTS = ["the film", "a", "世界 and the story is", QUESTION]
MODELS = {"gpt2": tiny_gpt2, "llama": tiny_llama}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty": {"repetition_penalty": 1.5},
    "least": {"min_tokens": 6},
    "cut": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    "all": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02,
            "repetition_penalty": 1.2, "min_tokens": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def words() -> Any:
    return load_tokenizer(chat_tokenizer())


def make_agent(words: Any, model: Any = None, policy: Any = "CausalLMPolicy", **kwargs: Any) -> Any:
    task = text_envs.Task(
        [text_envs.Example("the film")], tokenizer=words, prompt_length=8, max_tokens=6
    )
    env = text_envs.TokenVectorEnv(task, num_envs=4, reward="length")
    model = tiny_llama(words.vocab_size, positions=160) if model is None else model
    given = {"n_episodes": 8, "seed": 0, "device": "cpu", "policy_kwargs": {"model": model}}
    return PPO(policy, env, **(given | kwargs))


def by_transformers(words: Any, lm: Any, prompts: Any, n: int, **kwargs: Any) -> list[list[str]]:
    """Return what `generate` writes: prompts encoded by the tokenizer, left-padded by its mask."""
    ids = [
        list(words.hf(p)["input_ids"]) if isinstance(p, str)
        else list(words.hf.apply_chat_template(p, add_generation_prompt=True)["input_ids"])
        for p in prompts
    ]  # fmt: skip
    width = max(map(len, ids))
    tokens = torch.tensor([[words.pad_id] * (width - len(i)) + i for i in ids])
    never = np.flatnonzero(words.forbidden).tolist()
    never += list(range(words.num_actions, words.vocab_size))
    names = {"min_tokens": "min_new_tokens"}
    given = {names.get(name, name): value for name, value in kwargs.items()}
    out = lm.generate(
        tokens, attention_mask=(tokens != words.pad_id).long(), num_return_sequences=n,
        eos_token_id=list(words.eos_ids), pad_token_id=words.pad_id, suppress_tokens=never,
        **({"top_k": 0} | given),
    )  # fmt: skip
    texts = [words.decode(row[width:].tolist()) for row in out]
    return [texts[i : i + n] for i in range(0, len(texts), n)]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_greedy_texts_are_those_of_transformers(words: Any, family: str, settings: str) -> None:
    lm = MODELS[family](words.vocab_size, positions=160)
    # Padding is never read: a model's own mask makes no difference where no prompt is shorter.
    agent, given = make_agent(words, lm), SETTINGS[settings]
    wanted = [
        by_transformers(words, lm, [p], 1, max_new_tokens=20, do_sample=False, **given)[0][0]
        for p in PROMPTS
    ]
    found = agent.generate(PROMPTS, max_tokens=20, deterministic=True, **given)
    assert found == wanted and any(found)
    assert agent.policy.generate(PROMPTS[3], max_tokens=20, deterministic=True, **given) == [
        wanted[3]
    ]


@pytest.mark.parametrize("settings", ["plain", "all"])
def test_sampled_texts_are_distributed_as_those_of_transformers(words: Any, settings: str) -> None:
    """First two tokens of 4,000 texts each: the total variation is that of two samples of one."""
    lm, given, n = tiny_llama(words.vocab_size, positions=64), dict(SETTINGS[settings]), 4000
    given |= {"min_tokens": 2} if "min_tokens" in given else {}
    with torch.no_grad():  # a few words take most of the mass
        lm.get_output_embeddings().weight.mul_(2)
    agent = make_agent(words, lm)
    ours = agent.generate(["the film"], max_tokens=2, n=n, seed=1, batch_size=n, **given)[0]
    torch.manual_seed(2)
    theirs, again = (
        by_transformers(words, lm, ["the film"], n, max_new_tokens=2, do_sample=True, **given)[0]
        for _ in range(2)
    )

    def distance(one: list[str], other: list[str]) -> float:
        counts = Counter(one), Counter(other)
        return sum(abs(counts[0][t] - counts[1][t]) for t in {*one, *other}) / (2 * n)

    assert 0.05 < distance(theirs, again)
    assert distance(ours, theirs) < 1.25 * distance(theirs, again) + 0.01


def test_stop_strings_end_texts_where_those_of_transformers_do(words: Any) -> None:
    lm = tiny_llama(words.vocab_size, positions=160, seed=3)
    agent, cut = make_agent(words, lm), 0
    for prompt in ("the film", "story 12", "qq z q"):
        given: dict[str, Any] = {"repetition_penalty": 1.6}
        whole = agent.generate(prompt, max_tokens=40, deterministic=True, **given)[0]
        # Pieces of what it writes, of one to three letters, wherever tokens begin and end.
        pieces = [whole[k : k + 1 + k % 3] for k in range(3, len(whole) - 3, 4)]
        stops: list[Any] = [piece for piece in pieces if "\ufffd" not in piece][:6]
        for stop in [*stops, stops[1:3]]:
            wanted = by_transformers(
                words, lm, [prompt], 1, max_new_tokens=40, do_sample=False, stop_strings=stop,
                tokenizer=words.hf, **given,
            )[0][0]  # fmt: skip
            found = agent.generate(prompt, max_tokens=40, stop=stop, deterministic=True, **given)
            assert found == [wanted], stop
            cut += len(wanted) < len(whole)
    assert cut >= 10


def test_every_end_token_ends_a_text_and_is_no_part_of_it(tmp_path: Path) -> None:
    lm = tiny_llama(load_tokenizer(chat_tokenizer()).vocab_size, positions=64)
    words = load_tokenizer(chat_folder(tmp_path, lm))
    assert len(words.eos_ids) == 2
    agent = make_agent(words, str(tmp_path))
    assert agent.policy.actor.eos_ids == tuple(sorted(words.eos_ids))
    with torch.no_grad():
        agent.policy.actor.lm.get_output_embeddings().weight[list(words.eos_ids)] = 0
        agent.policy.actor.lm.get_output_embeddings().weight.mul_(0.01)
    texts = agent.generate(["the film"], n=400, max_tokens=60, seed=0)[0]
    assert len({len(t) for t in texts}) > 10 and not any("<|" in t for t in texts)
    rollout = collect_episodes(agent.policy, agent.env, 40, agent.env.reset()).rollout
    assert rollout.mask.any()
    ended = make_agent(words, str(tmp_path)).generate(["a"], max_tokens=3, min_tokens=3, n=50)[0]
    assert all(ended)
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", device="cpu")
    assert again.policy.actor.eos_ids == agent.policy.actor.eos_ids
    assert again.policy.tokenizer.eos_ids == words.eos_ids
    assert again.generate(PROMPTS, seed=3) == agent.generate(PROMPTS, seed=3)
    from transformers import GenerationConfig

    exported = GenerationConfig.from_pretrained(tmp_path / "agent" / "policy" / "lm")
    assert exported.eos_token_id == list(words.eos_ids)


def test_seeds_groups_and_batches(words: Any) -> None:
    agent = make_agent(words)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = agent.generate(PROMPTS, n=3, seed=7, max_tokens=9)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [len(group) for group in one] == [3] * 4 and len(set(one[0])) > 1
    assert agent.generate(PROMPTS, n=3, seed=7, max_tokens=9) == one
    assert agent.generate(PROMPTS, n=3, seed=8, max_tokens=9) != one
    torch.manual_seed(7)
    free = agent.generate(PROMPTS, n=3, max_tokens=9)
    assert free == one and agent.generate(PROMPTS, n=3, max_tokens=9) != one
    greedy = agent.generate(PROMPTS, deterministic=True)
    assert agent.generate(PROMPTS, deterministic=True, batch_size=2) == greedy
    assert agent.generate([]) == [] and agent.generate("", max_tokens=2, n=1)[0]


def test_training_goes_on_as_if_nothing_was_written(words: Any) -> None:
    """Caches, columns and settings are the roll-out's again; the same run with and without."""

    def run(writes: bool) -> list[float]:
        agent = make_agent(words)
        texts = []

        def callback(scope: Any, _: Any) -> bool:
            if writes and agent.num_timesteps % 3 == 0:
                texts.append(agent.generate(PROMPTS[:2], max_tokens=4, seed=1, top_k=3))
            return True

        agent.learn(80, callback=callback)
        assert bool(texts) == writes and agent.policy.actor.prompt_length == 8
        assert agent.policy.top_k is None
        return [p.double().sum().item() for p in agent.policy.parameters()]

    assert run(True) == run(False)


def test_other_policies_write_from_their_own_distribution(words: Any) -> None:
    agent = make_agent(words, policy=InstructedPolicy)
    wrong, right = (
        setattr(agent.policy, "goal", g) or agent.generate("the film", deterministic=True)
        for g in (0, 1)
    )
    assert wrong != right
    dataset = text_envs.datasets.collect("text_envs/Toy-v0", "random", 24, seed=0)
    offline = ILQL("ValueGuidedPolicy", "text_envs/Toy-v0", dataset=dataset, seed=0, device="cpu")
    offline.policy.beta = 2.0
    with torch.no_grad():  # Q pays for "b" alone
        for name in ("q1", "q2"):
            offline.policy.target.heads[name][-1].bias[1] = 9.0
    assert offline.generate("", deterministic=True, max_tokens=3) == ["b b b"]
    assert offline.generate("", seed=0, max_tokens=3, n=5) == [["b b b"] * 5]
    assert BC("CausalLMPolicy", "text_envs/Toy-v0", dataset=dataset, device="cpu").generate("")


def test_encoder_decoders_write_too(words: Any) -> None:
    torch.manual_seed(0)
    lm = T5ForConditionalGeneration(
        T5Config(
            vocab_size=words.vocab_size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            decoder_start_token_id=words.pad_id, pad_token_id=words.pad_id,
            eos_token_id=words.eos_id, initializer_factor=3.0,
        )
    ).eval()  # fmt: skip
    agent = make_agent(words, lm, Seq2SeqPolicy)
    for settings in ({}, {"repetition_penalty": 1.5, "min_tokens": 4}):
        found = agent.generate(
            ["the film", "a film is"], deterministic=True, max_tokens=8, **settings
        )
        for prompt, text in zip(("the film", "a film is"), found, strict=True):
            ids = torch.tensor([[*words.encode(prompt), words.eos_id]])
            names = {"min_tokens": "min_new_tokens"}
            out = lm.generate(
                ids, max_new_tokens=8, do_sample=False,
                suppress_tokens=[
                    *np.flatnonzero(words.forbidden).tolist(),
                    *range(words.num_actions, words.vocab_size),
                ],
                **{names.get(k, k): v for k, v in settings.items()},
            )  # fmt: skip
            assert text == words.decode(out[0].tolist())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"prompts": 3}), ValueError, "prompts must be a list of texts or of messages, got 3"),
        (({"prompts": ["a", 3]}), ValueError, "prompt 1 is no text: messages must be a list"),
        (({"prompts": [[{"role": "user"}]]}), ValueError, "prompt 0 .*message 0 must have a text"),
        (({"max_tokens": 0}), ValueError, "max_tokens"),
        (({"n": 0}), ValueError, "n must be"),
        (({"stop": ""}), ValueError, "stop holds an empty text"),
        (({"stop": "film film film", "max_tokens": 2}), ValueError, "a text has at most 2"),
        (({"top_p": 2}), ValueError, "top_p must be None or in"),
        (({"topk": 2}), TypeError, "topk"),
        (({"min_tokens": 9, "max_tokens": 8}), ValueError, "min_tokens=9 is above max_tokens=8"),
        (({"max_tokens": 200}), ValueError, "has 160 positions"),
        (({"tokenizer": "reviews"}), ValueError, "pass the tokenizer that it learnt with"),
    ],
)
def test_bad_arguments_are_named(words: Any, arguments: Any, error: Any, message: str) -> None:
    agent = make_agent(words)
    with pytest.raises(error, match=message):
        agent.generate(**({"prompts": ["the film"]} | arguments))
    assert agent.policy.actor.prompt_length == 8 and agent.policy.top_p is None
    agent.policy.tokenizer = None
    with pytest.raises(ValueError, match="a model without a tokenizer; pass tokenizer="):
        agent.generate("a")
    assert OVER
