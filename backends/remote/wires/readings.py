"""From an answer to numbers: label log-probabilities by an explicit rule, and top tokens.

Four rules. :class:`Exact`: the server told the label tokens' values. :class:`TopTokens`: they are
read off the likeliest tokens, and a label that is not among them gets an upper bound.
:class:`Unbiased`: they are computed back from values that a bias had lifted into sight.
:class:`Written` (in :mod:`.written`): the answer's text is parsed.

What is not exact is counted: ``bounded`` labels carry an upper bound, ``unparsed`` answers no
label at all. Those are answers whose text names none, those that a content filter withheld, and
those that ended at once on servers that show nothing then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.wire import TOKEN_IDS, Answer, Token, token_id
from blackbox_delta.errors import UnsupportedError, VerbalizerError
from blackbox_delta.types import FloatArray, IntArray, no_label

#: No upper bound is given below this log-probability.
FLOOR = -30.0
#: How well a server's probabilities add up to 1: sums are trusted to this and no further.
PRECISION = 1e-6
#: A label computed from a biased value counts as exact if it is known to this, in nats.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Reading:
    """What one answer says.

    Attributes:
        label_logprobs: (c,) float32.
        top_ids: (k,) int64, likeliest first, distinct.
        top_logprobs: (k,) float32.
        bounded: How many of the c label log-probabilities are upper bounds.
        unparsed: 1 if no label could be read, else 0.
    """

    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray
    bounded: int = 0
    unparsed: int = 0


class Rule(Protocol):
    """How an answer is read."""

    def __call__(self, answer: Answer) -> Reading:
        """The numbers in an answer.

        Raises:
            BrokenReply: The answer does not hold what the rule needs.
        """
        ...


def reading(labels: Sequence[float], bounded: int = 0) -> Reading:
    """A reading without top tokens."""
    return Reading(
        np.asarray(labels, np.float32),
        np.empty(0, np.int64),
        np.empty(0, np.float32),
        bounded,
    )


def nothing(count: int, top_k: int = 0) -> Reading:
    """What can be read of no answer: c labels alike, and k top tokens that stand for nothing."""
    ids, logprobs = top_arrays((), top_k)
    return Reading(no_label(count), ids, logprobs, unparsed=1)


@dataclass(frozen=True)
class Exact:
    """The log-probabilities that were asked for by token id: the label words', then others'.

    Attributes:
        others: Tokens asked for after the label words'; they are handed on as the top tokens.
    """

    others: tuple[int, ...] = ()

    def __call__(self, answer: Answer) -> Reading:
        """The numbers in an answer."""
        if answer.labels is None or len(answer.labels) <= len(self.others):
            raise BrokenReply("the label words' log-probabilities are missing")
        values = np.asarray(answer.labels, np.float32)
        count = len(values) - len(self.others)
        rest = values[count:]
        order = np.argsort(-rest, kind="stable")
        return Reading(values[:count], np.asarray(self.others, np.int64)[order], rest[order])


class Labels:
    """Which tokens stand for which of the c label words.

    In a completion a label is one token: the one with its id, where ids are known, or else with
    exactly its bytes, the leading space included. In a chat, where models vary case and spaces,
    every token counts whose stripped and case-folded text is the label word's, or begins that
    one word and no other (``"Sci"`` for ``"Sci/Tech"`` beside ``"Sports"``, not ``"S"``). What
    a chat's label has beyond the tokens that came is not known and not in its value.

    Args:
        choices: c label words, as they are asked for.
        ids: Their token ids; ``None`` where they are not known. They count for tokens that
            come with an id.
        chat: Whether tokens are matched as in a chat; ids are not used then.

    Raises:
        VerbalizerError: Two label words cannot be told apart, or one is empty.
    """

    def __init__(self, choices: Sequence[str], ids: Sequence[int] | None, chat: bool) -> None:
        self.count = len(choices)
        self.chat = chat
        self._ids = None if ids is None or chat else {token: at for at, token in enumerate(ids)}
        words = [_folded(choice) if chat else choice for choice in choices]
        self._words = {word: at for at, word in enumerate(words)}
        distinct = min(len(self._words), self.count if self._ids is None else len(self._ids))
        if distinct < self.count or "" in self._words:
            raise VerbalizerError(
                f"The label words {list(choices)} are empty or cannot be told apart in the "
                "model's answer. Choose words that differ in more than case and spaces."
            )

    def owner(self, token: Token) -> int | None:
        """Which of the c label words a token stands for."""
        if self._ids is not None and token.id is not None:
            return self._ids.get(token.id)
        try:
            text = token.text.decode()
        except UnicodeDecodeError:  # a piece of a character
            return None
        return self._begun(_folded(text)) if self.chat else self._words.get(text)

    def logprobs(self, top: Sequence[Token]) -> list[float | None]:
        """(c,) log-probabilities, summed over each label's tokens; ``None`` for unseen ones.

        Raises:
            UnsupportedError: Tokens come as ids alone, and the labels' ids are not known.
        """
        if self._ids is None and len(top) > 1 and not any(token.text for token in top):
            raise UnsupportedError(
                "The server names tokens by their ids alone, so the label words' token ids must "
                "be known: give the model's tokenizer."
            )
        sums = [0.0] * self.count
        for token in top:
            at = self.owner(token)
            if at is not None:
                sums[at] += math.exp(token.logprob)
        return [min(math.log(total), 0.0) if total else None for total in sums]

    def _begun(self, text: str) -> int | None:
        if not text or text in self._words:
            return self._words.get(text)
        begun = [at for word, at in self._words.items() if word.startswith(text)]
        return begun[0] if len(begun) == 1 else None


def _folded(text: str) -> str:
    return text.strip().casefold()


@dataclass(frozen=True)
class TopTokens:
    """Labels read off the likeliest tokens, with a stated bound for those outside.

    A label outside the top tokens is no likelier than the last of them, and no likelier than all
    that they leave over: it gets the smaller of the two, see :func:`unseen_bound`, and is counted
    as bounded.

    Attributes:
        labels: The label words' tokens.
        top_k: How many top tokens to hand on; the answer may hold more.
    """

    labels: Labels
    top_k: int = 0

    def __call__(self, answer: Answer) -> Reading:
        """The numbers in an answer."""
        if not answer.top:
            raise BrokenReply("the likeliest tokens' log-probabilities are missing")
        seen = self.labels.logprobs(answer.top)
        bound = unseen_bound(answer.top)
        values = [bound if value is None else value for value in seen]
        ids, logprobs = top_arrays(answer.top, self.top_k)
        return Reading(np.asarray(values, np.float32), ids, logprobs, bounded=seen.count(None))


def unseen_bound(top: Sequence[Token]) -> float:
    """The most that the log-probability of a token outside ``top`` can be; at least ``FLOOR``.

    What the top tokens leave over is trusted to ``PRECISION``, as sums of rounded numbers are.
    """
    left = 1.0 - math.fsum(math.exp(token.logprob) for token in top)
    return max(min(top[-1].logprob, math.log(min(max(left, 0.0) + PRECISION, 1.0))), FLOOR)


def top_arrays(top: Sequence[Token], top_k: int) -> tuple[IntArray, FloatArray]:
    """Ids (k,) and log-probabilities (k,), likeliest first, exactly ``top_k`` of them.

    Where the server gave fewer, the rest is filled with the largest ids that are free, which
    stand for nothing, and the log-probability of the last token that came: what is not there is
    known to be no likelier. A token without an id gets :func:`token_id` of its bytes.
    """
    last = top[-1].logprob if top else FLOOR
    named: dict[int, float] = {}
    for token in top:
        name = token_id(token.text) if token.id is None else token.id
        named.setdefault(name, token.logprob)
        if len(named) == top_k:
            break
    free = TOKEN_IDS - 1
    while len(named) < top_k:
        named.setdefault(free, last)
        free -= 1
    pairs = list(named.items())[:top_k]
    ids = np.asarray([name for name, _ in pairs], np.int64)
    return ids, np.asarray([value for _, value in pairs], np.float32)


@dataclass(frozen=True)
class Unbiased:
    """Labels computed back from a distribution in which a bias had lifted all of them.

    For servers that take log-probabilities after ``logit_bias``. With the bias b on every label
    token, p'_j = e^b p_j / Z' and S the sum of all p'_j::

        log p_j = log p'_j - log(S + e^b (1 - S))

    S is known to ``PRECISION`` and, if a label is not seen even so, to its bound. If that leaves
    more than ``TOLERANCE`` open (S near 1 under a large b: the rest of the distribution is lost
    in rounding), all labels get the upper end and count as bounded. Labels that are not seen
    always do. For b = 10 and all labels seen, that is at 1 - S < 2e-4.

    Top tokens of a biased distribution are not the model's, so none are handed on.

    Attributes:
        labels: The label words' tokens, matched as in a completion: the biased tokens alone.
        bias: b > 0, in nats.

    Raises:
        ValueError: The bias is out of range, or labels are matched as in a chat.
    """

    labels: Labels
    bias: float

    def __post_init__(self) -> None:
        if not 0.0 < self.bias <= 100.0 or self.labels.chat:
            raise ValueError(f"A bias of 0 to 100 on single tokens is needed, not {self.bias}.")

    def __call__(self, answer: Answer) -> Reading:
        """The numbers in an answer."""
        if not answer.top:
            raise BrokenReply("the likeliest tokens' log-probabilities are missing")
        seen = self.labels.logprobs(answer.top)
        bound = unseen_bound(answer.top)
        lifted = [bound if value is None else value for value in seen]
        low = math.fsum(math.exp(value) for value in seen if value is not None)
        high = low + seen.count(None) * math.exp(bound)
        most, least = self._log_norm(low - PRECISION), self._log_norm(high + PRECISION)
        if most - least <= TOLERANCE:
            norm, bounded = self._log_norm(low), seen.count(None)
        else:
            norm, bounded = least, len(seen)
        return reading([min(value - norm, 0.0) for value in lifted], bounded)

    def _log_norm(self, labelled: float) -> float:
        """log(S + e^b (1 - S)), for S cut to [0, 1]."""
        share = min(max(labelled, 0.0), 1.0)
        if share == 1.0:
            return 0.0
        rest = self.bias + math.log1p(-share)
        return rest if share == 0.0 else float(np.logaddexp(math.log(share), rest))
