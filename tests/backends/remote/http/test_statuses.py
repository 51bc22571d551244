"""What a server's status and its words come to."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest
from calling import KEY, against, replying
from faulty_server import FILTER_ERROR

from blackbox_delta.backends.remote.http.failures import Lost, Refused, TooLongError, WithheldError
from blackbox_delta.errors import AuthorisationError, RejectedError, RemoteError


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_accepted_is_final(ask: Any, status: int) -> None:
    with pytest.raises(AuthorisationError, match=f"HTTP {status}: Unauthorized"):
        ask(**replying(status, json={"error": "Unauthorized"}))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Your chosen model requires moderation and your input was flagged for violence", 403),
        ("The prompt violates our content policy", 403),
        ("filtered", "content_filter"),
        ("triggered Azure OpenAI's content management policy", "x"),
    ],
)
def test_a_text_that_a_provider_does_not_want_is_no_matter_of_the_key(
    ask: Any, words: str, code: int | str
) -> None:
    error = {"message": words, "code": code}
    with pytest.raises(RejectedError, match=f"refuses the request .HTTP 403: {words}") as caught:
        ask(**replying(403, json={"error": error}))
    assert "key" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, FILTER_ERROR),  # Azure's
        (
            400,  # OpenAI's
            {
                "message": "Invalid prompt: your prompt was flagged as potentially violating our "
                "usage policy. Please try again with a different prompt: https://a.example/b",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_prompt",
            },
        ),
        (  # OpenRouter's
            403,
            {
                "code": 403,
                "message": "Your chosen model requires moderation and your input was flagged",
                "metadata": {"reasons": ["violence"], "flagged_input": "a dull mess"},
            },
        ),
    ],
)
def test_what_a_content_filter_stops_is_told_apart(ask: Any, status: int, error: Any) -> None:
    with pytest.raises(WithheldError, match="refuses the request") as caught:
        ask(**replying(status, json={"error": error}))
    assert caught.value.reason.startswith(f"HTTP {status}: {error['message'][:30]}")


@pytest.mark.parametrize(
    "words",
    [
        "Your key was not flagged",
        "'a moderately dull film' is no list of ids",
    ],
)
def test_other_requests_are_refused_for_what_they_ask(ask: Any, words: str) -> None:
    with pytest.raises(RejectedError) as caught:
        ask(**replying(400, json={"error": {"message": words, "code": 400}}))
    assert type(caught.value) is RejectedError


@pytest.mark.parametrize(
    ("status", "error"),
    [
        # OpenAI's and Azure's, DeepSeek's, OpenRouter's, vLLM's two, SGLang's, llama.cpp's,
        # Anthropic's, Gemini's, TGI's and Together's.
        (400, {"message": "too many tokens", "code": "context_length_exceeded"}),
        (400, {"message": "This model's maximum context length is 131072 tokens."}),
        (400, {"message": "This endpoint's maximum context length is 32768 tokens."}),
        (400, {"message": "The decoder prompt is longer than the maximum model length of 64."}),
        (400, {"message": "The input (9 tokens) is longer than the model's context length (8)."}),
        (400, {"message": "request (9 tokens) exceeds the available context size (8 tokens)"}),
        (400, {"message": "no room", "type": "exceed_context_size_error", "code": 400}),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}),
        (400, {"message": "The input token count (9) exceeds the maximum number of tokens (8)."}),
        (422, {"message": "Input validation error: `inputs` must have less than 8 tokens"}),
        (422, {"message": "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9"}),
    ],
)
def test_what_does_not_fit_the_context_is_told_apart(ask: Any, status: int, error: Any) -> None:
    with pytest.raises(TooLongError, match=rf"refuses the request \(HTTP {status}: "):
        ask(**replying(status, json={"error": error}))
    with pytest.raises(Lost):
        ask(**replying(500, json={"error": error}))


@pytest.mark.parametrize("words", ["Your key was flagged", "content is not for this key", "policy"])
def test_other_words_are_about_the_key(ask: Any, words: str) -> None:
    with pytest.raises(AuthorisationError, match=words):
        ask(**replying(403, json={"error": {"message": words}}))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no model x", "type": "NotFoundError", "code": 404}},
        {"error": "no model x"},
        {"message": "no model x"},
        {"object": "error", "message": "no model x", "code": 404},
        {"detail": "no model x"},
    ],
)
@pytest.mark.parametrize("status", [400, 402, 404, 405, 413, 422])
def test_what_lasts_is_raised_with_the_servers_own_words(ask: Any, status: int, body: Any) -> None:
    with pytest.raises(RemoteError, match=rf"/v1/completions .*HTTP {status}: no model x\b"):
        ask(**replying(status, json=body))


@pytest.mark.parametrize("status", [429, 503, 529])
def test_refusals_pass(ask: Any, status: int) -> None:
    with pytest.raises(Refused, match=f"HTTP {status}: busy") as caught:
        ask(**replying(status, json={"error": {"message": "busy"}}))
    assert caught.value.retry_after is None
    assert caught.value.crowded


def test_a_refusal_for_want_of_money_does_not_pass(ask: Any) -> None:
    error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    with pytest.raises(RemoteError, match="current quota"):
        ask(**replying(429, json={"error": error}))


@pytest.mark.parametrize("status", [408, 409, 500, 502, 504, 520])
def test_server_errors_count_as_lost(ask: Any, status: int) -> None:
    with pytest.raises(Lost, match=f"HTTP {status}"):
        ask(**replying(status, text="<html>"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, RejectedError),
        (401, AuthorisationError),
        (402, RemoteError),
        (429, Refused),
        (503, Refused),
        (502, Lost),
    ],
)
def test_an_error_in_place_of_a_reply_counts_as_its_code_says(
    ask: Any, code: int, kind: type[Exception]
) -> None:
    error = {"code": code, "message": f"bad \x1b[2Jluck, {KEY}"}
    with pytest.raises(kind, match=rf"error {code}: bad \[2Jluck, \[key\]") as caught:
        ask(**replying(200, json={"error": error}))
    assert type(caught.value) is kind
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert not [frame for frame in shown.stack if frame.locals and "reply" in frame.locals]


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {"message": "no", "code": "rate_limit"}},
        {"error": {"message": "no", "code": True}},
        {"error": {"message": "no", "code": 1234}},
        {"error": "no"},
        {"error": None},
        {"error": {"code": 500}, "choices": [{"text": "yes"}]},
        [{"error": {"code": 500}}],
    ],
)
def test_what_else_a_reply_holds_is_left_to_its_reader(ask: Any, reply: Any) -> None:
    assert ask(**replying(200, json=reply)) == reply


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "99999"}, 300.0),
        ({"Retry-After": "inf"}, 300.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        # Years from now or long ago by our clock: only the difference to the reply's Date counts.
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:27:30 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2099 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 -0000", "Date": DATE}, None),
        ({"Retry-After": f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", "Date": DATE}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(
    ask: Any, headers: dict[str, str], seconds: float | None
) -> None:
    with pytest.raises(Refused) as caught:
        ask(**replying(429, headers=headers))
    assert caught.value.retry_after == seconds


def test_what_the_server_says_is_shortened_cleaned_and_redacted(ask: Any) -> None:
    words = f"\x1b[31mwrong\x00 key {KEY} \u202e" + "x" * 1000
    with pytest.raises(RemoteError, match=r"wrong key \[key\]") as caught:
        ask(**replying(400, json={"error": {"message": words}}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 450


def test_a_key_cut_by_the_shortening_is_gone_too(ask: Any) -> None:
    with pytest.raises(RemoteError) as caught:
        ask(**replying(400, json={"error": "x" * 290 + KEY}))
    assert KEY[:6] not in str(caught.value)


def test_a_refusal_is_one_even_if_its_words_never_come(in_real_time: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 .\r\nRetry-After: 2\r\nContent-Length: 9\r\n\r\nshort")
        writer.close()

    with pytest.raises(Refused) as caught:
        in_real_time(lambda: against(serve, "http"))
    assert caught.value.retry_after == 2.0
