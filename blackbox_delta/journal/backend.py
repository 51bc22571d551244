"""A backend behind a journal: it asks another one only for what was never paid for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from blackbox_delta.errors import BackendError, SpentError, UnsupportedError, take_lost
from blackbox_delta.forwarding import ForwardingBackend
from blackbox_delta.journal.file import Journal
from blackbox_delta.journal.pairs import (
    assemble,
    check_pair,
    check_reply,
    distinct,
    loss_key,
    missing,
    pair_keys,
    record_of,
    records_of_rest,
)
from blackbox_delta.journal.record import Record
from blackbox_delta.types import (
    Backend,
    Capabilities,
    Reply,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
)


class JournaledBackend(ForwardingBackend):
    """A backend that asks another one only for pairs that neither journal nor cache holds.

    A pair is one candidate and one prompt. Its costs are recorded when it is paid and reported
    whenever it is asked for: a replay reports the same usage, to the last bit. Of a pair that
    comes twice in a request, computed tokens, seconds and lost queries count once.

    Closing it closes the inner backend; the journals belong to whoever opened them.

    Args:
        inner: Who answers what is not known.
        journal: The run's own; it alone suffices to resume.
        cache: Replies that several runs share. What it knows is copied into the journal; what is
            paid goes into both.
        lent: The cache is somebody else's, and nothing is written into it.

    Attributes:
        paid: Pairs that the inner backend answered, also of requests that failed then.
        cached: Pairs that the cache answered.
        replayed: Pairs that the journal answered.
    """

    def __init__(
        self, inner: Backend, journal: Journal, cache: Journal | None = None, *, lent: bool = False
    ) -> None:
        super().__init__(inner)
        self._journal = journal
        self._cache = cache
        self._lent = lent
        self.paid = 0
        self.cached = 0
        self.replayed = 0

    @property
    def capabilities(self) -> Capabilities:
        """The inner backend's, but that no prompt is assigned a candidate: pairs are kept."""
        return replace(super().capabilities, assigns=False)

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """Scores of shape (λ, n, c); whatever had to be paid is on the disk when it returns.

        Raises:
            UnsupportedError: The request assigns candidates to prompts.
            BackendError: The inner backend failed, or its reply has the wrong shape or a number
                that is not finite. What it answered before is kept.
            SpentError: The rest cannot be had within ``request.max_sent``. A replay raises it
                again, and sends nothing.
            JournalError: The journal cannot be read or written.
        """
        del sink  # every reply is in the scores
        if request.assignment is not None:
            raise UnsupportedError(
                "a journal keeps pairs of a candidate and a prompt; leave the assignment out and "
                "send one request for each candidate"
            )
        keys = pair_keys(self._inner.identity, request)
        before = self.paid + self.cached
        records = self._recall(request, distinct(keys))
        account = _Account(self._inner, request, keys, records, self._journal)
        for part, part_keys in missing(request, keys, records):
            with account.of(part) as allowed:
                self._pay(allowed, part_keys, records)
        gained = self.paid + self.cached - before
        if gained:
            self._journal.sync()
        self.replayed += request.queries - gained
        return assemble(request, keys, records, account.losses)

    def _recall(self, request: ScoreRequest, keys: list[bytes]) -> dict[bytes, Record]:
        """What the journal knows, and what it learns from the cache."""
        records = self._journal.get(keys)
        if self._cache is not None:
            found = self._cache.get([key for key in keys if key not in records])
            copies = {
                key: replace(record, purpose=request.purpose, cached=True)
                for key, record in found.items()
            }
            self._journal.put(copies)
            self.cached += len(copies)
            records |= copies
        return records

    def _pay(
        self, request: ScoreRequest, keys: list[list[bytes]], records: dict[bytes, Record]
    ) -> None:
        """Asks for pairs of which none is known, and adds their records as they come."""

        def take(replies: Sequence[Reply]) -> None:
            new: dict[bytes, Record] = {}
            for reply in replies:
                check_pair(request, reply)
                key = keys[reply.candidate][reply.prompt]
                if key in records or key in new:
                    raise BackendError(
                        f"the reply to candidate {reply.candidate} and prompt {reply.prompt} "
                        "came twice"
                    )
                new[key] = record_of(reply, request.purpose)
            self._keep(new, records)

        reply = self._inner.score(request, take)
        check_reply(request, reply)
        taken = {key: records[key] for row in keys for key in row if key in records}
        tokens = self._inner.count_tokens(request)
        self._keep(records_of_rest(request, reply, tokens, keys, taken), records)

    def _keep(self, new: dict[bytes, Record], records: dict[bytes, Record]) -> None:
        if not new:
            return
        self._journal.put(new)
        records.update(new)
        self.paid += len(new)
        if self._cache is not None and not self._lent:
            self._cache.put(new)


class _Account:
    """What was sent for a request, in this run or before it was resumed, and what may be.

    Queries whose replies came are in the records. Those that were sent in vain when the request
    ended without its replies (an error, Ctrl-C, the end of the budget) are written down as a
    loss: else a resumed run would send as many once more, and nobody would know what they cost.

    Attributes:
        losses: All of the request's, in the order they were made.
    """

    def __init__(
        self,
        inner: Backend,
        request: ScoreRequest,
        keys: list[list[bytes]],
        records: Mapping[bytes, Record],
        journal: Journal,
    ) -> None:
        self._inner = inner
        self._request = request
        self._keys = distinct(keys)
        self._records = records
        self._journal = journal
        self.losses: list[Record] = []
        while found := journal.get([self._loss_key()]):
            self.losses += found.values()

    @contextmanager
    def of(self, part: ScoreRequest) -> Iterator[ScoreRequest]:
        """The part with what is left of the allowance; a loss within is written down."""
        sent = self._sent()
        allowed = self._allowed(part, sent)
        try:
            yield allowed
        except SpentError as error:
            # What came of it is in the records by now; the rest was lost.
            self._lose(part, sent + error.sent - self._sent())
            raise self._spent(str(error)) from error
        except BaseException as error:
            self._lose(part, take_lost(error))
            raise

    def _allowed(self, part: ScoreRequest, sent: int) -> ScoreRequest:
        if self._request.max_sent is None:
            return part
        pending, left = len(self._pending()), self._request.max_sent - sent
        if left < pending:
            raise self._spent(
                f"{pending} replies are missing, and only {max(0, left)} more queries may be sent "
                "for them"
            )
        return part if left == part.max_sent else replace(part, max_sent=left)

    def _lose(self, part: ScoreRequest, queries: int) -> None:
        """Writes down queries that were sent in vain; they count as the others of the part."""
        if queries <= 0:
            return
        tokens = round(queries * float(self._inner.count_tokens(part).mean()))
        written = queries * self._inner.capabilities.output_tokens
        usage = Usage(tokens=tokens, output_tokens=written, lost=queries)
        loss = Record.loss(usage, self._request.purpose)
        self._journal.put({self._loss_key(): loss})
        self.losses.append(loss)

    def _loss_key(self) -> bytes:
        """The key of the next loss."""
        return loss_key(self._keys, self._request.max_sent, len(self.losses))

    def _spent(self, message: str) -> SpentError:
        answered = self._request.queries - len(self._pending())
        return SpentError(message, self._sent(), self._sent() - answered)

    def _pending(self) -> list[bytes]:
        return [key for key in self._keys if key not in self._records]

    def _sent(self) -> int:
        """Queries as asked, those answered and those lost."""
        known = [self._records[key] for key in self._keys if key in self._records]
        answered = self._request.queries - len(self._pending())
        return answered + sum(record.usage.lost for record in [*known, *self.losses])
