"""Rewards from a server of your own: one small protocol, batches of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.ledger import check_names
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.transport import JsonClient, RemoteRewardError, UnusableAnswer

__all__ = ["Remote"]

_SINGLE = "task"  # the one column of an answer without components, as environments call it

_Answer = dict[str, NDArray[np.float64]]  # (B,) each
_Row = dict[str, float]  # what one episode is paid


class Remote:
    """Whatever a server pays: models too large for this machine, in another language, shared.

    The protocol, version 1. Episodes go out as one POST with a JSON object,

    ```json
    {"episodes": [{"prompt": "a film about", "text": "love", "transcript": "love",
                   "references": ["love and war"], "metadata": {}, "finish_reason": "stop"}]}
    ```

    and the answer, with a status of 2xx, is one of

    ```json
    {"rewards": [0.5]}
    {"components": {"fluent": [0.5], "relevant": [1.0]}}
    ```

    with one finite number an episode, in their order. `transcript` is `text` with the
    environment's replies between the agent's turns. Everything else, a wrong number of rewards or a
    NaN included, counts as a failed try and is asked for again. If all tries fail, the call fails
    and the environment takes the step back; rewards that did arrive are kept, so that repeating the
    step asks for the missing ones only. So they are where the call is interrupted, by Ctrl-C for
    example, which takes effect at once.

    Copies and pickles ask the same server over connections of their own.

    Here `url` is such a server, which pays the number of words:

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/Toy-v0", reward="remote", reward_kwargs={"url": url})
    >>> observation, info = env.reset(seed=0)
    >>> for token in (0, 1, 2):
    ...     observation, reward, *_ = env.step(token)
    >>> float(reward)
    2.0
    """

    name = "remote"

    def __init__(
        self,
        url: str,
        *,
        components: Sequence[str] = (),
        batch_size: int = 256,
        api_key_env: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        concurrency: int = 8,
    ) -> None:
        """Set where to ask.

        Args:
            url: where the episodes are posted to.
            components: names that the server answers with, in the order of the ledger; default
                those of its first answer.
            batch_size: episodes of one request; larger batches are sent as several.
            api_key_env: NAME of the environment variable with a bearer token; None sends none.
            timeout: seconds for one try.
            retries: further tries after the first.
            backoff: seconds before the second try, doubled from then on, see `transport`.
            max_wait: most seconds between two tries.
            concurrency: requests under way at once.

        Raises:
            ImportError: urllib3 is missing.
            ValueError: an argument is not accepted.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        self.client = JsonClient(
            url, api_key_env=api_key_env, timeout=timeout, retries=retries, backoff=backoff,
            max_wait=max_wait, concurrency=concurrency,
        )  # fmt: skip
        self.components = check_names(components)
        self.batch_size = batch_size
        self._kept: dict[str, _Row] = {}

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the rewards `(B,)`, or the components `(B, K)`."""
        wire = [as_json(episodes, row) for row in range(len(episodes))]
        keys = [json.dumps(episode) for episode in wire]
        found = {row: self._kept[key] for row, key in enumerate(keys) if key in self._kept}
        missing = [row for row in range(len(wire)) if row not in found]
        parts = [missing[i : i + self.batch_size] for i in range(0, len(missing), self.batch_size)]
        answers: dict[int, _Answer] = {}

        def read(answer: Any, number: int) -> _Answer:
            return _columns(answer, len(parts[number]), self.components)

        bodies = {n: {"episodes": [wire[row] for row in part]} for n, part in enumerate(parts)}
        try:
            self.client.post_all(bodies, read, answers)
        except BaseException:  # a Ctrl-C at a server that hangs as well
            self._kept.update((keys[row], one) for row, one in _rows(answers, parts))
            raise
        self._kept.clear()
        found.update(_rows(answers, parts))
        return self._as_array([found[row] for row in range(len(wire))])

    def _as_array(self, rows: list[_Row]) -> NDArray[np.float64]:
        names = self.components or tuple(rows[0] if rows else (_SINGLE,))
        for number, row in enumerate(rows):
            if set(row) != set(names):
                raise RemoteRewardError(
                    f"{self.client.url} answered with {', '.join(names)} for the first episodes "
                    f"and with {', '.join(row)} from episode {number} on"
                )
        if names == (_SINGLE,):
            return np.array([row[_SINGLE] for row in rows], dtype=np.float64)
        self.components = names
        return np.array([[row[name] for name in names] for row in rows], dtype=np.float64)

    def __repr__(self) -> str:
        return f"Remote({self.client.url!r})"


def as_json(episodes: EpisodeBatch, row: int) -> dict[str, Any]:
    """Return an episode as the protocol sends it.

    Raises:
        TypeError: the example's metadata hold something that JSON has no form for.
    """
    example = episodes.example(row)
    try:
        metadata = json.loads(json.dumps(dict(example.metadata), default=_plain))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the metadata of example {int(episodes.example_indices[row])} cannot be sent as "
            f"JSON: {error}"
        ) from error
    return {
        "prompt": episodes.prompts[row],
        "text": episodes.texts[row],
        "transcript": episodes.transcripts[row],
        "references": list(example.references),
        "metadata": metadata,
        "finish_reason": episodes.finish_reasons[row],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _columns(answer: Any, count: int, wanted: Sequence[str]) -> _Answer:
    """Return the columns of an answer, each `(count,)`.

    Raises:
        UnusableAnswer: the answer is not of the protocol.
    """
    if not isinstance(answer, dict) or not {"rewards", "components"} & set(answer):
        raise UnusableAnswer(f"neither 'rewards' nor 'components' in {str(answer)[:200]}")
    columns = answer.get("components", {_SINGLE: answer.get("rewards")})
    if not isinstance(columns, dict) or not columns:
        raise UnusableAnswer(f"'components' must map names to rewards, got {str(columns)[:200]}")
    if wanted and set(columns) != set(wanted):
        raise UnusableAnswer(
            f"components {', '.join(columns)}, while {', '.join(wanted)} are expected"
        )
    return {name: _column(name, values, count) for name, values in columns.items()}


def _rows(answers: dict[int, _Answer], parts: list[list[int]]) -> Iterator[tuple[int, _Row]]:
    """Yield the episodes that were answered for, and what each is paid."""
    for number, columns in answers.items():
        for place, row in enumerate(parts[number]):
            yield row, {name: float(column[place]) for name, column in columns.items()}


def _column(name: str, values: Any, count: int) -> NDArray[np.float64]:
    if not isinstance(values, list) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    ):
        raise UnusableAnswer(f"the rewards {name!r} are no list of numbers: {str(values)[:200]}")
    column = np.array(values, dtype=np.float64)
    if len(column) != count:
        raise UnusableAnswer(f"{len(column)} rewards {name!r} for {count} episodes")
    if not np.isfinite(column).all():
        raise UnusableAnswer(f"a reward {name!r} is not finite: {str(values)[:200]}")
    return column
