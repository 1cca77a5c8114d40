"""The MDP on arrays, and its interfaces.

`Task`, `RewardModel`, `Shaping` and `Starts`; the engine that writes tokens and settles turns,
ends and rewards; starts, draws, saved states, the record of what was paid. Knows no task, no
reward model by name and no face of Gymnasium's. Imports `tokens` and `episodes`.
"""
