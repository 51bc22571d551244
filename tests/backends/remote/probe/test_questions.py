"""A probe's questions: what counts as an answer, and what was spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import toy_api
from faulty_server import Fault, FaultyServer, scripted

from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.probe.questions import Question, Questioner
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.wire import Ask, WireReply
from blackbox_delta.errors import AuthorisationError, RemoteError

OFFER = Offer("completions", "completions", batch=4, max_top_k=5, counted=True)
GENERIC = PRESETS["generic"]
CHAT = Offer("chat", "chat/completions", max_top_k=5)


@pytest.fixture
def server(quick_retries: None) -> Iterator[FaultyServer]:
    with FaultyServer() as made:
        yield made


@pytest.fixture
def asker(server: FaultyServer) -> Iterator[Questioner]:
    connection = Connection(Endpoint(base_url=server.url), GENERIC, attempts=3)
    yield Questioner(connection)
    connection.close()


def question(prompt: str = "x", offer: Offer = OFFER, **wanted: Any) -> Question:
    return Question(offer, [prompt], Ask("toy", **wanted))


@pytest.mark.parametrize(("offer", "seen"), [(OFFER, "x"), (CHAT, "user: x")])
def test_an_answer_is_read(asker: Questioner, offer: Offer, seen: str) -> None:
    reply = asker.ask(question(offer=offer, top_k=3))
    assert isinstance(reply, WireReply)
    values = sorted(toy_api.log_probs(seen), reverse=True)[:3]
    assert [token.logprob for token in reply.answers[0].top] == values
    assert asker.queries == 1


def test_a_refusal_is_an_answer_and_costs_nothing(asker: Questioner) -> None:
    reply = asker.ask(question(top_k=101))
    assert isinstance(reply, str)
    assert reply.startswith("refused: ")
    assert "greater than max allowed: 100" in reply
    assert asker.queries == 0


def test_what_is_missing_is_an_answer_and_was_paid_for(
    server: FaultyServer, asker: Questioner
) -> None:
    server.plan = scripted([Fault.NO_LOGPROBS, Fault.ENDED_AT_ONCE])
    for asked in (1, 2):
        reply = asker.ask(question(top_k=3))
        assert isinstance(reply, str)
        assert reply.startswith("silently dropped: ")
        assert (asker.queries, len(server.requests)) == (asked, asked)


def test_what_was_lost_was_spent(server: FaultyServer, asker: Questioner) -> None:
    server.plan = scripted([Fault.ERROR, Fault.OVERLOADED])
    assert isinstance(asker.ask(question()), WireReply)
    assert asker.queries == 2  # the refused one is free
    assert len(asker.ask_all([question(str(at)) for at in range(8)])) == 8
    assert asker.queries == 10


def test_what_a_server_breaks_down_over_is_not_done_there(
    server: FaultyServer, asker: Questioner
) -> None:
    """It answers anything else, before and after."""
    server.plan = lambda number, prompts: Fault.ERROR if "hard" in prompts else None
    assert isinstance(asker.ask(question("easy")), WireReply)
    reply = asker.ask(question("hard"))
    assert isinstance(reply, str)
    assert reply.startswith("the server fails at it: HTTP 500")
    # The three attempts may be billed; the easy question was asked twice.
    assert (asker.queries, server.answered["easy"]) == (5, 2)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.OVERLOADED, Fault.SILENCE])
def test_a_server_that_breaks_down_is_not_taken_for_one_that_offers_less(
    fault: Fault, server: FaultyServer
) -> None:
    connection = Connection(Endpoint(base_url=server.url, timeout=0.3), GENERIC, attempts=2)
    asker = Questioner(connection)
    assert isinstance(asker.ask(question("easy")), WireReply)
    server.plan = lambda number, prompts: fault
    with pytest.raises(RemoteError, match="failed 2 times to answer"):
        asker.ask(question("hard"))
    # A passing crowd is no answer either.
    server.plan = lambda number, prompts: fault if "hard" in prompts else None
    if fault is not Fault.ERROR:
        with pytest.raises(RemoteError, match="failed 2 times to answer"):
            asker.ask(question("hard"))
    connection.close()


def test_no_reply_at_all_is_an_error(server: FaultyServer, asker: Questioner) -> None:
    server.plan = lambda number, prompts: Fault.ERROR
    with pytest.raises(RemoteError, match="failed 3 times .* HTTP 500"):
        asker.ask(question())
    server.key = "another"
    with pytest.raises(AuthorisationError):
        asker.ask(question())
