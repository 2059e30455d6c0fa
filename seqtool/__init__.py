"""seqtool: train recurrent networks on a laptop CPU, use them in a pipe, and see how they work."""

__version__ = "0.1.0"
