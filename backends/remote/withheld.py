"""What a server's content filter stops: counted, told, and no end of a run.

Filters stop harmless texts too, and a task about rude ones lives on what they stop. Such a text has
no answer: its labels are all alike, as where an answer names none (``Usage.unparsed``), and the
heads learn what that is worth.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.jobs import PartReply, words_of
from blackbox_delta.errors import RejectedError
from blackbox_delta.types import Prompt

logger = logging.getLogger(__name__)

#: So many, and not one answer: the filter stops the template, not some texts.
_TOO_MANY = 20


class Withheld:
    """Of all the questions that one backend asks its server.

    Args:
        connection: The server.

    Attributes:
        count: Questions whose text or answer was stopped.
        answered: All others.
    """

    def __init__(self, connection: Connection) -> None:
        self.count = self.answered = 0
        self._connection = connection
        self._first = ""
        self._told = 0

    def take(self, part: PartReply, prompts: Sequence[Prompt]) -> None:
        """Counts those of one HTTP reply.

        Args:
            part: The reply.
            prompts: What its pairs are about.

        Raises:
            RejectedError: A good many were stopped, and nothing else ever came.
        """
        self.answered += len(part.pairs) - part.withheld
        self.count += part.withheld
        if part.withheld and not self._first:
            about = self._connection.excerpt(words_of(prompts[part.pairs[0][1]]))
            self._first = f"({part.reason}), the first about {about!r}"
        if self.count >= _TOO_MANY and not self.answered:
            raise RejectedError(
                f"{self._connection.base_url}: a content filter stopped all of {self.count} "
                f"questions {self._first}; change the template or the filter's settings"
            )

    def tell(self) -> None:
        """Warns of the first, and again whenever they have become ten times as many."""
        if not self.count or self.count < 10 * self._told:
            return
        self._told = self.count
        logger.warning(
            "%s: a content filter stopped %d of %d questions so far %s. They count as answers "
            "that name no label, and may be billed",
            self._connection.base_url,
            self.count,
            self.count + self.answered,
            self._first,
        )
