"""What passes between everything else: plain data.

Examples, turns and replies, finished episodes as a batch, recorded episodes (`EpisodeDataset`)
with the file that keeps them, and the exceptions of the suite: rewards, tasks and agents hold
episodes without knowing who plays them. Imports `tokens`.
"""
