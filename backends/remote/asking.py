"""What to ask about the answer position so that label words and top tokens can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blackbox_delta.backends.remote.endpoint import Access
from blackbox_delta.backends.remote.wires.readings import Exact, Labels, Rule, TopTokens, Unbiased
from blackbox_delta.backends.remote.wires.wire import Ask
from blackbox_delta.backends.remote.wires.written import Written
from blackbox_delta.errors import VerbalizerError

#: The longest answer that is asked for where it is read as text.
WRITTEN_TOKENS = 16


@dataclass(frozen=True)
class Asking:
    """A question about the answer position, and how its answer is read."""

    ask: Ask
    rule: Rule


@dataclass(frozen=True)
class LabelTokens:
    """The tokens that c label words are.

    Attributes:
        ids: (c,) token ids.
        neighbours: Tokens that may be asked for beside them, the nearest first; may be empty.
    """

    ids: tuple[int, ...]
    neighbours: tuple[int, ...] = ()


def asking(
    access: Access, model: str, choices: Sequence[str], tokens: LabelTokens | None, top_k: int
) -> Asking:
    """The question that gets the most out of a server.

    Args:
        access: What the server offers.
        model: Its name there.
        choices: c label words.
        tokens: Their tokens, where they are known.
        top_k: Top tokens that are wanted beside them.

    Raises:
        VerbalizerError: The label words cannot be told apart.
    """
    if access.tier == "text":
        return Asking(Ask(model, max_tokens=WRITTEN_TOKENS), Written(choices))
    if tokens is not None and access.asks_label_ids and top_k <= len(tokens.neighbours):
        others = tokens.neighbours[:top_k]
        return Asking(Ask(model, label_ids=tokens.ids + others), Exact(others))
    labels = Labels(choices, None if tokens is None else tokens.ids, access.api == "chat")
    if tokens is not None and access.asks_bias and not top_k:
        bias = dict.fromkeys(tokens.ids, access.asks_bias)
        lifted = Ask(model, top_k=access.asks_top, bias=bias)
        return Asking(lifted, Unbiased(labels, access.asks_bias))
    # All that the server gives, so that more labels are among them.
    return Asking(Ask(model, top_k=access.asks_top), TopTokens(labels, top_k))


def single_tokens(
    choices: Sequence[str], encode: Callable[[str], Sequence[int]]
) -> tuple[int, ...]:
    """The one token of each label word.

    Raises:
        VerbalizerError: A label word is split into several, or two have the same.
    """
    encoded = [tuple(encode(choice)) for choice in choices]
    split = {
        choice: len(tokens)
        for choice, tokens in zip(choices, encoded, strict=True)
        if len(tokens) != 1
    }
    if split:
        listed = ", ".join(f"{choice!r} ({count} tokens)" for choice, count in split.items())
        raise VerbalizerError(
            f"the model's tokenizer splits the label words {listed}, and a server tells the "
            "log-probability of a single token only; choose words of one token with label_words"
        )
    tokens = tuple(token for (token,) in encoded)
    if len(set(tokens)) < len(tokens):
        raise VerbalizerError(
            f"the model's tokenizer cannot tell the label words {list(choices)} apart; choose "
            "others"
        )
    return tokens
