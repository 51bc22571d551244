"""What answers: one way of asking the model and the head behind it, or several of them pooled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from blackbox_delta.heads.probabilities import log_softmax
from blackbox_delta.problem import Frame, Reader, ask
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Evidence,
    Example,
    FittedHead,
    Json,
    Prompt,
    ScoreRequest,
    Scores,
    Vector,
)

#: What evidence depends on: template and label words, and the bytes of a delta.
Source: TypeAlias = tuple[Reader, bytes]


@dataclass(frozen=True)
class Member:
    """One way to answer: how a text is put to the model, under which delta, and the head.

    Attributes:
        name: What reports call it.
        reader: Template and label words.
        head: The fitted output side.
        weight: Its say among the members.
        frame: What z moves; ``None`` where there is no delta.
        z: (d,), likewise.
    """

    name: str
    reader: Reader
    head: FittedHead
    weight: float = 1.0
    frame: Frame | None = None
    z: Vector | None = None

    @cached_property
    def delta(self) -> DeltaBatch | None:
        """The one candidate that z stands for, made once."""
        return None if self.frame is None or self.z is None else self.frame.candidates(self.z[None])

    @property
    def moved(self) -> bool:
        """Whether a search moved its delta: one at z = 0 is the untuned model, or plain words."""
        return self.frame is not None and self.z is not None and bool(np.any(self.z))

    @property
    def source(self) -> Source:
        """What its evidence depends on: members that agree in it share replies."""
        delta = self.delta
        return self.reader, b"" if delta is None else delta.digest(0)

    def request(self, prompts: Sequence[Prompt], top_k: int, purpose: str) -> ScoreRequest:
        """Asks about prompts of its own reader."""
        return ScoreRequest(prompts, self.reader.choices, self.delta, top_k, purpose=purpose)


@dataclass(frozen=True)
class Panel:
    """Members that answer together. Those that ask alike share replies.

    Attributes:
        members: One at least.
        sharpness: A factor on their pooled log-probabilities.
    """

    members: tuple[Member, ...]
    sharpness: float = 1.0

    @cached_property
    def ways(self) -> dict[Source, Member]:
        """The ways of asking, with a member for each."""
        return dict(zip(self._sources, self.members, strict=True))

    @property
    def top_k(self) -> int:
        """Top tokens to ask for: as many as the neediest head wants."""
        return max(member.head.top_k for member in self.members)

    def replies(
        self, backend: Backend, examples: Sequence[Example], purpose: str
    ) -> Iterator[tuple[Source, Scores]]:
        """What the model says to n examples, asked in one way after the other.

        Raises:
            BackendError: No sound reply could be had.
        """
        for source, member in self.ways.items():
            request = member.request(member.reader.prompts(examples), self.top_k, purpose)
            yield source, ask(backend, request)

    def answer(self, seen: Mapping[Source, Evidence]) -> Vector:
        """Log class probabilities (n, c) from what the model said to each of :attr:`ways`."""
        asked = zip(self._sources, self.members, strict=True)
        said = [member.head.log_proba(seen[source]) for source, member in asked]
        return pool(said, [member.weight for member in self.members], self.sharpness)

    @cached_property
    def _sources(self) -> list[Source]:
        """Of each member; to find them, every delta is unpacked."""
        return [member.source for member in self.members]


@dataclass(frozen=True)
class Found:
    """What a run ends with.

    Attributes:
        baseline: The untuned model behind the calibrated verbalizer, which the result is compared
            with.
        members: What answers from now on, the weightiest first; may be the baseline.
        details: What the recipe reports of its own, ready for JSON.
        sharpness: A factor on the members' pooled log-probabilities.
        optimizer_seconds: Time in the optimizer.
        head_seconds: Time in heads.
    """

    baseline: Member
    members: tuple[Member, ...]
    details: Json
    sharpness: float = 1.0
    optimizer_seconds: float = 0.0
    head_seconds: float = 0.0

    @property
    def panel(self) -> Panel:
        """What answers from now on, together."""
        return Panel(self.members, self.sharpness)


def pool(log_probas: Sequence[Vector], weights: Sequence[float], sharpness: float = 1.0) -> Vector:
    """Members' log class probabilities (n, c) made one: a logarithmic opinion pool.

    The weighted mean of the log-probabilities (Genest and Zidek 1986, "Combining probability
    distributions", Statistical Science 1), sharpened, since members that err independently are
    surer together than each alone.

    Args:
        log_probas: One (n, c) array a member, finite.
        weights: Not negative, with a positive sum.
        sharpness: A factor on the mean.
    """
    shares = np.asarray(weights) / np.sum(weights)
    mean = np.einsum("m,mnc->nc", shares, np.stack(log_probas))
    return log_softmax(sharpness * mean)
