"""Part `rollout`: tokens a second from the bundled language model through the environment.

Ours, reward and restarts of the environment included:

- the collector, `agents.rollouts.episodes.collect_episodes`, that an agent trains with;
- the plain loop, `policy.predict(obs)` and `env.step(actions)`.

Compared with

- `generate` of transformers on the same model, batch, prompts and numbers of tokens, sampling
  from the plain distribution (no top-k, no top-p), without any environment;
- re-encoding: the same policy and environment, but every step encodes the whole text again, at
  its last column only.

"fixed" cases: no text may stop before the length limit on either side; the environment's policy
forbids the end of text, `generate` has no stop token and thus treats it as a word, which costs it
nothing. "stop" case: both sides stop at the end of text, tokens up to it are counted.
All caches are dropped before each roll-out, as after an optimiser step.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.episodes import collect_episodes
from benchmarks.lm import agent, on_threads
from benchmarks.measure import Contender, Row, compare, interleave
from text_envs.envs.vec_env import TokenVecEnv
from text_envs.lm.likelihood import sample

__all__ = ["measure"]

UNIT = "tokens/s"


def _collector(policy: CausalLMPolicy, env: TokenVecEnv) -> float:
    policy.actor.invalidate()
    begin = time.perf_counter()
    rollout = collect_episodes(policy, env, env.num_envs, env.reset()).rollout
    return int(rollout.mask.sum()) / (time.perf_counter() - begin)


def _predict_loop(policy: CausalLMPolicy, env: TokenVecEnv, steps: int) -> float:
    policy.actor.invalidate()
    begin = time.perf_counter()
    obs: Any = env.reset()
    for _ in range(steps):
        actions, _ = policy.predict(obs, deterministic=False)
        obs, _, _, _ = env.step(actions)
    return steps * env.num_envs / (time.perf_counter() - begin)


@torch.inference_mode()
def _reencoding(policy: CausalLMPolicy, env: TokenVecEnv, steps: int) -> float:
    actor = policy.actor
    mask = torch.ones(env.num_envs, 1, dtype=torch.bool)
    begin = time.perf_counter()
    obs: Any = env.reset()
    for step in range(steps):
        last = torch.full((env.num_envs, 1), env.env.task.prompt_length + step - 1)
        hidden = actor.encode(torch.from_numpy(obs), last, mask)
        actions, _ = sample(actor.logits(hidden))
        obs, _, _, _ = env.step(actions.numpy())
    return steps * env.num_envs / (time.perf_counter() - begin)


def _generate(policy: CausalLMPolicy, env: TokenVecEnv, steps: int, may_stop: bool) -> float:
    lm: PreTrainedModel = policy.actor.lm
    tokenizer, columns = env.env.tokenizer, env.env.task.prompt_length
    prompts = torch.from_numpy(env.reset()[:, :columns])
    mask = (prompts != tokenizer.pad_id).long()
    # The model's own settings, not an argument: what an argument leaves out is read from there.
    lm.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=steps,
        eos_token_id=tokenizer.eos_id if may_stop else None,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.bos_id,
    )
    begin = time.perf_counter()
    whole = lm.generate(inputs=prompts, attention_mask=mask)  # type: ignore[operator]
    seconds = time.perf_counter() - begin
    new = whole[:, columns:]
    if not may_stop:
        assert new.shape == (env.num_envs, steps), "generate stopped early"
        return int(new.numel()) / seconds
    return int((new != tokenizer.pad_id).sum()) / seconds


def _contenders(num_envs: int, max_tokens: int, seed: int, may_stop: bool) -> dict[str, Contender]:
    ppo, env = agent(num_envs, max_tokens, seed, may_stop=may_stop, batch_size=num_envs)
    policy = ppo.policy
    contenders: dict[str, Contender] = {
        "collector": lambda: _collector(policy, env),
        "generate": lambda: _generate(policy, env, max_tokens, may_stop),
    }
    if not may_stop:
        contenders["predict + step"] = lambda: _predict_loop(policy, env, max_tokens)
        contenders["re-encoding"] = lambda: _reencoding(policy, env, max_tokens)
    return contenders


def measure(quick: bool, seed: int, threads: list[int]) -> list[Row]:
    """Return the rows of this part."""
    rounds = 2 if quick else 9
    cases = [(64, 24, False), (64, 48, False), (64, 24, True), (16, 24, False), (256, 24, False)]
    if quick:
        cases = [(4, 4, False), (4, 4, True)]
    rows = []
    for count in threads:
        label = on_threads(count)
        for num_envs, max_tokens, may_stop in cases:
            speeds = interleave(_contenders(num_envs, max_tokens, seed, may_stop), rounds)
            kind = "stop" if may_stop else "fixed"
            case = f"B={num_envs}, T={max_tokens}, {kind}, {label}"
            for ours in ("collector", "predict + step"):
                for against in ("generate", "re-encoding"):
                    if ours in speeds and against in speeds:
                        target = 1.5 if (num_envs, against) == (64, "generate") else None
                        row = compare(
                            speeds, ours, against, part="rollout", case=case, unit=UNIT,
                            target=target,
                        )  # fmt: skip
                        print(row, flush=True)
                        rows.append(row)
    return rows
