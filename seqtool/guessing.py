"""Which task suits some data, and what ``train`` does its own way for it."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from seqtool.config import Task
from seqtool.errors import DataError

if TYPE_CHECKING:
    from seqtool.tasks import Task as TrainTask


def guess_task(
    data: str, *, labelled: bool = False, encoding: str = "utf-8", any_bytes: bool = False
) -> Task:
    """What can be learned from data: labels of texts or of words, translations, or more such text.

    A directory with texts right inside is a text, whatever else is there; the name of a data set
    on the hub stands for one of labelled texts.

    Args:
        data: What the user named.
        labelled: Columns of texts and labels are named too, so a table holds no translations.
        encoding: Of the text.
        any_bytes: Whether what is no text at all can be learned from too.
    """
    path = Path(data)
    if data == "-":
        return "generate"  # a pipe can be looked at but once
    from seqtool.hub import hub_name

    if not os.path.exists(path):  # pathlib's own raises at a name too long
        return "classify" if hub_name(data) else "generate"  # what is missing is told there
    from seqtool.formats import guess_format
    from seqtool.images import is_images
    from seqtool.pairs import guess_pairs
    from seqtool.tables import holds_labels
    from seqtool.text import SUFFIXES, open_text
    from seqtool.treebank import is_treebank

    if path.is_dir() and any(child.name.lower().endswith(SUFFIXES) for child in path.iterdir()):
        return "generate"
    if is_images(data):
        return "classify"
    with suppress(DataError):  # what is wrong with it is told when it is read
        if path.is_file() and is_treebank(open_text(data, encoding=encoding, binary_ok=True)):
            return "tag"
    try:
        if guess_format(data, encoding=encoding) == "lines":
            return "generate"
    except DataError:
        if any_bytes and not labelled:
            return "generate"
        raise
    if not labelled and guess_pairs(data, encoding=encoding):
        return "translate"
    return "classify" if labelled or holds_labels(data, encoding=encoding) else "generate"


def new_task(name: Task, *, labelled: bool) -> "TrainTask":
    """What ``train`` does its own way for a task; ``labelled``: labels say what to write."""
    if name == "classify":
        from seqtool.train_classify import LabelTask

        return LabelTask()
    if name == "tag":
        from seqtool.train_tag import TagTask

        return TagTask()
    if name == "translate":
        from seqtool.train_translate import TranslateTask

        return TranslateTask()
    if labelled:
        from seqtool.train_rows import RowTask

        return RowTask()
    from seqtool.train_text import TextTask

    return TextTask()
