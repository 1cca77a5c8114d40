"""The contract as callable checks, for this suite and for third parties.

`check_env_id("my_package/MyTask-v0")` runs all of them on an id; a test suite may loop over
`CHECKS`, so that each shows as a test of its own. A violated check raises `AssertionError`.
Imports `envs`, `datasets` and what stands below them.
"""

from text_envs.testing.envs import CHECKS, check_env_id
from text_envs.testing.goals import GOAL_CHECKS, check_goal_env_id
from text_envs.testing.tasks import check_reward_model, check_task

__all__ = [
    "CHECKS",
    "GOAL_CHECKS",
    "check_env_id",
    "check_goal_env_id",
    "check_reward_model",
    "check_task",
]
