"""The suite in a terminal, `python -m text_envs`.

`main` parses the command line, `play` lets a person write the text. May import everything but the
scripts in `assets`.
"""

from text_envs.cli.main import main

__all__ = ["main"]
