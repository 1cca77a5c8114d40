"""Causal language models as distributions over the actions of an environment.

Needs torch and transformers; `import text_envs` does not import it. Everything that runs a language
model stands on this package: the agents, and below them the plug-ins of environments (reference
shaping, guides, likelihood rewards) and the exact evaluation of a model. Imports `tokens`,
`episodes` and `core`.
"""

from __future__ import annotations

from text_envs.lm.action_lm import ActionLM
from text_envs.lm.loading import BUNDLED, freeze, load_lm
from text_envs.lm.scratch import make_lm

__all__ = ["BUNDLED", "ActionLM", "freeze", "load_lm", "make_lm"]
