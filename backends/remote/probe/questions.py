"""Single questions to a server, for a probe: a reply that is not sound is an answer too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.http.exchange import Answered, Job
from blackbox_delta.backends.remote.http.failures import BrokenReply, FailedError
from blackbox_delta.backends.remote.wires import open_wire
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.wire import Ask, Form, Input, WireReply
from blackbox_delta.errors import RejectedError, RemoteError, take_lost


@dataclass(frozen=True)
class Question:
    """What is asked in one request.

    Attributes:
        offer: The wire to ask on.
        prompts: One or more.
        ask: What is wanted of their answers.
        form: How the prompts go out.
    """

    offer: Offer
    prompts: Sequence[Input]
    ask: Ask
    form: Form = "text"

    def job(self) -> Job[WireReply | str]:
        """The request; a reply that is not sound is read as a sentence on what is wrong with it."""
        wire = open_wire(self.offer)

        def body() -> bytes:
            return json.dumps(wire.body(self.prompts, self.ask, self.form)).encode()

        def read(payload: Any) -> WireReply | str:
            try:
                reply = wire.read(payload, self.ask, len(self.prompts))
            except BrokenReply as problem:
                return f"silently dropped: {problem}"
            if any(answer.silent for answer in reply.answers):
                return "silently dropped: the model ended its answer at once, and nothing is shown"
            return reply

        return Job(wire.path, body, read, len(self.prompts), 0)


class Questioner:
    """Asks one server.

    Args:
        connection: The server.

    Attributes:
        queries: Queries that were sent, but for those that were refused.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.queries = 0
        #: The last one that was answered.
        self._answered: Question | None = None

    def ask(self, question: Question) -> WireReply | str:
        """The reply, or in a few words why there is none: refused, or not what was asked for.

        A server may break down over what it cannot do, and yet be well: it answers again what it
        answered before.

        Raises:
            AuthorisationError: The server does not accept the key.
            RemoteError: It gives no reply at all.
        """
        try:
            [answer] = self.ask_all([question])
        except RejectedError as error:
            return f"refused: {error}"
        except FailedError as error:
            if self._answered is None:
                raise
            self.ask_all([self._answered])
            return f"the server fails at it: {error.reason}"
        self._answered = question
        return answer

    def ask_all(self, questions: Sequence[Question]) -> list[WireReply | str]:
        """All at once, answered in any order.

        Raises:
            RejectedError: The server refuses one of them.
            RemoteError: It gives no reply.
        """
        answers: list[WireReply | str] = []

        def take(answered: Answered[WireReply | str]) -> None:
            self.queries += answered.job.queries
            answers.append(answered.value)

        try:
            lost = self._connection.send([each.job() for each in questions], take)
        except RemoteError as error:
            self.queries += take_lost(error)
            raise
        self.queries += lost
        return answers
