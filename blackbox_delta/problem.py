"""What stays the same during a run: rendered prompts, choices, labels and the delta's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from blackbox_delta.deltas import TEXT, SoftPrompt
from blackbox_delta.errors import ConfigError, DataError, UnsupportedError
from blackbox_delta.journal import check_reply
from blackbox_delta.settings import Settings
from blackbox_delta.subspaces import RandomSubspace
from blackbox_delta.tasks import (
    DEFAULT_STARTS,
    FewShotSplit,
    Template,
    Verbalizer,
    default_template,
)
from blackbox_delta.types import (
    Backend,
    Delta,
    DeltaBatch,
    EmbeddingTable,
    Example,
    IntArray,
    Prompt,
    ScoreRequest,
    Scores,
    Vector,
)

#: Length of soft slots for which nothing else says it.
SOFT_TOKENS = 10
#: d unless something else is asked for, as in Black-Box Tuning; a smaller delta takes its own D.
DIMENSION = 500


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


@dataclass(frozen=True)
class Frame:
    """The delta and the subspace in which it is searched: z to candidates.

    Attributes:
        delta: What is tuned.
        subspace: Where it is searched.
    """

    delta: Delta
    subspace: RandomSubspace

    def candidates(self, z: Vector) -> DeltaBatch:
        """z (λ, d) to λ candidates, by way of θ (λ, D)."""
        return self.delta.unpack(self.subspace.project(z, self.delta.origin))


@dataclass(frozen=True)
class Part:
    """One set of labelled examples, ready to be asked about.

    Attributes:
        prompts: n prompts.
        labels: (n,) positions among the labels.
    """

    prompts: list[Prompt]
    labels: IntArray

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
        words: What the delta starts from, which the untuned model then reads too; ``None`` where
            it starts from something that is no text.
        rivals: The same task with a delta that starts from other words. The search begins with
            whichever of them answers the training examples best.
    """

    reader: Reader
    train: Part
    dev: Part
    test: Part
    frame: Frame | None
    words: str | None = None
    rivals: tuple[Problem, ...] = ()

    @property
    def start(self) -> Vector | None:
        """z of the untuned model: zeros where the slot starts from words, else no delta at all."""
        if self.frame is None or self.words is None:
            return None
        return np.zeros(self.frame.subspace.dimension)

    def delta(self, z: Vector | None) -> DeltaBatch | None:
        """The one candidate that z (d,) stands for; ``None`` for no delta."""
        return None if self.frame is None or z is None else self.frame.candidates(z[None])

    def request(
        self, prompts: Sequence[Prompt], delta: DeltaBatch | None, top_k: int
    ) -> ScoreRequest:
        """A request about the given prompts."""
        return ScoreRequest(prompts, self.reader.choices, delta, top_k)


def build_problem(backend: Backend, split: FewShotSplit, settings: Settings) -> Problem:
    """Renders a split for a backend and sets up the search space; asks nothing of the model.

    Raises:
        DataError: A part is empty, or there are fewer than two classes.
        TemplateError: The template does not fit the data.
        VerbalizerError: The label words do not fit the labels.
        UnsupportedError: The backend cannot read the template or take the delta.
        ConfigError: The delta or the subspace makes no sense.
    """
    labels = _labels(split)
    pairs = split.train[0].text_pair is not None
    template = Template.parse(settings.template or default_template(pairs))
    template.check(pairs)
    verbalizer = Verbalizer.build(labels, settings.label_words)
    reader = Reader(template, verbalizer)
    reader.check(backend)
    train, dev, test = (
        Part(reader.prompts(part), verbalizer.encode(part))
        for part in (split.train, split.dev, split.test)
    )
    inits = _inits(settings, verbalizer)
    frames = _frames(backend, template, settings, inits)
    first, *rivals = (
        Problem(reader, train, dev, test, frame, _words(init))
        for frame, init in zip(frames, inits, strict=True)
    )
    return replace(first, rivals=tuple(rivals))


def _inits(settings: Settings, verbalizer: Verbalizer) -> list[str | None]:
    """What the delta may start from; several where the user left it open."""
    if settings.soft_init is None:
        return [None] if settings.template else [TEXT + words for words in DEFAULT_STARTS]
    options = ", ".join(verbalizer.words)
    return [settings.soft_init.replace("{options}", options).replace("\\n", "\n")]


def _words(init: str | None) -> str | None:
    return init.removeprefix(TEXT) if init and init.startswith(TEXT) else None


def _labels(split: FewShotSplit) -> list[str]:
    if not split.train or not split.dev:
        raise DataError("the split needs training and development examples and lacks one of them")
    labels = sorted({str(example.label) for example in split.train})
    if len(labels) < 2:
        raise DataError(
            f"all training examples have the label '{labels[0]}'; a classifier needs at least "
            "two classes"
        )
    return labels


def _frames(
    backend: Backend, template: Template, settings: Settings, inits: Sequence[str | None]
) -> list[Frame | None]:
    """One frame for each start, all of the same search dimension; none without a slot."""
    if not template.slots:
        return [None for _ in inits]
    table = _embedding_table(backend)
    deltas = [_delta(table, template, settings, init) for init in inits]
    smallest = min(delta.size for delta in deltas)
    dimension = settings.dimension or min(DIMENSION, smallest)
    if dimension > smallest:
        raise ConfigError(
            f"dimension = {dimension} is more than the {smallest} numbers of the soft prompt; give "
            f"at most {smallest}"
        )
    return [
        Frame(
            delta,
            RandomSubspace(
                dimension,
                delta.size,
                settings.seed,
                settings.scale * delta.scale,
                settings.subspace,
            ),
        )
        for delta in deltas
    ]


def _delta(
    table: EmbeddingTable, template: Template, settings: Settings, init: str | None
) -> SoftPrompt:
    return SoftPrompt.build(
        {slot.name: slot.length or settings.soft_tokens for slot in template.slots},
        table,
        tokens=SOFT_TOKENS,
        init=init,
        rng=np.random.Generator(np.random.PCG64([settings.seed, 1])),
    )


def _embedding_table(backend: Backend) -> EmbeddingTable:
    table = backend.embedding_table
    if table is None or SoftPrompt.kind not in backend.capabilities.deltas:
        raise UnsupportedError(
            f"{backend.name} takes no soft prompts; use a template without {{soft}}, so that only "
            "the output side is tuned"
        )
    return table
