"""Pictures of an episode: text for a terminal, an image for a video, a page for a browser.

| `render_mode` | `render()` returns | needs |
|---|---|---|
| `ansi` | the text, prompt dimmed, the agent's words bold | |
| `human` | nothing; prints the text after every step | |
| `rgb_array` | `(360, 640, 3)` uint8, each token coloured by one score | Pillow |
| `html` | a page that needs no other file, with a choice between all scores | |

A character whose bytes several tokens share stands at the last of them, with a dot for the others;
a dotted circle is a token of a character that is not complete. Codes that a terminal or a browser
would obey (control, direction, zero width) are shown as signs, and what a terminal cannot encode
as a question mark.

Imports `tokens`, `episodes` and `core`; Pillow only where an image is asked for.

Every environment knows its rewards. Whatever else is to be seen, an agent tells with
`env.unwrapped.annotate(name, values)`, and `env.unwrapped.render_score = name` chooses what images
show. `gymnasium.wrappers.RecordVideo` turns the images into a video, `write_gif` into a GIF:

>>> import os, tempfile
>>> import gymnasium as gym
>>> import text_envs
>>> env = gym.make("text_envs/Toy-v0", render_mode="rgb_array")
>>> observation, info = env.reset(seed=0)
>>> frames, finished = [env.render()], False
>>> while not finished:
...     env.unwrapped.annotate("value", 0.5)  # of the token that is written next
...     observation, reward, finished, truncated, info = env.step(0)
...     frames.append(env.render())
>>> path = os.path.join(tempfile.mkdtemp(), "episode.gif")
>>> write_gif(path, frames, fps=4)
>>> len(frames), frames[0].shape
(4, (360, 640, 3))
"""

from __future__ import annotations

from text_envs.render.gif import write_gif
from text_envs.render.heatmap import rgb_array
from text_envs.render.text import ansi, show
from text_envs.render.visible import visible
from text_envs.render.web import html

__all__ = ["MODES", "ansi", "html", "rgb_array", "show", "visible", "write_gif"]

MODES = ["ansi", "html", "human", "rgb_array"]
