"""The suite in a terminal: list the environments, read a card, play one, check one.

python -m text_envs list
python -m text_envs show Maze-v0
python -m text_envs play Maze-v0 --seed 3
python -m text_envs check my_package:my_package/Task-v0
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import inspect
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import gymnasium as gym

from text_envs.cli.play import play
from text_envs.datasets.reference_scores import normalised_score, reference_scores
from text_envs.envs.registration import list_ids
from text_envs.episodes.errors import RewardModelError
from text_envs.render.visible import visible

__all__ = ["UsageError", "find_id", "main"]

_NAMESPACE = "text_envs/"


class UsageError(Exception):
    """What was typed cannot be done; the message is for the person who typed it."""


def main(
    arguments: Sequence[str] | None = None,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name; default those of the process.
        stdin: read by `play`.
        stdout: written to; what it cannot encode becomes a question mark.

    Returns:
        The exit code: 0, 1 if a check failed, 2 if the command could not be run.
    """
    reader = _standard_input() if stdin is None else stdin
    # A process can be started without an output, too.
    writer = (sys.stdout or io.StringIO()) if stdout is None else stdout
    args = _parser().parse_args(arguments)
    try:
        with _tolerant(writer):
            code = _run(args, reader, writer)
            writer.flush()
        return code
    except (UsageError, RewardModelError) as error:
        print(f"text_envs: {visible(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=writer)
        return 0
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough. What is left goes nowhere.
        if stdout is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextlib.contextmanager
def _tolerant(writer: TextIO) -> Iterator[None]:
    """Let a stream write a question mark for each character that it cannot encode."""
    if not isinstance(writer, io.TextIOWrapper):
        yield
        return
    before = writer.errors
    writer.reconfigure(errors="replace")
    try:
        yield
    finally:
        writer.reconfigure(errors=before)


def _standard_input() -> TextIO:
    if sys.stdin is None:  # a process can be started without one
        return io.StringIO()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m text_envs", description="Text environments in a terminal."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="all ids, a line each")
    for name, summary in (
        ("show", "the card of an environment, its spaces and reference scores"),
        ("play", "write the words yourself and see rewards and replies"),
        ("check", "run the contract of environments on an id"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("id", help="for example Maze-v0, or my_package:my_package/Task-v0")
        command.add_argument(
            "--kwargs",
            default="{}",
            metavar="JSON",
            help="arguments of the environment, such as '{\"max_tokens\": 12}'",
        )
        if name == "play":
            command.add_argument("--seed", type=int, help="makes the start repeatable")
    return parser


def _run(args: argparse.Namespace, reader: TextIO, writer: TextIO) -> int:
    if args.command == "list":
        for env_id in list_ids():
            print(f"{env_id:44} {_summary(env_id)}", file=writer)
        return 0
    env_id, kwargs = find_id(args.id), _kwargs(args.kwargs)
    if args.command == "check":
        return _check(env_id, kwargs, writer)
    with _kind_errors(env_id):
        env = gym.make(env_id, disable_env_checker=True, **kwargs)
    if args.command == "show":
        with _errors_of(f"{env_id} cannot be shown"):
            _show(env_id, env, writer)
    elif not hasattr(env.unwrapped, "engine"):
        raise UsageError(f"{env_id} is no environment of single tokens and cannot be played here")
    else:
        if args.seed is not None and args.seed < 0:
            raise UsageError(f"--seed must be an integer of at least 0, got {args.seed}")
        with _errors_of(f"{env_id} failed while it was played"):
            total = play(env, reader, writer, seed=args.seed)
        # The scale holds for the default arguments; drawn goals have none.
        plain = not kwargs and not isinstance(env.observation_space, gym.spaces.Dict)
        if total is not None and plain:
            with contextlib.suppress(ValueError):
                print(f"Normalised score: {normalised_score(env_id, total):.2f}", file=writer)
                print("(0 is a random writer, 1 the scripted expert.)", file=writer)
    return 0


def find_id(name: str) -> str:
    """Return the registered id that a person means.

    Args:
        name: an id, with or without "text_envs/"; `module:id` imports the module first.

    Raises:
        UsageError: no such id, with the nearest one, or no such module.
    """
    module, colon, rest = name.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a module does when it is imported
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"cannot import module {module!r} of {name!r} ({reason})") from error
    for candidate in (rest, _NAMESPACE + rest):
        if candidate in gym.registry:
            return candidate
    known = sorted(set(list_ids()) | ({id for id in gym.registry if "/" in id} if colon else set()))
    plain = {id.removeprefix(_NAMESPACE).lower(): id for id in known}
    wanted = rest.removeprefix(_NAMESPACE).lower()
    without_version = {short.rpartition("-v")[0]: id for short, id in plain.items()}
    choices = {**without_version, **plain}
    close = difflib.get_close_matches(wanted, choices, n=1, cutoff=0.5)
    if not close:  # the namespace may be what is mistyped
        close = difflib.get_close_matches(wanted.rpartition("/")[2], choices, n=1, cutoff=0.5)
    hint = f" Did you mean {choices[close[0]].removeprefix(_NAMESPACE)!r}?" if close else ""
    raise UsageError(f"unknown id {name!r}.{hint} `python -m text_envs list` shows all.")


def _kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--kwargs is not JSON ({error}): {text!r}") from error
    if not isinstance(kwargs, dict):
        raise UsageError(f"--kwargs must be a JSON object, got {text!r}")
    return kwargs


@contextlib.contextmanager
def _kind_errors(env_id: str) -> Iterator[None]:
    """Say in one line why an environment cannot be made."""
    try:
        yield
    except Exception as error:  # of the environment's own code, or of what its arguments name
        # Gymnasium appends the arguments, which the person has just typed.
        reason = str(error).partition(" was raised from the environment creator")[0]
        told = isinstance(error, ValueError | TypeError | ImportError | gym.error.Error)
        kind = "" if told and reason else f"{type(error).__name__}: "
        raise UsageError(f"{env_id} cannot be made: {kind}{reason}") from error


@contextlib.contextmanager
def _errors_of(what: str) -> Iterator[None]:
    """Say in one line what somebody else's code has raised."""
    try:
        yield
    except (UsageError, RewardModelError, BrokenPipeError):
        raise
    except Exception as error:
        raise UsageError(f"{what} ({type(error).__name__}: {error})") from error


def _task_class(env_id: str) -> Any:
    """Return the class whose docstring is the card, or None; nothing is built for it."""
    task = (gym.registry[env_id].kwargs or {}).get("task")
    if isinstance(task, str) and ":" in task:
        module, _, attribute = task.partition(":")
        return getattr(importlib.import_module(module), attribute, None)
    return task if inspect.isclass(task) else None


def _summary(env_id: str) -> str:
    try:
        return (inspect.getdoc(_task_class(env_id)) or "").partition("\n")[0]
    except Exception as error:  # somebody else's module, which may be broken
        return f"(cannot be imported: {type(error).__name__}: {error})".partition("\n")[0]


def _show(env_id: str, env: gym.Env[Any, Any], writer: TextIO) -> None:
    task = getattr(env.unwrapped, "task", None)
    card = inspect.getdoc(type(task) if task is not None else type(env.unwrapped))
    print(f"# {env_id}\n\n{card}\n", file=writer)
    print("## As made here", file=writer)
    print(f"observation space: {env.observation_space}", file=writer)
    print(f"action space: {env.action_space}", file=writer)
    if task is not None:
        print(f"examples: {len(task)}, one of them: {task.example(0).prompt!r}", file=writer)
        print(f"demonstrations: {', '.join(task.qualities)}", file=writer)
    print("\n## Reference scores", file=writer)
    try:
        scores = reference_scores(env_id)
    except ValueError:
        print("none stored", file=writer)
        return
    for name, score in scores.items():
        line = f"{name:10} {score['mean']:10.3f} ± {score['interval']:.3f}"
        print(f"{line}  ({score['episodes']} episodes)", file=writer)


def _check(env_id: str, kwargs: dict[str, Any], writer: TextIO) -> int:
    with _kind_errors(env_id):
        env = gym.make(env_id, disable_env_checker=True, **kwargs)
    if isinstance(env.observation_space, gym.spaces.Dict):
        from text_envs.testing.goals import GOAL_CHECKS as checks
    else:
        from text_envs.testing.envs import CHECKS as checks
    failed = 0
    for check in (*checks, _check_task):
        label = (inspect.getdoc(check) or check.__name__).partition("\n")[0]
        fault = _fault(check, env_id, kwargs)
        failed += fault is not None
        print(f"{'ok    ' if fault is None else 'FAILED'} {label}", file=writer, flush=True)
        if fault is not None:
            print(f"       {visible(fault)}", file=writer)
    print(f"{env_id}: {failed or 'no'} check{'' if failed == 1 else 's'} failed", file=writer)
    return 1 if failed else 0


def _check_task(env_id: str, **kwargs: Any) -> None:
    """The task's prompts, replies, demonstrations and rows keep the contract of tasks."""
    from text_envs.testing.envs import check_task

    env: Any = gym.make(env_id, disable_env_checker=True, **kwargs).unwrapped
    check_task(env.task, reward=env.reward_model)


def _fault(check: Callable[..., None], env_id: str, kwargs: dict[str, Any]) -> str | None:
    # Gymnasium's checker warns about style as well, and draws pictures in the terminal.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            check(env_id, **kwargs)
        except Exception as error:  # whatever goes wrong in a check is a finding
            return f"{type(error).__name__}: {error}"
    return None
