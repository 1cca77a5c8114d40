"""Part `guided`: tokens a second of roll-outs that agent and guide write together.

On `Reviews-v0` with the bundled model as agent and as guide, one text a row, rewards included:

- PPO++: the guide writes all texts in one call, the agent goes on from prefixes of them (beta 1);
- AggreVaTeD: the agent writes all texts, the guide finishes prefixes of them in one call, and the
  values of the states that the guide went through are computed;
- PPO: the agent writes all texts.

Counted are all tokens that were sampled, the agent's and the guide's, those included that the other
one wrote anew: what a token costs. A text of PPO++ or AggreVaTeD has up to twice as many as one of
PPO; "texts" rows count finished texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.episodes import collect_episodes
from agents.rollouts.guided import guide_finishes, guide_starts
from benchmarks.lm import agent, on_threads
from benchmarks.measure import Contender, Row, compare, interleave
from text_envs.envs.vec_env import TokenVecEnv
from text_envs.guides.roll_in import GuidedStarts

__all__ = ["measure"]


class _Stretch:
    """One roll-out; remembers what it sampled.

    Attributes:
        tokens: sampled by agent and guide.
        seconds: it took.
    """

    def __init__(self, policy: CausalLMPolicy, env: TokenVecEnv, play: Any) -> None:
        self.policy, self.env, self.play = policy, env, play
        self.starts = GuidedStarts("reviews", 1.0)
        self.starts.bind(env.get_attr("task")[0])
        self.tokens, self.seconds = 0, 1.0

    def run(self) -> None:
        """Play a text a row."""
        policy, env = self.policy, self.env
        policy.actor.invalidate()
        sampled = 0

        def count(step: dict[str, Any]) -> bool:
            nonlocal sampled
            sampled += step["n_tokens"]
            return True

        before, begin = self.starts.queries.tokens, time.perf_counter()
        if self.play is None:
            collect_episodes(policy, env, env.num_envs, env.reset(), count)  # type: ignore[arg-type]
        else:
            self.play(policy, env, self.starts, count)
        self.seconds = time.perf_counter() - begin
        self.tokens = sampled + self.starts.queries.tokens - before


def _contenders(stretches: dict[str, _Stretch], unit: str) -> dict[str, Contender]:
    def timed(stretch: _Stretch) -> Callable[[], float]:
        def speed() -> float:
            stretch.run()
            done = stretch.tokens if unit == "tokens/s" else stretch.env.num_envs
            return done / stretch.seconds

        return speed

    return {name: timed(stretch) for name, stretch in stretches.items()}


def measure(quick: bool, seed: int, threads: list[int]) -> list[Row]:
    """Return the rows of this part."""
    num_envs, max_tokens, rounds = (4, 4, 2) if quick else (64, 24, 15)
    rows = []
    for count in threads:
        case = f"B={num_envs}, T={max_tokens}, {on_threads(count)}"
        ppo, env = agent(num_envs, max_tokens, seed, batch_size=num_envs)
        plays = {"PPO++": guide_starts, "AggreVaTeD": guide_finishes, "PPO": None}
        stretches = {name: _Stretch(ppo.policy, env, play) for name, play in plays.items()}
        for unit, target in (("tokens/s", 0.8), ("texts/s", None)):
            speeds = interleave(_contenders(stretches, unit), rounds)
            for ours in ("PPO++", "AggreVaTeD"):
                row = compare(
                    speeds, ours, "PPO", part="guided", case=case, unit=unit, target=target
                )
                print(row, flush=True)
                rows.append(row)
    return rows
