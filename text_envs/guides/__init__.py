r"""Guides: black boxes that write a part of a text, and are only sampled from.

A guide g begins a text that an agent goes on with (`GuidedStarts`), or finishes
one that an agent has begun (`complete`). Nothing is asked of it but texts: no scores, no gradients.

| source | `as_guide(source, task)` writes |
|---|---|
| a function of a `Query` | what it returns: one text or list of token ids for each row |
| `"script:expert"` | the task's scripted player of this quality (`Task.script`) |
| a causal LM or its name | tokens drawn from it: `temperature`, `top_p`, ... or `deterministic` |
| an agent or policy of Stable-Baselines3 | tokens drawn from its distribution |
| `text_envs.policies.as_log_probs(f, task)` | tokens drawn from a policy function |

A model is copied and frozen, with the values that guide it if there are any: a learner that starts
from its guide's weights leaves the guide alone (a policy function follows its source, for guides
that learn along). Of an agent without a distribution, such as DQN, the choice is written.
Its tokens are drawn from the generators of the rows, so that a seed fixes them; what a function
draws elsewhere is its own business. A text stands for the rest of a turn, to which the end token is
added; token ids stand for themselves, and the guide is asked again until the turn has ended.

What it costs is counted in `guide.queries`; `draw` is the sampling rule

    a ~ p(a | s)^(1 / temperature), restricted to the smallest set of mass >= top_p.

>>> import gymnasium as gym, numpy as np, text_envs
>>> from text_envs.guides import as_guide, complete
>>> env = gym.make_vec("text_envs/Toy-v0", num_envs=2).unwrapped
>>> _ = env.reset(seed=0), env.step(np.array([0, 1]))  # an agent has written "a" and "b"
>>> guide = as_guide(lambda query: ["b" if t == "a" else "a" for t in query.texts], env.task)
>>> episodes = complete(env, env.get_state(), guide)
>>> [env.tokenizer.decode(tokens) for tokens in episodes.tokens], episodes.returns.tolist()
(['a b', 'b a'], [1.5, 0.5])
>>> episodes.num_steps, guide.queries
(2, Queries(calls=1, rows=2, tokens=4))

The two plug-ins that give an environment what the papers add live here too: `roll_in`, start states
that a guide has reached, and `shaping`, rewards for single tokens. Imports `policies` and what
stands below it, but no task and no face.

Deviations from the paper: its guide is a language model; here it may be anything that writes.

Reference: Chang et al., "Learning to Generate Better Than Your LLM", 2023, arXiv 2306.11816.
"""

from __future__ import annotations

from text_envs.guides.base import Completion, Guide, Queries, Query
from text_envs.guides.completion import complete
from text_envs.guides.sampler import draw
from text_envs.guides.sources import as_guide

__all__ = ["Completion", "Guide", "Queries", "Query", "as_guide", "complete", "draw"]
