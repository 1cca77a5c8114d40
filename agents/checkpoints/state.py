"""Where the training of an algorithm is: counters, generators, environment or order of the data."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from agents.checkpoints.errors import CheckpointError, reading, whole

__all__ = ["COUNTERS", "check_state", "resume", "state_of"]

logger = logging.getLogger(__name__)

COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


def state_of(algorithm: Any) -> dict[str, Any]:
    """Return what decides how training goes on, besides weights and arguments."""
    state = {name: getattr(algorithm, name) for name in COUNTERS}
    state["ep_info"] = list(algorithm.ep_info_buffer or ())
    if hasattr(algorithm, "own_state"):  # what no other algorithm has
        state["own"] = algorithm.own_state()
    if algorithm.pending is not None:  # loaded and not gone on with: still where it was
        return {**algorithm.pending, **state}
    if hasattr(algorithm, "data_state"):  # it learns from a data set
        state["data"] = algorithm.data_state()
    else:
        state["obs"], state["starts"] = algorithm._last_obs, algorithm._last_episode_starts
        state["env"] = _env_state(algorithm.env)
    python = random.getstate()
    state["rng"] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": list(np.random.get_state()),
        "python": [python[0], list(python[1]), python[2]],
    }
    return state


def resume(algorithm: Any) -> None:
    """Put back environment or data and generators of a loaded algorithm, before it goes on."""
    state, algorithm.pending = algorithm.pending, None
    if state is None:
        return
    if "rng" not in state:
        algorithm.set_random_seed(algorithm.seed)
        return
    with reading("state.json: where the saved run was"):
        if "data" in state:
            algorithm.set_data_state(state["data"])
        elif state["env"] is not None and _set_env_state(algorithm.env, state["env"]):
            algorithm._last_obs, algorithm._last_episode_starts = state["obs"], state["starts"]
    _set_generators(state["rng"])


def _env_state(env: Any) -> Any:
    """Return the state of the environments, or None where they do not offer one."""
    native: Any = getattr(env, "env", None)
    if hasattr(native, "get_state"):
        return {"native": native.get_state()}
    try:
        return {"rows": env.env_method("get_state")}
    except AttributeError:
        return None


def _set_env_state(env: Any, state: dict[str, Any]) -> bool:
    """Restore the environments; False, with a message, if these are not like the saved ones."""
    try:
        if "native" in state:
            env.env.set_state(state["native"])
        elif len(state["rows"]) != env.num_envs:
            raise ValueError(f"{len(state['rows'])} rows were saved, here are {env.num_envs}")
        else:
            env.reset()  # wrappers around the rows want one before any step
            for row, saved in enumerate(state["rows"]):
                env.env_method("set_state", saved, indices=row)
    except (AttributeError, ValueError) as error:
        logger.warning(
            "the environment is reset instead of restored, so that training goes on, but not "
            "exactly as the saved run would have: %s",
            error,
        )
        return False
    while env is not None:  # a seed that waits for the next reset would undo what was restored
        env._reset_seeds()
        env = getattr(env, "venv", None)
    return True


def _set_generators(rng: dict[str, Any], *, try_only: bool = False) -> None:
    """Put back all global generators; or only try whether the values are those of generators."""
    version, words, gauss = rng["python"]
    if try_only:
        torch.Generator().set_state(rng["torch"])
        np.random.RandomState().set_state(tuple(rng["numpy"]))
        random.Random().setstate((version, tuple(words), gauss))
        if not all(isinstance(state, torch.Tensor) for state in list(rng["cuda"])):
            raise CheckpointError("rng.cuda must be states of generators")
        return
    torch.set_rng_state(rng["torch"])
    if rng["cuda"] and torch.cuda.device_count() == len(rng["cuda"]):
        torch.cuda.set_rng_state_all(rng["cuda"])
    np.random.set_state(tuple(rng["numpy"]))
    random.setstate((version, tuple(words), gauss))


def check_state(state: Any, algorithm: Any) -> None:
    """Check what `state_of` returned, before any of it is taken over.

    Raises:
        CheckpointError: a field is missing or of another kind.
    """
    if not isinstance(state, dict):
        raise CheckpointError(f"holds no object, but {type(state).__name__}")
    offline = hasattr(algorithm, "data_state")
    needed = (*COUNTERS, "ep_info", "rng", *(("data",) if offline else ("obs", "starts", "env")))
    for name in needed:
        if name not in state:
            raise CheckpointError(f"has no {name!r}")
    for name in COUNTERS[:-1]:
        whole(name, state[name])
    progress = state[COUNTERS[-1]]
    if type(progress) not in (int, float) or not 0 <= progress <= 1:
        raise CheckpointError(f"{COUNTERS[-1]} must be in [0, 1], got {progress!r}")
    if hasattr(algorithm, "own_state") and "own" not in state:
        raise CheckpointError("has no 'own'")
    _check_episodes(state["ep_info"])
    with reading("rng"):
        _set_generators(state["rng"], try_only=True)
    with reading("data" if offline else "env"):
        if not isinstance(state["data" if offline else "env"], dict | None):
            raise CheckpointError("must be an object")
        if not offline:
            _check_observations(state["obs"], state["starts"], algorithm.observation_space)


def _check_episodes(episodes: Any) -> None:
    if not isinstance(episodes, list):
        raise CheckpointError(f"ep_info must be a list, got {type(episodes).__name__}")
    for i, info in enumerate(episodes):
        numbers = [info.get(key) for key in "rlt"] if isinstance(info, dict) else [None]
        if not all(type(number) in (int, float) for number in numbers):
            raise CheckpointError(f"ep_info[{i}] must hold the numbers r, l and t, got {info!r}")


def _check_observations(obs: Any, starts: Any, space: Any) -> None:
    """Check that observations are those of a space: ids in rows, by name if there are names."""
    if isinstance(obs, dict):
        for name, part in obs.items():
            _check_observations(part, starts, space[name])
    elif obs is not None:
        if isinstance(space, spaces.Dict):  # a goal that is asked for stands aside
            space = space["observation"]
        ids = isinstance(obs, np.ndarray) and obs.dtype.kind in "iu"
        if not ids or obs.shape[1:] != space.shape or not space.contains(obs[0]):
            raise CheckpointError("obs must be observations of the observation space")
        if not isinstance(starts, np.ndarray) or starts.shape != obs.shape[:1]:
            raise CheckpointError("starts must be one truth value for each row of obs")
