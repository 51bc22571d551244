"""What the methods without gradients share: the trial's prompts, and asking about them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blackbox_delta.artifact import Artifact
from blackbox_delta.compare.contract import Step, Trial
from blackbox_delta.members import Member
from blackbox_delta.problem import Reader, ask
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import Backend, Evidence, Example, FittedHead, ScoreRequest, Usage

#: Examples in one request, so that a display can move and a kill loses little.
PIECE = 128


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The c labels in the order of the columns of every method's answers: sorted."""
    return tuple(sorted({str(example.label) for example in examples}))


def reader_of(trial: Trial, source: str | None = None) -> Reader:
    """How the trial's examples become prompts.

    Args:
        trial: The examples and the label words.
        source: A template in place of the trial's.

    Raises:
        TemplateError: The template does not fit the examples.
        VerbalizerError: The label words do not fit the labels.
        UnsupportedError: The model cannot read the template.
    """
    template = Template.parse(source or trial.template)
    template.check(trial.split.train[0].text_pair is not None)
    reader = Reader(template, Verbalizer.build(labels_of(trial.split.train), trial.label_words))
    reader.check(trial.backend)
    return reader


@dataclass(frozen=True)
class Asker:
    """Asks one model about examples.

    Attributes:
        backend: The model.
        reader: How examples become prompts.
        top_k: Tokens wanted with each reply.
        step: Told how far it is.
    """

    backend: Backend
    reader: Reader
    top_k: int
    step: Step

    def evidence(self, examples: Sequence[Example], purpose: str) -> tuple[Evidence, Usage]:
        """What the untuned model says of n examples, and what it cost.

        Raises:
            BackendError: No sound reply could be had.
        """
        prompts, pieces, usage = self.reader.prompts(examples), [], Usage()
        for start in range(0, len(prompts), PIECE):
            part = prompts[start : start + PIECE]
            request = ScoreRequest(part, self.reader.choices, None, self.top_k, purpose=purpose)
            scores = ask(self.backend, request)
            pieces.append(scores.candidate(0))
            usage = usage + scores.usage
            done = start + len(part)
            self.step(done / len(prompts), f"{purpose}: {done:,} of {len(prompts):,} examples")
        return Evidence.joined(pieces), usage


def saved_bytes(save: Callable[[Path], None]) -> int:
    """Bytes of all that ``save`` writes into the folder it is given.

    Raises:
        ArtifactError: It cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def head_bytes(trial: Trial, reader: Reader, head: FittedHead) -> int:
    """What a template and a fitted head take when they are saved."""
    member = Member("head", reader, head)
    return saved_bytes(Artifact.of(trial.backend, [member]).save)
