"""Checks of what goes wrong in the field: copies, refused resets, steps that are broken off.

They hold for environments of every kind, with goals and without.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np

from text_envs.testing.shared import random_actions, same, single, vector

__all__ = [
    "RELIABILITY_CHECKS",
    "check_copies",
    "check_interrupted_steps",
    "check_refused_resets",
    "check_same_infos",
]


_STEPS = 30  # with one end in ten tokens


def _read_only(env: Any) -> Any:
    """Return a copy whose buffers travelled apart and came back read-only, as those of Ray do."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(env, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])


OF_BATCHES: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle with read-only buffers": _read_only,
}
OF_SINGLES: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
}


def check_copies(env_id: str, **kwargs: Any) -> None:
    """A copy, in the middle of a text, goes on as its original and shares nothing that changes."""
    batch, env = vector(env_id, num_envs=3, **kwargs), single(env_id, **kwargs)
    actions = random_actions(batch, 3, seed=0)[:_STEPS]
    batch.reset(seed=0)
    for action in actions[:3]:
        batch.step(action)
    env.reset(seed=0)
    env.step(int(actions[0, 0]))
    for name, copier in OF_BATCHES.items():
        original, faithful = copy.deepcopy(batch), copier(batch)
        astray = copier(faithful)
        for action in actions[::-1][:10]:  # which must not reach the others
            astray.step(action)
        for action in actions[3:]:
            assert same(original.step(action), faithful.step(action)), f"{name} of a batch differs"
    for name, copier in OF_SINGLES.items():
        one, other = copy.deepcopy(env), copier(env)
        assert same(_play(one, actions[1:, 0]), _play(other, actions[1:, 0])), f"{name} differs"


def _play(env: Any, actions: Any) -> list[Any]:
    """Return all that an environment says, started again by itself where a text ends."""
    said: list[Any] = []
    over = not env.engine.running[0]
    for action in actions.tolist():
        said.append(env.reset() if over else env.step(action))
        over = not over and (said[-1][2] or said[-1][3])
    return said


def check_same_infos(env_id: str, **kwargs: Any) -> None:
    """Infos have the same keys with the same kinds at every reset and step, and no None."""
    env = single(env_id, **kwargs)
    form = _form(env.reset(seed=1)[1])
    actions = random_actions(env, 3, seed=1)[:_STEPS]
    for said in _play(env, actions[:, 0]):
        assert _form(said[-1]) == form, f"the info changed from {form} to {_form(said[-1])}"
    for mode in ("NEXT_STEP", "SAME_STEP"):
        batch = vector(env_id, num_envs=3, autoreset_mode=mode, **kwargs)
        form = _form(batch.reset(seed=1)[1])
        for action in actions:
            infos = batch.step(action)[-1]
            final = infos.pop("final_info", None)
            for key in ("_final_info", "final_obs", "_final_obs"):
                infos.pop(key, None)
            assert _form(infos) == form, f"infos changed from {form} to {_form(infos)}"
            assert final is None or _form(final) == form


def _form(info: Any) -> Any:
    """Return keys and kinds of an info, nested ones too."""
    if isinstance(info, dict):
        return {key: _form(value) for key, value in info.items() if key != "reward_details"}
    if isinstance(info, np.ndarray):
        return info.dtype.kind, info.shape
    return type(info).__name__


def check_refused_resets(env_id: str, **kwargs: Any) -> None:
    """A reset or a state that is refused changes nothing: not the episode, not the generators."""
    for env in (single(env_id, **kwargs), vector(env_id, num_envs=2, **kwargs)):
        env.reset(seed=7)
        count = getattr(env, "num_envs", 1)
        actions = random_actions(env, count, seed=7)
        env.step(actions[0] if count > 1 else int(actions[0, 0]))
        before = env.get_state()
        for options in _wrong_options(env):
            try:
                env.reset(seed=3, options=options)
            except (TypeError, ValueError):
                assert same(env.get_state(), before), f"refusing {options} changed something"
            else:
                raise AssertionError(f"reset(options={options}) was accepted")
        for damaged, what in _damaged(before):
            _refuses(env.set_state, damaged, what)
            assert same(env.get_state(), before), f"refusing {what} changed something"
            if not what.startswith(("rng", "draws")):  # which a start keeps of its own
                _refuses(env.reset, {"options": {"state": damaged}}, what)
                assert same(env.get_state(), before), f"refusing {what} changed something"


def _refuses(take: Callable[..., Any], state: dict[str, Any], what: str) -> None:
    try:
        take(**state) if "options" in state else take(state)
    except ValueError:
        return
    raise AssertionError(f"a state with {what} was accepted")


def _wrong_options(env: Any) -> Iterator[dict[str, Any]]:
    yield {"index": len(env.task)}
    yield {"index": -1}
    yield {"index": 0.5}
    yield {"index": True}
    yield {"group_size": True}
    yield {"group_size": 7}
    yield {"prefix": [env.tokenizer.vocab_size]}
    yield {"prefix": [-1]}
    yield {"prefix": [0] * (env.task.max_tokens + 1)}
    yield {"indx": 0}
    yield {"state": {"version": 0}}


def _damaged(state: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield copies of a state with one thing wrong, and what it is."""
    for name, value in (
        ("position", -3), ("position", 10_000), ("tokens", -1), ("tokens", 2**40),
        ("example_index", 2**40), ("turn_start", 10_000), ("prefix_stop", -1), ("marks", 100),
    ):  # fmt: skip
        wrong = copy.deepcopy(state)
        wrong["episode"][name][..., -1] = value
        yield wrong, f"{name} {value}"
    for name in state["episode"]:
        wrong = copy.deepcopy(state)
        wrong["episode"][name] = wrong["episode"][name] + 0.5
        yield wrong, f"fractional {name}"
        wrong = copy.deepcopy(state)
        del wrong["episode"][name]
        yield wrong, f"no {name}"
        wrong = copy.deepcopy(state)
        wrong["episode"][name] = wrong["episode"][name][:0]
        yield wrong, f"no rows of {name}"
    for name in ("episode", "memory"):
        wrong = copy.deepcopy(state)
        wrong[name] = None
        yield wrong, f"no {name}"
    wrong = copy.deepcopy(state)
    wrong["rng"][-1] = {}
    yield wrong, "rng that is none"
    wrong = copy.deepcopy(state)
    wrong["draws"]["next"] = wrong["draws"]["next"] + 10_000
    yield wrong, "draws that are out of range"


def check_interrupted_steps(env_id: str, **kwargs: Any) -> None:
    """A step that an error or Ctrl-C breaks off can be repeated, as if nothing had been."""
    for error in (RuntimeError("broken"), KeyboardInterrupt()):
        for env in (single(env_id, **kwargs), vector(env_id, num_envs=3, **kwargs)):
            count = getattr(env, "num_envs", 1)
            undisturbed = copy.deepcopy(env)
            _break_in_turns(env.engine, error)
            actions = random_actions(env, count, seed=5)[:_STEPS]
            for one in (env, undisturbed):
                one.reset(seed=5)
            for action in actions if count > 1 else actions[:, 0].tolist():
                before = env.get_state()
                try:
                    said = env.step(action)
                except BaseException as raised:
                    assert raised is error or raised.__cause__ is error, repr(raised)
                    assert same(env.get_state(), before), "a step that failed left something"
                    said = env.step(action)
                assert same(said, undisturbed.step(action)), "the step that was repeated differs"
                if count == 1 and (said[2] or said[3]):
                    assert same(env.reset(), undisturbed.reset())


def _break_in_turns(engine: Any, error: BaseException) -> None:
    """Let reward model and replies of an engine do their work, then raise, every other time."""

    def every_other(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        calls = [0]

        def broken(argument: Any) -> Any:
            returned = function(argument)
            calls[0] += 1
            if calls[0] % 2:
                raise error
            return returned

        return broken

    if engine.reward_model is not None:
        model = engine.reward_model
        broken = every_other(model)
        broken.components = getattr(model, "components", ())  # type: ignore[attr-defined]
        engine.reward_model = broken
    if engine.task.multi_turn:
        engine.task = copy.copy(engine.task)
        engine.task.reply = every_other(engine.task.reply)


RELIABILITY_CHECKS: tuple[Callable[..., None], ...] = (
    check_copies,
    check_same_infos,
    check_refused_resets,
    check_interrupted_steps,
)
