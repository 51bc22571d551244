"""What completions and chats share: the fields of the request, the frame of the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires import strict
from blackbox_delta.backends.remote.wires.logprob_forms import first_tokens, shows_nothing
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.wire import Answer, Ask, Form, Input, WireReply
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import Json

#: Takes a choice and the place it stands at; gives what the model wrote.
TextOf: TypeAlias = Callable[[dict[str, Any], str], str]

#: Why an answer ended that the provider's content filter stopped, and one that the model ended.
_FILTERED, _DONE = "content_filter", "stop"


def check_request(offer: Offer, prompts: Sequence[Input], ask: Ask, form: Form) -> None:
    """Raises if one request cannot carry these prompts or ask this."""
    if form not in offer.forms:
        raise UnsupportedError(
            f"The {offer.wire} endpoint does not take prompts as {form}; "
            f"it takes {', '.join(sorted(offer.forms))}."
        )
    if not 1 <= len(prompts) <= offer.batch:
        raise ValueError(f"A request may hold 1 to {offer.batch} prompts, not {len(prompts)}.")
    if len(ask.label_ids or ()) > offer.max_label_ids:
        raise UnsupportedError(
            f"The {offer.wire} endpoint gives the log-probabilities of at most "
            f"{offer.max_label_ids} chosen tokens."
        )


def common_fields(offer: Offer, ask: Ask) -> Json:
    """The fields beside the prompts."""
    body: Json = {"model": ask.model, **offer.extra}
    body[offer.limit_field] = max(ask.max_tokens, offer.min_output)
    if offer.temperature:
        body["temperature"] = 0
    if ask.bias:
        body["logit_bias"] = {str(token): bias for token, bias in ask.bias.items()}
    if not ask.logprobs:
        return body
    if offer.counted:
        body["logprobs"] = ask.logprobs
    else:
        body |= {"logprobs": True, "top_logprobs": ask.logprobs}
    if ask.label_ids is not None:
        body["logprob_token_ids"] = list(ask.label_ids)
    return body


def read_choices(
    payload: Any, ask: Ask, count: int, offer: Offer, ids_as_text: bool, text_of: TextOf
) -> WireReply:
    """A reply with ``choices``, put into the order of the prompts.

    Raises:
        BrokenReply: An answer is missing, doubled or not what was asked for.
    """
    reply = strict.mapping(payload, "the reply")
    refuse_error(reply, "the reply")
    answers: dict[int, Answer] = {}
    for choice in strict.items(reply.get("choices"), "choices"):
        index = strict.whole(strict.mapping(choice, "a choice").get("index"), "index", below=count)
        if index in answers:
            raise BrokenReply(f"there are two answers to prompt {index}")
        answers[index] = _answer(choice, ask, offer, ids_as_text, text_of, f"choices[{index}]")
    if len(answers) < count:
        raise BrokenReply(f"there are {len(answers)} answers to {count} prompts")
    return WireReply(
        tuple(answers[index] for index in range(count)),
        *_usage(reply.get("usage"), one_prompt=count == 1),
    )


def _answer(
    choice: dict[str, Any], ask: Ask, offer: Offer, ids_as_text: bool, text_of: TextOf, where: str
) -> Answer:
    """One choice, checked; or that it was withheld, where a filter says so and it is not whole."""
    ended, logprobs = choice.get("finish_reason"), choice.get("logprobs")
    try:
        refuse_error(choice, where)
        text, tokens = text_of(choice, where), []
        if ask.logprobs and ended == _DONE and not text and shows_nothing(logprobs):
            return Answer("", ended=_DONE, silent=True)
        if ask.logprobs:
            tokens = first_tokens(logprobs, ids_as_text, f"{where}.logprobs")
        answer = strict.answer(text, tokens, ask, offer.may_be_fewer, where)
    except BrokenReply:
        if ended != _FILTERED:
            raise
        answer = Answer("")
    empty = not (answer.text or answer.top or answer.labels)
    told = ended if isinstance(ended, str) else None
    return replace(answer, ended=told, withheld=ended == _FILTERED and empty)


def refuse_error(value: dict[str, Any], where: str) -> None:
    """Raises if an error came in place of the reply, whatever the HTTP status said."""
    if (error := value.get("error")) is not None:
        raise BrokenReply(f"{where} carries an error", error)


def _usage(usage: Any, one_prompt: bool) -> tuple[int | None, int | None, int | None]:
    """Prompt, output and cached tokens.

    vLLM gives the cached tokens of the last prompt alone, so several prompts tell nothing.
    """
    cached = strict.pick(usage, "prompt_tokens_details", "cached_tokens")
    return (
        strict.maybe_whole(strict.pick(usage, "prompt_tokens"), "usage.prompt_tokens"),
        strict.maybe_whole(strict.pick(usage, "completion_tokens"), "usage.completion_tokens"),
        strict.maybe_whole(cached, "usage.cached_tokens") if one_prompt else None,
    )
