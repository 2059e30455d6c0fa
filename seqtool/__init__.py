"""seqtool: train recurrent networks on a laptop CPU, use them in a pipe, and see how they work."""

import time

__version__ = "0.1.0"
STARTED = time.monotonic()  # a budget covers the imports that follow, too
