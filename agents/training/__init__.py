"""The shared bases of algorithms, to subclass in this package or in another.

On-policy over whole episodes (`on_policy`), from recorded episodes (`offline`), and what stands on
these: values (`values`), guides (`guided`), hindsight (`hindsight`), targets of distributional
control (`targets`, `normalisers`). Imports every other folder of `agents`, but no algorithm.
"""

from agents.training.algorithm import TextAlgorithm
from agents.training.offline import OfflineAlgorithm
from agents.training.on_policy import EpisodicAlgorithm

__all__ = ["EpisodicAlgorithm", "OfflineAlgorithm", "TextAlgorithm"]
