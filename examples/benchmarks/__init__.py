"""The parts of `examples/benchmark.py`; each module says what it measures and how."""
