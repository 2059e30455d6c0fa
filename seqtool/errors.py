"""The errors a user can cause.

Each is raised where the fact is known and printed in one place, ``cli.main``, as one line without a
traceback: what, where, the value found, what was needed, what to do next. Any other exception is a
bug of ours and keeps its traceback.
"""


def is_out_of_memory(err: BaseException) -> bool:
    """Whether it means that memory was refused, for which PyTorch has no type of its own."""
    refusals = ("allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(err, MemoryError) or (
        isinstance(err, RuntimeError) and any(words in str(err) for words in refusals)
    )


class SeqtoolError(Exception):
    """Base of every error that is the input's fault; ``exit_code`` becomes the exit status."""

    exit_code = 1


class ConfigError(SeqtoolError):
    """A flag, an environment variable or a settings file asks for something impossible."""

    exit_code = 2


class DataError(SeqtoolError):
    """A data file is missing, unreadable, in the wrong encoding, or too small."""


class CheckpointError(SeqtoolError):
    """A model directory is missing, incomplete, damaged, or of another format."""


class TrainingError(SeqtoolError):
    """Training diverged again and again; the best model so far is on disk."""
