"""`python -m text_envs`: the suite in a terminal, see `text_envs.cli.main`."""

from __future__ import annotations

import sys

from text_envs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
