"""What stays the same during a run: rendered prompts, choices, labels and the delta's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from blackbox_delta._problem_earlier import EarlierDelta
from blackbox_delta._problem_frame import DIMENSION, Frame, build_frames
from blackbox_delta._problem_starts import find_starts, starts_in_words
from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import DataError, SpentError, UnsupportedError
from blackbox_delta.journal import check_reply
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    FewShotSplit,
    Template,
    Verbalizer,
)
from blackbox_delta.tasks.templates import escaped
from blackbox_delta.types import (
    AnswerSlot,
    Backend,
    DecoderStart,
    DeltaBatch,
    Example,
    Head,
    IntArray,
    Prompt,
    ScoreRequest,
    Scores,
    Usage,
    Vector,
    Words,
)

__all__ = [
    "DIMENSION",
    "EarlierDelta",
    "Frame",
    "Part",
    "Problem",
    "Reader",
    "ask",
    "ask_within",
    "build_problem",
    "starts_in_words",
]


@dataclass(frozen=True)
class Reader:
    """How an example becomes a prompt and a reply a label: template and label words.

    Attributes:
        template: The parsed template.
        verbalizer: Labels and their words.
    """

    template: Template
    verbalizer: Verbalizer

    @property
    def choices(self) -> tuple[str, ...]:
        """The c label words as they continue the prompt."""
        return self.verbalizer.choices(self.template.choice_prefix)

    def prompts(self, examples: Sequence[Example]) -> list[Prompt]:
        """One prompt per example."""
        return [self.template.render(example, self.verbalizer.words) for example in examples]

    def references(self, head: Head) -> list[Prompt]:
        """One prompt for each of the head's own texts; in templates of pairs it stands alone."""
        second = "" if self.template.uses_pair else None
        texts = head.references(self.verbalizer.words)
        return self.prompts([Example(text, second) for text in texts])

    def demonstrating(self, examples: Sequence[Example]) -> Reader:
        """The same, with labelled examples before every prompt, filled in.

        In-context learning (Brown et al. 2020, arXiv 2005.14165). They become part of the
        template, so that an artifact keeps them and a local model reads them once.
        """
        filled = "".join(self._filled(example) + "\n\n" for example in examples)
        source = escaped(filled) + self.template.source
        return replace(self, template=Template.parse(source))

    def _filled(self, example: Example) -> str:
        """The template as it reads with its texts and its label word."""
        word = self.choices[self.verbalizer.index(example.label)]
        prompt = self.template.render(example, self.verbalizer.words)
        # Where a decoder would begin, nothing but a space parts the label from what is before it.
        stands_in = {AnswerSlot(): word, DecoderStart(): " "}
        return "".join(
            each.text if isinstance(each, Words) else stands_in.get(each, "")
            for each in prompt.segments
        )

    def check(self, backend: Backend) -> None:
        """Checks that the backend can read this template.

        Raises:
            UnsupportedError: It cannot.
        """
        able = backend.capabilities
        if self.template.uses_decoder and not able.decoder_slot:
            raise UnsupportedError(
                f"the template has a {{decoder}} part, but {backend.name} has no decoder of its "
                "own; leave {decoder} out"
            )
        if self.template.text_after_answer and not able.text_after_answer:
            raise UnsupportedError(
                f"the template goes on after {{label}}, but {backend.name} reads from left to "
                "right and would not see it; put {label} last"
            )


def ask(backend: Backend, request: ScoreRequest) -> Scores:
    """A reply that may be used.

    Raises:
        BackendError: No sound reply could be had.
    """
    reply = backend.score(request)
    check_reply(request, reply)
    return reply


def ask_within(budget: Budget, backend: Backend, request: ScoreRequest, calls: int) -> Scores:
    """A reply that may be used, of which no more is sent than the budget pays for.

    Args:
        budget: Charged with what it cost, also if it came to nothing.
        backend: The model.
        request: What is asked; how much of it may be sent is filled in.
        calls: What the reply is charged as in calls.

    Raises:
        BackendError: No sound reply could be had.
        SpentError: Replies were lost, and the budget ran out over it.
    """
    counts = backend.count_tokens(request)
    tokens = int(counts.sum()) * request.candidates
    written = request.queries * backend.capabilities.output_tokens
    need = Need("the next request", 0, request.queries, tokens, written)
    most = budget.most_sent(need, int(counts.max(initial=0)))
    try:
        scores = ask(backend, replace(request, max_sent=most))
    except SpentError as error:
        budget.charge(_in_vain(need, error), calls=0)
        raise
    budget.charge(scores.usage, calls)
    return scores


def _in_vain(need: Need, error: SpentError) -> Usage:
    """What queries cost that were sent for nothing; nobody says, so they count as all others."""
    share = error.sent / need.queries
    return Usage(
        error.sent - error.lost,
        round(need.tokens * share),
        output_tokens=round(need.output_tokens * share),
        lost=error.lost,
    )


@dataclass(frozen=True)
class Part:
    """One set of labelled examples, ready to be asked about.

    Attributes:
        prompts: n prompts.
        labels: (n,) positions among the labels.
        examples: The n examples themselves.
    """

    prompts: list[Prompt]
    labels: IntArray
    examples: tuple[Example, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Problem:
    """A few-shot task put to one model.

    Attributes:
        reader: Template and label words.
        train: What the search sees.
        dev: What decides among its results.
        test: What only the final score sees; may be empty.
        frame: The delta and its subspace, or ``None`` where only the output side is tuned.
        words: What the delta starts from, or what stands in its place in the template of a model
            that takes text only; the untuned model reads them too. ``None`` where there are none.
        rivals: The same task with other words, in the delta or in the template, whose reader and
            prompts are then others too. The search begins with whichever of them answers the
            training examples best.
        texts: Texts without labels to learn from; often none.
    """

    reader: Reader
    train: Part
    dev: Part
    test: Part
    frame: Frame | None
    words: str | None = None
    rivals: tuple[Problem, ...] = ()
    texts: tuple[Example, ...] = ()

    @property
    def start(self) -> Vector | None:
        """z of the untuned model: zeros where the slot starts from words, else no delta at all."""
        if self.frame is None or self.words is None or not self.reader.template.slots:
            return None
        return np.zeros(self.frame.subspace.dimension)

    def delta(self, z: Vector | None) -> DeltaBatch | None:
        """The one candidate that z (d,) stands for; ``None`` for no delta."""
        return None if self.frame is None or z is None else self.frame.candidates(z[None])

    def request(
        self,
        prompts: Sequence[Prompt],
        delta: DeltaBatch | None,
        top_k: int = 0,
        purpose: str = "",
    ) -> ScoreRequest:
        """A request about the given prompts; see :class:`blackbox_delta.types.ScoreRequest`."""
        return ScoreRequest(prompts, self.reader.choices, delta, top_k, purpose=purpose)


def build_problem(
    backend: Backend,
    split: FewShotSplit,
    settings: Settings,
    earlier: Sequence[EarlierDelta] = (),
) -> Problem:
    """Renders a split for a backend and sets up the search space; asks nothing of the model.

    Args:
        backend: The model.
        split: Training, development and test examples.
        settings: How it is to be tuned.
        earlier: What spans the search space; none for a random one.

    Raises:
        DataError: A part is empty, or there are fewer than two classes.
        TemplateError: The template does not fit the data.
        VerbalizerError: The label words do not fit the labels.
        UnsupportedError: The backend cannot read the template or take the delta.
        ConfigError: The delta or the subspace makes no sense.
    """
    verbalizer = Verbalizer.build(_labels(split, settings), settings.label_words)
    pairs = _pairs(split)
    starts = find_starts(backend, settings, verbalizer, pairs)
    sources = dict.fromkeys(start.source for start in starts)
    readings = {source: _read(backend, split, source, verbalizer) for source in sources}
    slots = [(readings[start.source].reader.template, start.init) for start in starts]
    frames = build_frames(backend, slots, settings, earlier)
    first, *rivals = (
        Problem(*readings[start.source], frame, start.words)
        for start, frame in zip(starts, frames, strict=True)
    )
    return replace(first, rivals=tuple(rivals))


class _Reading(NamedTuple):
    """A split as one template puts it."""

    reader: Reader
    train: Part
    dev: Part
    test: Part


def _read(backend: Backend, split: FewShotSplit, source: str, verbalizer: Verbalizer) -> _Reading:
    template = Template.parse(source)
    template.check(split.train[0].text_pair is not None)
    reader = Reader(template, verbalizer)
    reader.check(backend)
    train, dev, test = (
        Part(reader.prompts(part), verbalizer.encode(part), tuple(part))
        for part in (split.train, split.dev, split.test)
    )
    return _Reading(reader, train, dev, test)


def _pairs(split: FewShotSplit) -> bool:
    """Whether all examples are pairs; else all are single texts."""
    pairs = split.train[0].text_pair is not None
    for part in ("train", "dev", "test"):
        for number, example in enumerate(getattr(split, part)):
            if (example.text_pair is not None) is not pairs:
                raise DataError(
                    f"{part} example {number} is a {'single text' if pairs else 'pair'}, the first "
                    f"training example a {'pair' if pairs else 'single text'}; a task has one kind"
                )
    return pairs


def _labels(split: FewShotSplit, settings: Settings) -> list[str]:
    if not split.train or (settings.uses_development and not split.dev):
        raise DataError("the split needs training and development examples and lacks one of them")
    labels = sorted({str(example.label) for example in split.train})
    if len(labels) < 2:
        raise DataError(
            f"all training examples have the label '{labels[0]}'; a classifier needs at least "
            "two classes"
        )
    return labels
