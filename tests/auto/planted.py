"""A toy model in which the tests plant how well each way of asking works, and tasks for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.views import WORDS, View
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BackendError
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Part, Problem, Reader, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, Template, Verbalizer
from blackbox_delta.types import (
    AnswerSlot,
    Backend,
    Capabilities,
    Example,
    IntArray,
    Json,
    Prompt,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    Vector,
    Words,
)

#: Tokens beside the label words.
OTHERS = 12
NAMES = tuple(f"class{k}" for k in range(77))
TEXT_ONLY = Capabilities(frozenset(), False, False, OTHERS)


def said(prompt: Prompt) -> str:
    """All that the model reads before the answer."""
    before = prompt.segments[: prompt.segments.index(AnswerSlot())]
    return "".join(each.text for each in before if isinstance(each, Words))


def asked_text(prompt: Prompt) -> str:
    """The user's text in a prompt: its first truncatable piece."""
    texts = [each.text for each in prompt.segments if isinstance(each, Words) and each.truncatable]
    return texts[0] if texts else ""


def around(prompt: Prompt) -> str:
    """What stands around the user's texts: the same for all prompts of a view."""
    words = [each for each in prompt.segments if isinstance(each, Words)]
    return "".join("…" if each.truncatable else each.text for each in words)


@lru_cache(maxsize=200_000)
def noise(text: str, size: int) -> Vector:
    """Standard normal numbers that a text determines."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(size)


@dataclass
class Planted:
    """A model that knows a text's class, and says it as loudly as the view deserves.

    A text belongs to the class whose name is its last word; a text without one to none.

    Attributes:
        quality: From what stands around a text to the nats by which its class is made likelier.
        spread: Deviation of the noise, in nats.
        capabilities: As for any backend.
        billed: What a token that was counted is billed as, for models that estimate.
        fail_at: Numbers of the calls that raise ``BackendError``; the first is 1.
        asked: Times that each prompt was asked about.
        requests: All answered ones.
    """

    quality: Callable[[str], float] = lambda _: 1.0
    spread: float = 1.0
    capabilities: Capabilities = TEXT_ONLY
    billed: float = 1.0
    fail_at: Collection[int] = ()
    asked: Counter[Prompt] = field(default_factory=Counter)
    requests: list[ScoreRequest] = field(default_factory=list)
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    name: str = "planted"
    identity: Mapping[str, str] = field(default_factory=lambda: {"backend": "planted"})
    fingerprint: str = "planted"
    embedding_table: None = None
    address: Json = field(default_factory=dict)

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.calls += 1
        if self.calls in self.fail_at:
            raise BackendError(f"told to fail at call {self.calls}")
        assert request.top_k <= self.capabilities.max_top_k
        assert request.delta is None
        self.requests.append(request)
        self.asked.update(request.prompts)
        logits = np.array([self._logits(prompt, request.choices) for prompt in request.prompts])
        logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
        ids = np.argsort(-logits, axis=1, kind="stable")[:, : request.top_k]
        top = np.take_along_axis(logits, ids, axis=1)
        tokens = round(int(self.count_tokens(request).sum()) * self.billed)
        written = len(request.prompts) * self.capabilities.output_tokens
        # A power of two, so that seconds add up exactly in whatever order.
        usage = Usage(request.queries, tokens, tokens, request.queries / 128, written)
        self.usage = self.usage + usage
        labels = logits[:, : len(request.choices)]
        return Scores(
            labels[None].astype(np.float32),
            ids[None].astype(np.int64),
            top[None].astype(np.float32),
            usage,
        )

    def _logits(self, prompt: Prompt, choices: Sequence[str]) -> Vector:
        c, words = len(choices), [choice.strip() for choice in choices]
        logits = self.spread * noise(said(prompt), c + OTHERS)
        last = asked_text(prompt).split()[-1:]
        if last and last[0] in words:
            mine = words.index(last[0])
            logits[mine] += self.quality(around(prompt))
            logits[c + mine % OTHERS] += self.quality(around(prompt))
        return np.asarray(logits)

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        return np.array([1 + len(said(prompt).split()) for prompt in request.prompts])

    def close(self) -> None:
        """Nothing to release."""


def examples(sizes: Iterable[int], start: int = 0, by_lot: int | None = None) -> list[Example]:
    """Texts of classes of such sizes, the classes taking turns; labels drawn by lot if asked."""
    sizes = list(sizes)
    names = [NAMES[k] for at in range(max(sizes)) for k, size in enumerate(sizes) if at < size]
    texts = [f"text {start + number} of {name}" for number, name in enumerate(names)]
    if by_lot is not None:
        names = [names[at] for at in np.random.default_rng(by_lot).permutation(len(names))]
    return [Example(text, label=name) for text, name in zip(texts, names, strict=True)]


def split(
    sizes: Sequence[int], *, test: int = 0, start: int = 0, by_lot: int | None = None
) -> FewShotSplit:
    """Classes of such sizes; ``test`` texts a class for testing, no development part."""
    train = tuple(examples(sizes, start, by_lot))
    others = examples([test] * len(sizes), start + 5000, by_lot) if test else []
    return FewShotSplit(train, (), tuple(others), min(sizes), 0)


def problem_of(backend: Backend, data: FewShotSplit, **settings: Any) -> Problem:
    return build_problem(backend, data, Settings.of(settings))


def asker_of(
    backend: Backend, problem: Problem, budget: int = 10**6, head: str = "anchored"
) -> Asker:
    """Pays in queries."""
    chosen = make_head(head, backend.capabilities.max_top_k)
    return Asker(backend, problem, chosen, Budget(budget, "queries"))


def bare_problem(sizes: Sequence[int], template: str = "Text: {text} It is {label}") -> Problem:
    """A problem of one template, made by hand."""
    parts = examples(sizes)
    verbalizer = Verbalizer.build(sorted({str(each.label) for each in parts}))
    reader = Reader(Template.parse(template), verbalizer)
    part = Part(reader.prompts(parts), verbalizer.encode(parts), tuple(parts))
    empty = Part([], np.zeros(0, np.int64))
    return Problem(reader, part, empty, empty, None)


def worded(problem: Problem, words: str, rows: IntArray | None = None) -> View:
    """A view of its own words."""
    template = Template.parse(f"Text: {{text}} {words} {{label}}")
    every = np.arange(len(problem.train))
    reader = replace(problem.reader, template=template)
    return View(words, reader, every if rows is None else rows)


def seen_of(held_out: Vector, name: str = "", kind: str = WORDS) -> Seen:
    """A view with such held-out predictions; NaN where it was not asked."""
    problem = bare_problem([2, 2])
    rows = np.flatnonzero(np.isfinite(held_out[:, 0]))
    return Seen(replace(worded(problem, name or "It is", rows), kind=kind), held_out, rows)
