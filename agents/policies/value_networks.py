r"""The value networks of offline value learning: one transformer, three heads, and its slow copy.

A trunk gives a hidden state $h$ for every position; on it stand heads for $V(s)$, $Q_1$ and $Q_2$,
each $d \to 2d \to \mathrm{ReLU} \to$ outputs. A token's $Q_i(s, \cdot)$ has one output an action
and is read at the position BEFORE the token; an utterance's $Q_i$ has one output and is read at its
last token.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from text_envs.lm.action_lm import ActionLM
from text_envs.lm.likelihood import linear_scores
from text_envs.lm.precision import outside_autocast
from text_envs.lm.sharing import base_parameters, shared_copy

__all__ = ["ValueTrunk", "make_target", "polyak_update"]

# Q values of all actions at a time, where only their maximum is wanted.
_Q_VALUES = 2**22


class ValueTrunk(nn.Module):
    """A transformer with the heads V, Q1 and Q2.

    All heads start as the constant 0 (`start_at` gives another): with random ones, the first
    targets would be noise.

    Args:
        actor: whose language model becomes the trunk; its output layer is not used. It is taken
            over, not copied.
        num_outputs: of each Q head: the number of actions, or 1 for whole utterances.
    """

    def __init__(self, actor: ActionLM, num_outputs: int) -> None:
        super().__init__()
        actor.lm.set_output_embeddings(nn.Identity())  # neither trained nor saved
        self.actor, self.num_outputs = actor, num_outputs
        self.heads = nn.ModuleDict(
            {name: _head(actor.hidden_size, n) for name, n in _outputs(num_outputs)}
        ).to(actor.lm.device)

    def trained_parameters(self) -> list[Tensor]:
        """Return the parameters that a value depends on: backbone, or its adapters, and heads."""
        shared, backbone = base_parameters(self), self.actor.lm.base_model
        own = [p for p in backbone.parameters() if id(p) not in shared]
        return [*own, *self.heads.parameters()]

    def keep_exact(self) -> None:
        """Remember in float32 what is bfloat16: steps of a slow copy are too small for it."""
        for number, parameter in enumerate(self.trained_parameters()):
            if parameter.dtype == torch.bfloat16:
                self.register_buffer(f"exact_{number}", parameter.detach().float())

    def exact(self) -> dict[int, Tensor]:
        """Return what `keep_exact` remembers, by the number of the parameter."""
        prefix = "exact_"
        return {
            int(name.removeprefix(prefix)): tensor
            for name, tensor in self.named_buffers(recurse=False)
            if name.startswith(prefix)
        }

    def start_at(self, value: float) -> None:
        """Make every head return `value`, whatever the state."""
        with torch.no_grad():
            for head in self.heads.values():
                last = cast(nn.Linear, cast(nn.Sequential, head)[-1])
                last.weight.zero_()
                last.bias.fill_(value)

    def encode(self, tokens: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states `(M, d)` at chosen columns, in one forward pass a sequence."""
        return self.actor.encode(tokens, columns, mask)

    @outside_autocast
    def v(self, hidden: Tensor) -> Tensor:
        """Return $V(s)$ `(M,)` of hidden states `(M, d)`."""
        return cast(Tensor, self.heads["v"](hidden.float())).squeeze(1)

    @outside_autocast
    def q(self, hidden: Tensor) -> Tensor:
        """Return $Q_i(s, a)$ of all actions, `(2, M, A)`."""
        hidden = hidden.float()
        return torch.stack([self.heads[name](hidden) for name in ("q1", "q2")])

    @outside_autocast
    def q_min(self, hidden: Tensor) -> Tensor:
        r"""Return $\min_i Q_i(s, a)$ of all actions, `(M, A)`."""
        hidden = hidden.float()
        return torch.minimum(self.heads["q1"](hidden), self.heads["q2"](hidden))

    @outside_autocast
    def q_at(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """Return $Q_i(s, u)$ `(2, M)` of the actions `(M,)`, without those of other actions."""
        return torch.stack([_at(last, f, actions) for last, f in self._features(hidden)])

    @outside_autocast
    def q_with_log_probs(self, hidden: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return $Q_i(s, u)$ and $\log \mathrm{softmax}(Q_i(s, \cdot))_u$, each `(2, M)`."""
        parts = self._features(hidden)
        pairs = [linear_scores(f, last.weight, last.bias, actions) for last, f in parts]
        q, log_probs = (torch.stack(both) for both in zip(*pairs, strict=True))
        return q, log_probs

    @torch.no_grad()
    def best_q(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        r"""Return $\max_a \min_i Q_i(s, a)$ `(M,)`, without the Q of all states at once.

        Args:
            hidden: `(M, d)`.
            allowed: bool `(A,)`, the actions that may be taken.
        """
        rows = max(1, _Q_VALUES // self.num_outputs)
        best = [
            self.q_min(part).masked_fill_(~allowed, -torch.inf).amax(dim=1)
            for part in hidden.split(rows)
        ]
        return torch.cat(best)

    def _features(self, hidden: Tensor) -> list[tuple[nn.Linear, Tensor]]:
        """Return, for each Q head, its last layer and what that is applied to, `(M, 2d)`."""
        heads = [cast(nn.Sequential, self.heads[name]) for name in ("q1", "q2")]
        return [(cast(nn.Linear, head[-1]), head[:-1](hidden.float())) for head in heads]


def make_target(trunk: ValueTrunk) -> ValueTrunk:
    """Return a copy that takes no gradient; it shares what the trunk does not train."""
    target = shared_copy(trunk).requires_grad_(False)
    target.keep_exact()
    return target


@torch.no_grad()
def polyak_update(target: ValueTrunk, online: ValueTrunk, rate: float) -> None:
    r"""Move the target: $\bar\theta \leftarrow \bar\theta + \rho\,(\theta - \bar\theta)$.

    Args:
        target: changed in place.
        online: the trained trunk.
        rate: $\rho$ in (0, 1]; 1 makes the two equal.
    """
    moving, exact = target.trained_parameters(), target.exact()
    towards = online.trained_parameters()
    if not exact:
        torch._foreach_lerp_(moving, towards, rate)
        return
    for number, (slow, fast) in enumerate(zip(moving, towards, strict=True)):
        kept = exact.get(number)
        if kept is None:
            slow.lerp_(fast, rate)
        else:
            slow.copy_(kept.lerp_(fast.float(), rate))


def _outputs(num_outputs: int) -> list[tuple[str, int]]:
    return [("v", 1), ("q1", num_outputs), ("q2", num_outputs)]


def _head(size: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(2 * size, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), last)


def _at(last: nn.Linear, features: Tensor, actions: Tensor) -> Tensor:
    """Return one output a row of a linear layer, `(M,)`."""
    weight = functional.embedding(actions, last.weight)  # (M, 2d)
    return (features * weight).sum(dim=1) + last.bias[actions]
