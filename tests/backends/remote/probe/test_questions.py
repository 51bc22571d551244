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
CHAT = Offer("chat", "chat/completions", max_top_k=5)


@pytest.fixture
def server(quick_retries: None) -> Iterator[FaultyServer]:
    with FaultyServer() as made:
        yield made


@pytest.fixture
def asker(server: FaultyServer) -> Iterator[Questioner]:
    connection = Connection(Endpoint(base_url=server.url), PRESETS["generic"], attempts=3)
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
    server.plan = scripted([Fault.NO_LOGPROBS])
    reply = asker.ask(question(top_k=3))
    assert isinstance(reply, str)
    assert reply.startswith("silently dropped: ")
    assert (asker.queries, len(server.requests)) == (1, 1)


def test_what_was_lost_was_spent(server: FaultyServer, asker: Questioner) -> None:
    server.plan = scripted([Fault.ERROR, Fault.OVERLOADED])
    assert isinstance(asker.ask(question()), WireReply)
    assert asker.queries == 2  # the refused one is free
    assert len(asker.ask_all([question(str(at)) for at in range(8)])) == 8
    assert asker.queries == 10


def test_no_reply_at_all_is_an_error(server: FaultyServer, asker: Questioner) -> None:
    server.plan = lambda number, prompts: Fault.ERROR
    with pytest.raises(RemoteError, match="failed 3 times .* HTTP 500"):
        asker.ask(question())
    server.key = "another"
    with pytest.raises(AuthorisationError):
        asker.ask(question())
