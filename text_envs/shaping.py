"""Rewards for single tokens, under the name that users write; they live in `text_envs.guides`."""

from text_envs.guides.shaping import ReferenceShaping

__all__ = ["ReferenceShaping"]
