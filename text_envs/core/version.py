"""The release; what data sets and checkpoints say they were made with."""

__all__ = ["__version__"]

__version__ = "0.1.0"
