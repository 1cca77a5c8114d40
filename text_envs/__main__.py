"""`python -m text_envs`: the suite in a terminal, see `text_envs.cli`."""

from __future__ import annotations

import sys

from text_envs.cli import main

if __name__ == "__main__":
    sys.exit(main())
