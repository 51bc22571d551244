"""From an answer's words to a label, by an explicit rule.

The answer and the label words are brought into one form: Unicode NFKC, case-folded, everything
that is neither a letter nor a digit (Markdown, quotes, punctuation) a space. Then label words are
looked for as whole words, the longest first, and what one has taken is gone for the others:
``not spam`` is not also ``spam``. If exactly one label word occurs, however often, it is the
answer. If none or several do, the answer is unparsed: every label gets log(1/c), and it is
counted. The rule does not understand: ``not great`` is read as ``great``.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from blackbox_delta.backends.remote.wires.readings import Reading, nothing, reading
from blackbox_delta.backends.remote.wires.wire import Answer
from blackbox_delta.errors import VerbalizerError

#: The probability that a parsed answer leaves to all other labels together.
DOUBT = 0.02


class Written:
    """Labels read off the text of an answer.

    Args:
        choices: c label words, at least two.

    Raises:
        VerbalizerError: There are fewer than two, or two cannot be told apart, or one holds no
            letter or digit.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        words = [_plain(choice) for choice in choices]
        if len(words) < 2 or len(set(words)) < len(words) or "" in words:
            raise VerbalizerError(
                f"The label words {list(choices)} cannot be told apart in the text of an answer. "
                "Choose at least two that differ in letters or digits, not only in case, spaces "
                "or punctuation."
            )
        self._words = sorted(enumerate(words), key=lambda entry: -len(entry[1]))

    def label(self, text: str) -> int | None:
        """Which of the c label words a text names; ``None`` for none or several."""
        rest = _plain(text)
        found = []
        for at, word in self._words:
            if word in rest:
                found.append(at)
                rest = rest.replace(word, " \0 ")
        return found[0] if len(found) == 1 else None

    def __call__(self, answer: Answer) -> Reading:
        """The numbers in an answer: log(1 - ε) for its label, log(ε / (c - 1)) for the others."""
        count = len(self._words)
        at = self.label(answer.text)
        if at is None:
            return nothing(count)
        values = [math.log(DOUBT / (count - 1))] * count
        values[at] = math.log1p(-DOUBT)
        return reading(values)


def _plain(text: str) -> str:
    """The words of a text, each between two spaces of its own, so that neighbours share none."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(
        char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in folded
    )
    return "".join(f" {word} " for word in kept.split())
