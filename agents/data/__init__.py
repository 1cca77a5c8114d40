"""What is learnt from besides the roll-outs of the moment.

Recorded episodes as minibatches (`batches`, `order`), and hindsight over past ones: relabelling
(`relabelling`, `parts`) and the history it draws from (`history`). Imports `rollouts` and what
stands below it.
"""
