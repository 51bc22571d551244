"""What stays the same during a run: rendered prompts, choices, labels and the delta's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.deltas import SoftPrompt
from blackbox_delta.errors import ConfigError, UnsupportedError
from blackbox_delta.settings import Settings
from blackbox_delta.subspaces import RandomSubspace
from blackbox_delta.tasks import (
    DEFAULT_INIT,
    FewShotSplit,
    Template,
    Verbalizer,
    default_template,
)
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    EmbeddingTable,
    Example,
    Head,
    IntArray,
    Prompt,
    ScoreRequest,
    Vector,
)


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


def top_k(head: Head, backend: Backend) -> int:
    """How many top tokens to ask for: what the head wants, as far as the backend goes."""
    return min(head.top_k, backend.capabilities.max_top_k)


@dataclass(frozen=True)
class Frame:
    """The delta and the subspace in which it is searched: z to candidates.

    Attributes:
        delta: What is tuned.
        subspace: Where it is searched.
    """

    delta: SoftPrompt
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
        plain_start: Whether the delta starts from words, which the untuned model then reads too.
    """

    reader: Reader
    train: Part
    dev: Part
    test: Part
    frame: Frame | None
    plain_start: bool

    @property
    def start(self) -> Vector | None:
        """z of the untuned model: zeros where the slot starts from words, else no delta at all."""
        if self.frame is None or not self.plain_start:
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
        TemplateError: The template does not fit the data.
        VerbalizerError: The label words do not fit the labels.
        UnsupportedError: The backend cannot read the template or take the delta.
        ConfigError: The delta or the subspace makes no sense.
    """
    pairs = split.train[0].text_pair is not None
    template = Template.parse(settings.template or default_template(pairs))
    template.check(pairs)
    labels = sorted({str(example.label) for example in split.train})
    verbalizer = Verbalizer.build(labels, settings.label_words)
    reader = Reader(template, verbalizer)
    reader.check(backend)
    init = settings.soft_init
    if init is None and settings.template is None:
        init = DEFAULT_INIT
    if init is not None:
        init = init.replace("{options}", ", ".join(verbalizer.words)).replace("\\n", "\n")
    train, dev, test = (
        Part(reader.prompts(part), verbalizer.encode(part))
        for part in (split.train, split.dev, split.test)
    )
    frame = _frame(backend, template, settings, init)
    plain_start = init is not None and init.startswith("text:")
    return Problem(reader, train, dev, test, frame, plain_start)


def _frame(
    backend: Backend, template: Template, settings: Settings, init: str | None
) -> Frame | None:
    if not template.slots:
        return None
    table = _embedding_table(backend)
    rng = np.random.Generator(np.random.PCG64([settings.seed, 1]))
    delta = SoftPrompt.build(
        {slot.name: slot.length for slot in template.slots},
        table,
        tokens=settings.soft_tokens,
        init=init,
        rng=rng,
    )
    if settings.dimension > delta.size:
        raise ConfigError(
            f"dimension = {settings.dimension} is more than the {delta.size} numbers of the soft "
            f"prompt; give at most {delta.size}"
        )
    scale = settings.scale * delta.scale
    subspace = RandomSubspace(
        settings.dimension, delta.size, settings.seed, scale, settings.subspace
    )
    return Frame(delta, subspace)


def _embedding_table(backend: Backend) -> EmbeddingTable:
    table = backend.embedding_table
    if table is None or SoftPrompt.kind not in backend.capabilities.deltas:
        raise UnsupportedError(
            f"{backend.name} takes no soft prompts; use a template without {{soft}}, so that only "
            "the output side is tuned"
        )
    return table
