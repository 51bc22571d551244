"""What stays the same during a run: rendered prompts, choices, labels and the delta's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from blackbox_delta.errors import DataError
from blackbox_delta.problem.earlier import EarlierDelta
from blackbox_delta.problem.frame import Frame, build_frames
from blackbox_delta.problem.reader import Reader
from blackbox_delta.problem.starts import find_starts
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    FewShotSplit,
    Template,
    Verbalizer,
)
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Example,
    IntArray,
    Prompt,
    ScoreRequest,
    Vector,
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
    verbalizer = Verbalizer.build(labels_of(split, settings), settings.label_words)
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


def labels_of(split: FewShotSplit, settings: Settings) -> list[str]:
    """The c classes of a split that can be tuned on.

    Raises:
        DataError: A part is empty, or there are fewer than two classes.
    """
    if not split.train or (settings.uses_development and not split.dev):
        raise DataError("the split needs training and development examples and lacks one of them")
    labels = sorted({str(example.label) for example in split.train})
    if len(labels) < 2:
        raise DataError(
            f"all training examples have the label '{labels[0]}'; a classifier needs at least "
            "two classes"
        )
    return labels
