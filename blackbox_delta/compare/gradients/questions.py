"""A trial as token ids: what the model reads and which tokens answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.backends.prompt_encoder import Ids, PromptEncoder
from blackbox_delta.compare.contract import Trial
from blackbox_delta.errors import DataError
from blackbox_delta.problem import Reader
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import Example, IntArray, Prompt, SoftSlot, Words

#: Longer prompts are cut in the users' texts: a long one costs as much as ten ordinary ones.
MAX_TOKENS = 512


@dataclass(frozen=True)
class Part:
    """Labelled prompts.

    Attributes:
        prompts: n prompts.
        labels: (n,) positions among the labels.
    """

    prompts: list[Ids]
    labels: IntArray

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tokens(self) -> int:
        """Prompt tokens of all of them."""
        return sum(map(len, self.prompts))


@dataclass(frozen=True)
class Questions:
    """What is asked of the model.

    Attributes:
        train: The training examples.
        dev: The development examples.
        test: The test examples' prompts.
        choices: The c label words.
        frame: The template's own words, without any example's; a label word where it has none.
    """

    train: Part
    dev: Part
    test: list[Ids]
    choices: list[Ids]
    frame: Ids


def put(trial: Trial, loaded: LoadedModel, virtual_tokens: int) -> Questions:
    """Renders and tokenizes a trial.

    Args:
        trial: What is compared on.
        loaded: The model that is asked.
        virtual_tokens: Room that a method's own tokens take of the model's context.

    Raises:
        DataError: There are fewer than two classes, or an example's label is none of them.
        TemplateError: The template does not fit the data, or leaves the texts no room.
        VerbalizerError: The label words do not fit the labels, or the tokenizer cannot tell them
            apart.
        UnsupportedError: The model cannot read the template.
    """
    reader = _reader(trial)
    limit = min(MAX_TOKENS, _context(loaded) - virtual_tokens)
    encoder = PromptEncoder(loaded.tokenizer, loaded.kind, limit)
    choices = encoder.choices(reader.choices)
    room = max(map(len, choices))
    (empty,) = reader.prompts([Example("", "" if reader.template.uses_pair else None)])
    words = "".join(piece.text for piece in empty.segments if isinstance(piece, Words))

    def ids(prompts: Sequence[Prompt]) -> list[Ids]:
        return [_flat(encoder.encode(prompt, {}, room).before) for prompt in prompts]

    def part(examples: Sequence[Example]) -> Part:
        return Part(ids(reader.prompts(examples)), reader.verbalizer.encode(examples))

    return Questions(
        train=part(trial.split.train),
        dev=part(trial.split.dev),
        test=ids(reader.prompts(trial.split.test)),
        choices=choices,
        frame=tuple(encoder.tokenize(words)) or choices[0],
    )


def _reader(trial: Trial) -> Reader:
    labels = sorted({str(example.label) for example in trial.split.train})
    if len(labels) < 2:
        raise DataError(
            f"the training examples have {len(labels)} class; a classifier needs at least two"
        )
    template = Template.parse(trial.template)
    template.check(trial.split.train[0].text_pair is not None)
    reader = Reader(template, Verbalizer.build(labels, trial.label_words))
    reader.check(trial.backend)
    return reader


def _flat(pieces: Sequence[Ids | SoftSlot]) -> Ids:
    """One sequence; a slot of the template's own stays empty."""
    return tuple(id_ for piece in pieces if not isinstance(piece, SoftSlot) for id_ in piece)


def _context(loaded: LoadedModel) -> int:
    config: Any = loaded.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    limits = (positions, loaded.tokenizer.model_max_length)
    return min(int(limit) for limit in (*limits, 1 << 24) if limit)
