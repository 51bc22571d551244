"""What a server lets in and out, one question after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from blackbox_delta.backends.remote.asking import WRITTEN_TOKENS
from blackbox_delta.backends.remote.embeddings.table import TableFile
from blackbox_delta.backends.remote.embeddings.torch_file import embeds_field
from blackbox_delta.backends.remote.probe.inquiry import LONG, SHORT, Inquiry, distance, token_ids
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.server_tokenizer import ServerTokenizer
from blackbox_delta.backends.remote.wires.wire import WireReply
from blackbox_delta.errors import ModelError, RemoteError, UnsupportedError

#: How far two ways to the same log-probability may differ, in nats, where the server computes in
#: bf16. Embeddings of another model differ by far more.
SAME = 0.3
#: One token, whatever the tokenizer.
_TOKEN = "a"
_TOP_KS = (100, 20, 5, 1)
_UNLIKELY = (1000, 2000)
_BIAS = 10.0


def find_temperature(inquiry: Inquiry, offer: Offer) -> tuple[Offer, WireReply | str]:
    """The reply to the short text, and the offer that it came on: without a temperature if need be.

    Reasoning models refuse any but their own, and then draw what they write.
    """
    outcome = inquiry.ask(offer, SHORT)
    if isinstance(outcome, WireReply) or "temperature" not in outcome.lower():
        return offer, outcome
    without = replace(offer, temperature=False)
    again = inquiry.ask(without, SHORT)
    if not isinstance(again, WireReply):
        return offer, f"{outcome}; without it: {again}"
    inquiry.say(
        "temperature",
        "0 is refused: what it writes is drawn, and may differ when a question is put again",
        good=False,
    )
    return without, again


def find_top_k(inquiry: Inquiry, offer: Offer) -> int:
    """The most top tokens that are really returned."""
    for top_k in _TOP_KS:
        outcome = inquiry.ask(replace(offer, max_top_k=top_k), SHORT, top_k=top_k)
        if isinstance(outcome, WireReply):
            inquiry.plain = outcome.answers[0]
            count = len(inquiry.plain.top)
            inquiry.say("log-probabilities", f"the {count} likeliest tokens", good=True)
            return count
    inquiry.say("log-probabilities", f"none ({outcome})", good=False)
    return 0


def find_tokenizer(inquiry: Inquiry, offer: Offer) -> bool:
    """Whether the server has to tell which tokens the label words are, and does.

    Raises:
        ModelError: The table comes with the tokenizer of another model.
    """
    place, what = inquiry.preset.tokenizer, "tokens of a text"
    if place is None or offer.wire == "chat":
        return False
    try:
        server = ServerTokenizer(inquiry.connection, place, inquiry.model)
        told = server(SHORT, add_special_tokens=False)["input_ids"]
    except RemoteError as error:
        hint = "" if inquiry.table else ", so name the model's files, --embeddings"
        inquiry.say(what, f"not told{hint} ({error})", good=False)
        return False
    if inquiry.table is None:
        inquiry.say(what, "told", good=True)
        return True
    if told != inquiry.table.tokenizer(SHORT, add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"the tokenizer in {inquiry.endpoint.embeddings!r} is not that of {inquiry.model!r}: "
            "it splits a text otherwise than the server does; name the model's own files"
        )
    inquiry.say(what, "those of the table's tokenizer", good=True)
    return False


def find_label_ids(inquiry: Inquiry, offer: Offer) -> bool:
    """Whether the log-probabilities of chosen tokens are returned."""
    what = "log-probabilities of chosen tokens"
    if not offer.max_label_ids or offer.wire == "chat":
        inquiry.say(what, "not documented")
        return False
    outcome = inquiry.ask(offer, SHORT, label_ids=_UNLIKELY)
    if isinstance(outcome, WireReply):
        inquiry.say(what, "honoured", good=True)
        return True
    inquiry.say(what, outcome, good=False)
    return False


def find_bias(inquiry: Inquiry, offer: Offer) -> float:
    """The bias to use, if log-probabilities are reported after it."""
    what, top_k = "log-probabilities after logit_bias", offer.max_top_k
    plain = inquiry.top(offer) if top_k > 1 else ()
    token = next((token for token in plain[1:] if token.id is not None), None)
    if token is None or token.id is None:
        inquiry.say(what, "not looked for: token ids are not known")
        return 0.0
    outcome = inquiry.ask(offer, SHORT, top_k=top_k, bias={token.id: _BIAS})
    if not isinstance(outcome, WireReply):
        inquiry.say(what, outcome)
        return 0.0
    lifted = {one.id: one.logprob for one in outcome.answers[0].top}.get(token.id, -np.inf)
    share = np.exp(token.logprob)
    expected = token.logprob + _BIAS - np.log1p(share * np.expm1(_BIAS))
    if abs(lifted - expected) <= 0.05:
        inquiry.say(what, "yes: label words can be lifted into sight", good=True)
        return _BIAS
    ignored = abs(lifted - token.logprob) <= 0.05
    inquiry.say(what, "no: before the bias" if ignored else "neither before nor after it")
    return 0.0


def find_embeds(inquiry: Inquiry, offer: Offer, top_k: int) -> bool:
    """Whether embeddings are taken and mean what the text means.

    Raises:
        ModelError: They are taken, but mean something else.
    """
    what = "embeddings in"
    table = inquiry.table
    if "embeds" not in offer.forms:
        inquiry.say(what, "not documented")
        return False
    if table is None:
        inquiry.say(what, "not looked for: say where the embedding table is, --embeddings")
        return False
    if not top_k:
        inquiry.say(what, "of no use without log-probabilities", good=False)
        return False
    rows = table.rows(token_ids(table, SHORT))
    sent = rows.tolist() if offer.wire == "sglang" else embeds_field(rows, table.dtype)
    outcome = inquiry.ask(offer, sent, "embeds", top_k=top_k)
    if not isinstance(outcome, WireReply):
        inquiry.say(what, outcome, good=False)
        return False
    difference = distance(inquiry.plain, outcome.answers[0])
    if difference > SAME:
        raise ModelError(
            f"the embedding table in {inquiry.endpoint.embeddings!r} is not that of "
            f"{inquiry.model!r}: the server answers its embeddings otherwise than the same text "
            f"(log-probabilities differ by {difference:.2f}); name the model's own files"
        )
    inquiry.say(what, f"accepted, equal to text within {difference:.3f}", good=True)
    return True


def check_writes(inquiry: Inquiry, offer: Offer) -> None:
    """Makes sure that the model writes something within the tokens that a run lets it write.

    Raises:
        UnsupportedError: It writes nothing, or is not asked for so many.
    """
    outcome = inquiry.ask(offer, SHORT, max_tokens=WRITTEN_TOKENS)
    where = f"{inquiry.model!r} at {inquiry.connection.base_url}"
    if not isinstance(outcome, WireReply):
        raise UnsupportedError(f"{where} gives no answer of {WRITTEN_TOKENS} tokens: {outcome}")
    [answer] = outcome.answers
    if answer.text.strip():
        return
    # It is the server's word, and may be anything.
    why = f" (finish_reason: {inquiry.connection.tidy(answer.ended)})" if answer.ended else ""
    raise UnsupportedError(
        f"{where} writes nothing within {WRITTEN_TOKENS} tokens{why}, as models do that think "
        "before they answer; choose a model, or a setting of the server, that answers at once"
    )


def find_token_counts(inquiry: Inquiry, offer: Offer) -> dict[str, Any]:
    """How prompt tokens are counted beforehand."""
    what = "prompt tokens"
    counts = [_prompt_tokens(inquiry, offer, text) for text in (_TOKEN, LONG)]
    least, long = counts
    if least is None or long is None or not 0 < least < long:
        inquiry.say(what, "not reported: estimated", good=False)
        return {}
    table = inquiry.table if "ids" in offer.forms else None
    if (
        table is not None
        and [len(token_ids(table, text)) for text in (_TOKEN, LONG)] == counts
        and _reads_ids(inquiry, offer, table)
    ):
        inquiry.say(what, "counted beforehand, as the server counts them", good=True)
        return {"exact_tokens": True}
    rate, overhead = _line(least, _prompt_tokens(inquiry, offer, SHORT) or least, long)
    inquiry.say(what, f"estimated: {rate:.2f} for a byte of text, {overhead:.0f} beside it")
    return {"tokens_per_byte": rate, "overhead": overhead}


def _line(least: int, short: int, long: int) -> tuple[float, float]:
    """Tokens for a byte, and beside the text, from those of one token, a short and a long text.

    The line through the two texts, but never below what a single token shows to be beside it.
    """
    sizes = [len(text.encode()) for text in (SHORT, LONG)]
    rate = (long - short) / (sizes[1] - sizes[0])
    overhead = short - rate * sizes[0]
    if rate > 0 and overhead >= least - 1:
        return rate, overhead
    return (long - least + 1) / sizes[1], float(least - 1)


def _reads_ids(inquiry: Inquiry, offer: Offer, table: TableFile) -> bool:
    """Whether the table's token ids mean to the server what the text means."""
    outcome = inquiry.ask(offer, token_ids(table, SHORT), "ids", top_k=offer.max_top_k)
    if not offer.max_top_k or not isinstance(outcome, WireReply):
        return False
    return distance(inquiry.plain, outcome.answers[0]) <= SAME


def _prompt_tokens(inquiry: Inquiry, offer: Offer, text: str) -> int | None:
    outcome = inquiry.ask(offer, text)
    return outcome.prompt_tokens if isinstance(outcome, WireReply) else None
