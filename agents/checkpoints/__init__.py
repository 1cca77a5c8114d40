"""Saved agents, without pickle.

Safetensors and JSON in a folder or a `.zip`, written whole or not at all (`storage`); what of a
policy (`policies`) and of an algorithm (`algorithms`) is saved; arguments as plain values
(`arguments`). Imports `common`.
"""

from agents.checkpoints.storage import CheckpointError, SaveEvery

__all__ = ["CheckpointError", "SaveEvery"]
