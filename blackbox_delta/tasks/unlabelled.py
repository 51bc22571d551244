"""Texts without labels, to learn from beside the labelled examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from blackbox_delta.errors import DataError
from blackbox_delta.tasks.data import read_texts
from blackbox_delta.tasks.examples import Columns, said_by, to_examples
from blackbox_delta.tasks.splits import FewShotSplit
from blackbox_delta.tasks.tables import Table, is_list
from blackbox_delta.types import Example


def unlabelled_texts(
    source: str | Path | Sequence[str | Example], split: FewShotSplit, columns: Columns | None
) -> tuple[Example, ...]:
    """Each text once, less the split's training and test texts, in their own order.

    Test texts are left out so that the test score is one on texts that nothing was learned from.
    White space around a text makes no other text of it: prompts hold none.

    Args:
        source: A file as for :func:`blackbox_delta.tasks.read_texts`, or the texts themselves.
        split: What else the run sees.
        columns: Names of the file's columns. Labels are passed over.

    Raises:
        DataError: The texts cannot be used, are not single texts or pairs as the training
            examples are, or none is left.
    """
    name, examples = _read(source, columns)
    pairs = split.train[0].text_pair is not None
    wrong = [example for example in examples if (example.text_pair is not None) is not pairs]
    if wrong:
        raise DataError(
            f"{name}: {'single texts' if pairs else 'pairs of texts'}, though the training "
            f"examples are {'pairs' if pairs else 'single texts'}; '{wrong[0].text[:40]}' is one"
        )
    known = {said_by(example) for example in (*split.train, *split.test)}
    texts = dict[tuple[str, str], Example]()
    for example in examples:
        texts.setdefault(said_by(example), Example(example.text, example.text_pair))
    left = tuple(example for said, example in texts.items() if said not in known)
    if not left:
        raise DataError(
            f"{name}: every text is a training or a test example too; give texts that are neither"
        )
    return left


def digest_of(texts: Sequence[Example]) -> str:
    """SHA-256 over the texts, in hexadecimal."""
    rows = [(example.text, example.text_pair) for example in texts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _read(
    source: str | Path | Sequence[str | Example], columns: Columns | None
) -> tuple[str, Sequence[Example]]:
    if isinstance(source, str | Path):
        return str(source), read_texts(source, columns)
    if not is_list(source):
        raise DataError(
            f"unlabeled: a {type(source).__name__}; give a file, a list of texts or one column"
        )
    name, rows = "unlabeled", [_row(text) for text in source]
    if not rows:
        raise DataError(f"{name}: the sequence is empty; leave it out or give texts")
    table = Table(name, "position", list(enumerate(rows)))
    return name, to_examples(table, Columns(), labelled=False)


def _row(text: object) -> dict[str, object]:
    if not isinstance(text, Example):
        return {"text": text}
    return {"text": text.text, "text_pair": text.text_pair}
