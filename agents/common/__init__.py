"""What every part of the agents needs and that is no part of an agent.

Checks of arguments (`checks`), and environments of any kind as a `VecEnv` (`envs`). Imports only
`text_envs`.
"""
