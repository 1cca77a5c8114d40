"""A person in the agent's place: typed words become actions, rewards and replies are shown."""

from __future__ import annotations

import difflib
from typing import Any, TextIO, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import Role
from text_envs.render.visible import visible
from text_envs.tokens.builtin import WordTokenizer
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.spelling import Speller

__all__ = ["play"]

_HELP = """\
Type words and press Enter; they are written one by one. {ending}
/words shows what can be written, /words ab what starts with ab; /help shows this; /quit stops."""
_ONE_TEXT = "An empty line ends the text."
_TURNS = "Each line is one turn; an empty line is an empty turn."
_SHOWN = 60  # words of a list


def play(
    env: gym.Env[Any, Any], reader: TextIO, writer: TextIO, *, seed: int | None = None
) -> float | None:
    """Play one episode.

    Args:
        env: an environment of this suite.
        reader: a line is what the person typed; its end ends the game.
        writer: everything shown.
        seed: of the start.

    Returns:
        The return, or None if the person stopped before the end.
    """
    return _Game(env, reader, writer).run(seed)


class _Game:
    """One episode, shown and heard."""

    def __init__(self, env: gym.Env[Any, Any], reader: TextIO, writer: TextIO) -> None:
        self.env = cast(Any, env.unwrapped)
        self.engine = self.env.engine
        self.tokenizer: Tokenizer = self.engine.tokenizer
        self.reader, self.writer = reader, writer
        self.speller = Speller(self.tokenizer)
        self.total = 0.0

    def say(self, text: str = "") -> None:
        print(visible(text), file=self.writer)

    def run(self, seed: int | None) -> float | None:
        observation, _ = self.env.reset(seed=seed)
        turns = self.env.task.multi_turn
        self.say(_HELP.format(ending=_TURNS if turns else _ONE_TEXT))
        if isinstance(observation, dict):
            from text_envs.envs.goal import Goal

            self.say(f"\nGoal: a {Goal(int(observation['desired_goal'])).name.lower()} text.")
        prompt = self.engine.tokens[0, : self.engine.prompt_length]
        self.say(f"\n{self._spell(prompt)}")
        while True:
            tokens = self._listen(turns)
            if tokens is None:
                self.say(f"Stopped. Reward so far: {self.total:g}")
                return None
            if (info := self._write(tokens)) is not None:
                self.say(f"\nThe end ({info['finish_reason']}): {info['text']!r}")
                self.say(f"Return: {self.total:g}")
                return self.total

    def _listen(self, turns: bool) -> list[int] | None:
        """Return the next tokens to write, or None if the person has had enough."""
        while True:
            left = self.engine.num_columns - int(self.engine.position[0])
            print("> " if turns else f"{left} left> ", end="", file=self.writer, flush=True)
            try:
                line = self.reader.readline()
            except (OSError, ValueError):  # closed, or never open for reading
                line = ""
            if not line:
                self.say("\nThe input has ended.")
                return None
            line = line.strip()
            command, _, rest = line.partition(" ")
            if command == "/quit":
                return None
            if command == "/help":
                self.say(_HELP.format(ending=_TURNS if turns else _ONE_TEXT))
            elif command == "/words":
                self._list_words(rest.strip())
            elif (tokens := self._understand(line)) is not None:
                return [*tokens, self.tokenizer.eos_id] if turns or not tokens else tokens

    def _understand(self, line: str) -> list[int] | None:
        """Return the line's tokens, or None after saying what is wrong with it."""
        for text in (line, line.lower()):
            tokens = self.tokenizer.encode(text)
            if all(self._allowed(token) for token in tokens):
                return tokens
        split = WordTokenizer.split if isinstance(self.tokenizer, WordTokenizer) else str.split
        for word in split(line):
            if not all(self._allowed(token) for token in self.tokenizer.encode(word)):
                self._reject(word)
                return None
        self._reject(line)
        return None

    def _reject(self, word: str) -> None:
        choices = self._words()
        close = difflib.get_close_matches(word.lower(), choices, n=3, cutoff=0.6)
        near = f" Near it: {', '.join(close)}." if close else " /words shows what can."
        self.say(f"{word!r} cannot be written here, so nothing was.{near}")

    def _allowed(self, token: int) -> bool:
        actions = self.tokenizer.num_actions
        plain = token < actions and not self.tokenizer.forbidden[token]
        return bool(plain) and token != self.tokenizer.eos_id

    def _words(self) -> list[str]:
        allowed = np.flatnonzero(~np.asarray(self.tokenizer.forbidden)).tolist()
        words = (self.tokenizer.decode([i]).strip() for i in allowed if self._allowed(i))
        return [word for word in words if word]

    def _list_words(self, start: str) -> None:
        words = [word for word in self._words() if word.startswith(start)]
        more = f" ... and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        self.say(" ".join(words[:_SHOWN]) + more if words else f"None starts with {start!r}.")

    def _write(self, tokens: list[int]) -> dict[str, Any] | None:
        """Step through the tokens; return the last info if the episode ended."""
        for token in tokens:
            position, turn = int(self.engine.position[0]), int(self.engine.turn_start[0])
            _, reward, terminated, _, info = self.env.step(token)
            self.total += float(reward)
            turn_over = int(self.engine.turn_start[0]) != turn
            if reward or turn_over or terminated:
                self._show_reward(float(reward), info["reward_terms"])
            if terminated:
                return dict(info)
            if turn_over:  # an environment may end a turn before the line does
                self._show_reply(position + 1)
                break
        return None

    def _show_reward(self, reward: float, terms: dict[str, float]) -> None:
        parts = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        self.say(f"reward {reward:g}" + (f" ({parts})" if len(terms) > 1 else ""))

    def _show_reply(self, start: int) -> None:
        stop = int(self.engine.position[0])
        columns = np.arange(start, stop)
        replies = columns[self.engine.roles(np.array([0]))[0][columns] == Role.REPLY]
        self.say(self._spell(self.engine.tokens[0, replies]))

    def _spell(self, tokens: NDArray[np.int64]) -> str:
        return self.speller.text(tokens[tokens != self.tokenizer.pad_id].tolist())
