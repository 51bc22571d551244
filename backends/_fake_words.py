"""The words and weights of the toy model, from hashes: the same on every platform."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from blackbox_delta.types import FloatArray, Vector

TOPICS = (
    "great good wonderful excellent love loved best beautiful brilliant fun happy perfect superb",
    "terrible bad awful boring worst hate hated poor dull waste ugly sad horrible weak",
    "sports game team match player coach season league goal football tennis win champion",
    "business market stock bank price shares profit company trade sales economy investor",
    "science technology computer software research space internet study data chip scientist",
    "world government minister election war country police president attack peace nation",
    "billing payment invoice refund card charge charged fee money paid subscription bill",
    "delivery order package shipping arrived late courier address parcel track shipped",
    "account password login email profile sign user settings reset locked access",
    "technical error crash bug screen app update install broken slow device",
    "person who people human man woman name author inventor",
    "place where location city state river capital mountain",
    "number many much when year date count long how",
)
NEUTRAL = (
    "the a an is was are it this that of and to in on for with my your i you he she they we "
    "not no very so but as at by from be been have has had do does did what why all about "
    "text topic answer question review movie film story message . , ! ? :"
)
_WORD = re.compile(r"\w+|[^\w\s]")
_PIECES = 32
HIDDEN = 16


class FakeEmbeddings:
    """The toy model's words: known ones are one token, all others two of 32 pieces.

    Args:
        name: Seeds the weights.
    """

    def __init__(self, name: str) -> None:
        topics = [line.split() for line in TOPICS] + [NEUTRAL.split()]
        words = [word for line in topics for word in line]
        self._ids = {word: index for index, word in enumerate(words)}
        table = 0.15 * normals(f"{name}/embeddings", len(words) + _PIECES, HIDDEN)
        for axis, line in enumerate(topics[:-1]):
            table[[self._ids[word] for word in line], axis] += 1
        self.table: FloatArray = table.astype(np.float32)

    @property
    def vocabulary_size(self) -> int:
        """Number of rows."""
        return len(self.table)

    @property
    def hidden_size(self) -> int:
        """Length of a row."""
        return HIDDEN

    @property
    def std(self) -> float:
        """Standard deviation over all entries of the table."""
        return float(self.table.std())

    @property
    def opening(self) -> list[int]:
        """None."""
        return []

    def rows(self, token_ids: Sequence[int]) -> FloatArray:
        """Embeddings of shape (len(token_ids), 16)."""
        return self.table[np.asarray(token_ids, dtype=np.int64)]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``; case does not matter."""
        return [token for word in _WORD.findall(text.lower()) for token in self._tokens(word)]

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Known words, each with a space before it; pieces of others stand for no text."""
        known = list(self._ids)
        return "".join(f" {known[token]}" for token in token_ids if token < len(known))

    def _tokens(self, word: str) -> list[int]:
        if word in self._ids:
            return [self._ids[word]]
        first, second = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:2]
        return [len(self._ids) + first % _PIECES, len(self._ids) + second % _PIECES]


def _bytes(seed: str, count: int) -> bytes:
    return hashlib.shake_256(seed.encode("utf-8", "surrogatepass")).digest(count)


def normals(seed: str, *shape: int) -> Vector:
    """Nearly normal numbers: sums of four uniform ones, the same on every platform."""
    size = int(np.prod(shape))
    uniform = np.frombuffer(_bytes(seed, 8 * size), "<u2").reshape(size, 4) / 65536 - 0.5
    return np.asarray(uniform.sum(axis=1) * np.sqrt(3)).reshape(shape)


def signed_permutation(seed: str) -> Vector:
    """A matrix (16, 16) with one 1 or -1 in each row and column."""
    order = np.argsort(np.frombuffer(_bytes(seed, 8 * HIDDEN), "<u8"), kind="stable")
    signs = np.where(np.frombuffer(_bytes(f"{seed}/signs", HIDDEN), "u1") % 2, 1.0, -1.0)
    return np.asarray(np.eye(HIDDEN)[order] * signs[:, None])
