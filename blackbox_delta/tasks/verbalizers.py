"""Label words: what the model is expected to say for each class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.errors import DataError, VerbalizerError
from blackbox_delta.tasks.tables import some
from blackbox_delta.types import Example, IntArray

_KEBAB = re.compile(r"[a-z]{2,}(?:-[a-z]{2,})+")
_CAMEL = re.compile(r"[A-Za-z][a-z]+(?:[A-Z][a-z]+)+")


@dataclass(frozen=True)
class Verbalizer:
    """The c labels and their words, in the same order.

    Attributes:
        labels: As the data name the classes.
        words: As the model says them; of any number of tokens, without space around them.

    Raises:
        VerbalizerError: A word is empty or stands for two labels, or the numbers differ.
    """

    labels: tuple[str, ...]
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.words):
            raise VerbalizerError(
                f"{len(self.words)} label words for {len(self.labels)} labels "
                f"({some(self.labels)}); give one for each, in this order"
            )
        seen: dict[str, str] = {}
        for label, word in zip(self.labels, self.words, strict=True):
            if not isinstance(word, str) or not word.strip():
                raise VerbalizerError(f"the word for the label '{label}' is empty or no string")
            if word in seen:
                raise VerbalizerError(
                    f"the labels '{seen[word]}' and '{label}' have the same word '{word}', so no "
                    "answer could tell them apart. Give them different words"
                )
            seen[word] = label

    @classmethod
    def build(
        cls, labels: Sequence[str], words: Mapping[str, str] | Sequence[str] | None = None
    ) -> Verbalizer:
        """Label words as given, or the label names made readable.

        Args:
            labels: The c labels.
            words: A word for each label, by name or in the order of ``labels``; ``None`` takes
                the label names (see :func:`readable`).

        Raises:
            VerbalizerError: A word is missing, empty, of an unknown label or of two labels.
        """
        if words is None:
            chosen = [readable(label) for label in labels]
        elif isinstance(words, str):
            raise VerbalizerError(
                f"label words must be a mapping or a list, not the single string '{words}'"
            )
        elif isinstance(words, Mapping):
            chosen = _in_order(labels, words)
        else:
            chosen = list(words)
        stripped = [word.strip() if isinstance(word, str) else word for word in chosen]
        return cls(tuple(labels), tuple(stripped))

    def choices(self, prefix: str) -> tuple[str, ...]:
        """The c words, each with the template's ``choice_prefix`` in front."""
        return tuple(prefix + word for word in self.words)

    def index(self, label: str | None) -> int:
        """The position of a label.

        Raises:
            DataError: It is none of the labels.
        """
        if label is None or label not in self.labels:
            what = "an example has no label" if label is None else f"the label '{label}' is unknown"
            raise DataError(f"{what}; the labels are: {some(self.labels)}")
        return self.labels.index(label)

    def encode(self, items: Iterable[Example | str]) -> IntArray:
        """The positions of n labels, or of n examples' labels, of shape (n,).

        Raises:
            DataError: An example has no label, or one that is none of the labels.
        """
        labels = [item.label if isinstance(item, Example) else item for item in items]
        return np.array([self.index(label) for label in labels], dtype=np.int64)


def readable(label: str) -> str:
    """A label name as a person would write it.

    ``not_entailment`` and ``not-entailment`` become ``not entailment``,
    ``EducationalInstitution`` becomes ``educational institution``; ``World``, ``Sci/Tech``,
    ``ABBR`` and ``e-mail`` stay as they are.
    """
    text = label.replace("_", " ")
    if _KEBAB.fullmatch(text):
        text = text.replace("-", " ")
    elif _CAMEL.fullmatch(text):
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    return " ".join(text.split()) or label


def parse_words(text: str) -> dict[str, str]:
    """Reads label words as written on the command line, ``"pos=great,neg=not good"``.

    Raises:
        VerbalizerError: A part lacks ``=``, or a label occurs twice.
    """
    words: dict[str, str] = {}
    for part in text.split(","):
        label, equals, word = (piece.strip() for piece in part.partition("="))
        if not equals or not label:
            raise VerbalizerError(
                f"cannot read '{part.strip()}' in the label words '{text}': "
                "write LABEL=WORD,LABEL=WORD"
            )
        if label in words:
            raise VerbalizerError(f"the label '{label}' has two words in '{text}'")
        words[label] = word
    return words


def _in_order(labels: Sequence[str], words: Mapping[str, str]) -> list[str]:
    missing = [label for label in labels if label not in words]
    extra = [str(label) for label in words if label not in labels]
    if missing or extra:
        problems = [
            f"{what}: {some(names)}"
            for what, names in (("no word for", missing), ("no such label as", extra))
            if names
        ]
        raise VerbalizerError(
            f"label words do not fit the labels ({some(labels)}): {'; '.join(problems)}"
        )
    return [words[label] for label in labels]
