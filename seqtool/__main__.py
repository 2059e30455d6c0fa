"""Entry point of ``python -m seqtool`` and ``torchrun -m seqtool``."""

from seqtool.cli import main

if __name__ == "__main__":
    main()
