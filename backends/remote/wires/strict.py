"""Picks values out of a reply and refuses everything that is not what it should be.

Each function takes a value and the place it stands at, for the message. A message never quotes
the reply: a server may have put anything there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.wire import Answer, Ask, Token, token_id

# Above zero by rounding is zero; more is something else than a log-probability.
_ROUNDING = 1e-3
# Servers write log 0 as -9999 (OpenAI, vLLM) or as the lowest float (llama.cpp).
_NOTHING = -9000.0
#: The smallest log-probability that leaves this module: e**-100 is as good as nothing.
SMALLEST = -100.0

_T = TypeVar("_T")


def _expect(value: Any, kind: type[_T], word: str, where: str) -> _T:
    if not isinstance(value, kind):
        raise BrokenReply(f"{where} should be {word} but is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A JSON object."""
    return _expect(value, dict, "an object", where)


def items(value: Any, where: str, least: int = 0) -> list[Any]:
    """A JSON array of at least ``least`` values."""
    found = _expect(value, list, "a list", where)
    if len(found) < least:
        raise BrokenReply(f"{where} holds {len(found)} of at least {least} values")
    return found


def string(value: Any, where: str) -> str:
    """A JSON string that can be written as UTF-8."""
    found = _expect(value, str, "a string", where)
    if not found.isascii() and any("\ud800" <= char <= "\udfff" for char in found):
        raise BrokenReply(f"{where} holds half a character")
    return found


def whole(value: Any, where: str, below: int = 2**63) -> int:
    """A whole number, at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        raise BrokenReply(f"{where} should be a whole number but is {_kind(value)} or out of range")
    return value


def maybe_whole(value: Any, where: str, below: int = 2**63) -> int | None:
    """A whole number, at least 0, or nothing."""
    return None if value is None else whole(value, where, below)


def pick(value: Any, *path: str) -> Any:
    """What stands at a path of optional objects; ``None`` where one of them is missing."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def logprob(value: Any, where: str) -> float:
    """A log-probability as the server wrote it: finite, at most 0 but for rounding."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BrokenReply(f"{where} should be a log-probability but is {_kind(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.nan
    if not math.isfinite(found) or found > _ROUNDING:
        raise BrokenReply(f"{where} should be a log-probability but is not finite or above 0")
    return min(found, 0.0)


def raw_bytes(value: Any, where: str) -> bytes:
    """A list of bytes as numbers."""
    found = items(value, where)
    if not all(type(byte) is int and 0 <= byte < 256 for byte in found):
        raise BrokenReply(f"{where} should be bytes but holds something else")
    return bytes(found)


def _check_mass(logprobs: Iterable[float], where: str) -> None:
    total = sum(map(math.exp, logprobs))
    if total > 1.01:  # bfloat16 and rounded decimals stay well below
        raise BrokenReply(f"{where} are not log-probabilities: they add up to {total:.3g}")


def answer(text: str, tokens: list[Token], ask: Ask, may_be_fewer: bool, where: str) -> Answer:
    """An answer with what was asked for, made of the tokens that came.

    Raises:
        BrokenReply: They are too few, are not a distribution, or lack a label.
    """
    if ask.label_ids is not None:
        return Answer(text, labels=_labelled(tokens, ask.label_ids, f"{where}: logprobs"))
    if ask.top_k:
        return Answer(text, _likeliest(tokens, ask.top_k, may_be_fewer, f"{where}: logprobs"))
    return Answer(text)


def _likeliest(
    tokens: list[Token], top_k: int, may_be_fewer: bool, where: str
) -> tuple[Token, ...]:
    """The ``top_k`` likeliest of the tokens, distinct and in order.

    Of two that look the same (pieces of characters, shown as "�") the likelier counts.
    Equal ones are ordered by their ids, so that a tie does not depend on the server's mood.
    """
    if len(tokens) < (1 if may_be_fewer else top_k):
        raise BrokenReply(f"{where} hold {len(tokens)} of {top_k} tokens")
    ids = [token.id for token in tokens if token.id is not None]
    if len(set(ids)) < len(ids):
        raise BrokenReply(f"{where} name a token twice")
    named = [(-token.logprob, _identity(token), token) for token in tokens]
    named.sort(key=lambda entry: entry[:2])
    distinct: dict[int, Token] = {}
    for _, name, token in named:
        if token.logprob > _NOTHING:
            distinct.setdefault(name, token)
    found = tuple(distinct.values())
    _check_mass((token.logprob for token in found), where)
    if not found:
        raise BrokenReply(f"{where} hold no token with a probability")
    return found[:top_k]


def _labelled(tokens: list[Token], label_ids: tuple[int, ...], where: str) -> tuple[float, ...]:
    """The log-probabilities of the label tokens, in their order."""
    found: dict[int, float] = {}
    for token in tokens:
        if token.id is not None and found.setdefault(token.id, token.logprob) != token.logprob:
            raise BrokenReply(f"{where} name a token twice with different values")
    missing = sum(token not in found for token in label_ids)
    if missing:
        raise BrokenReply(f"{where} lack {missing} of the {len(label_ids)} tokens asked for")
    values = tuple(max(found[token], SMALLEST) for token in label_ids)
    _check_mass(found.values(), where)
    return values


def _identity(token: Token) -> int:
    return token_id(token.text) if token.id is None else token.id
