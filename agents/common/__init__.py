"""What every part of the agents needs and that is no part of an agent.

Arguments, checks and settings, environments of any kind as a `VecEnv` (`envs`), float32 weights of
bfloat16 ones (`master_weights`), rows that fit into a pass (`packing`). Imports only `text_envs`.
"""
