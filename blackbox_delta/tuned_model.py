"""A tuned model that answers: a backend, and one or several members."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.artifact import Artifact
from blackbox_delta.backends import open_backend, opened
from blackbox_delta.errors import DataError
from blackbox_delta.members import Member, Panel
from blackbox_delta.tasks import Metrics, evaluate
from blackbox_delta.tasks.examples import sound
from blackbox_delta.tasks.tables import is_list
from blackbox_delta.types import Backend, Example, Json, Vector

#: Texts that all members answer before the next ones come.
PIECE = 128


class Answers(NamedTuple):
    """To n texts.

    Attributes:
        examples: The texts.
        log_proba: (n, c) log class probabilities.
        unanswered: (n,) where the model named no label, whichever way it was asked: what stands
            there is what the heads make of that.
    """

    examples: Sequence[Example]
    log_proba: Vector
    unanswered: NDArray[np.bool_]


class TunedModel:
    """Answers as the tuned model did when it was saved.

    Args:
        artifact: What was tuned.
        backend: The model that it was tuned on.
        result: What the run reported, where it is known.

    Raises:
        FingerprintError: The backend holds another model.
        ArtifactError: The delta cannot be rebuilt to the bit.
    """

    def __init__(self, artifact: Artifact, backend: Backend, result: Json | None = None) -> None:
        self.artifact = artifact
        self.backend = backend
        self.result: Json = result or {}
        self.panel = Panel(artifact.rebuild(backend), artifact.sharpness)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backend: str | Backend | None = None,
        device: str | None = None,
        dtype: str | None = None,
        key_env: str | None = None,
        key_file: str | Path | None = None,
    ) -> TunedModel:
        """The tuned model saved in a run folder.

        Args:
            folder: A run folder, or any folder with the two artifact files.
            backend: The model, if it is open already, or its name where that has changed: on its
                server, or of a local one, such as the folder that it is in now. Else the one of
                the saved name and address is opened.
            device: Where to open it.
            dtype: In which precision; by default in that in which it was tuned.
            key_env: The environment variable that holds the key for its server. A folder never
                says; without it a key goes to a provider's own hosts and to this machine alone.
            key_file: A file that holds the key, likewise.

        Raises:
            ArtifactError: There is no artifact, or it is damaged or of a newer version.
            RunError: The run is not finished, its result is damaged, or the folder holds a run for
                each of several seeds.
            ConfigError: A key is given for a local model.
            ModelError: The model cannot be loaded.
            FingerprintError: It is not the model that was tuned.
        """
        from blackbox_delta.runs import saved_run

        artifact, result = saved_run(Path(folder))
        address = artifact.address_with(key_env, key_file)
        model = model_of(artifact, backend, address, device=device, dtype=dtype)
        return cls(artifact, model, result)

    @property
    def members(self) -> tuple[Member, ...]:
        """The ways of answering that are pooled."""
        return self.panel.members

    @property
    def labels(self) -> tuple[str, ...]:
        """The c classes, in the order of the columns of :meth:`predict_proba`."""
        return self.artifact.labels

    def save(self, folder: str | Path) -> None:
        """Writes the artifact into ``folder``, which is made if it is not there.

        Raises:
            RunError: A run is kept there, whose result would then tell of another model.
            ArtifactError: It cannot be written.
        """
        from blackbox_delta.runs import check_holds_no_run

        check_holds_no_run(Path(folder))
        self.artifact.save(Path(folder))

    def predict(
        self, texts: Sequence[str | Example], text_pairs: Sequence[str] | None = None
    ) -> list[str]:
        """The likeliest label of each text; a query each for every way of asking."""
        return [self.labels[i] for i in self.log_proba(texts, text_pairs).argmax(axis=1)]

    def predict_proba(
        self, texts: Sequence[str | Example], text_pairs: Sequence[str] | None = None
    ) -> Vector:
        """Class probabilities of shape (n, c)."""
        return np.exp(self.log_proba(texts, text_pairs))

    def log_proba(
        self, texts: Sequence[str | Example], text_pairs: Sequence[str] | None = None
    ) -> Vector:
        """Log class probabilities of shape (n, c).

        Raises:
            DataError: A text is empty, or pairs are missing or too many.
            BackendError: No sound reply could be had.
        """
        pieces = [piece.log_proba for piece in self.answers(texts, text_pairs)]
        return np.concatenate([np.zeros((0, len(self.labels))), *pieces])

    def answers(
        self, texts: Sequence[str | Example], text_pairs: Sequence[str] | None = None
    ) -> Iterator[Answers]:
        """A piece of the texts after another.

        All texts are checked before the first is asked about; a piece is asked about when it is
        wanted. Raises what :meth:`log_proba` does.
        """
        examples = self.examples(texts, text_pairs)
        for start in range(0, len(examples), PIECE):
            piece = examples[start : start + PIECE]
            yield self._answers(piece)

    def examples(
        self, texts: Sequence[str | Example], text_pairs: Sequence[str] | None = None
    ) -> list[Example]:
        """The texts as examples, fit to be asked about.

        Raises:
            DataError: A text is empty, or pairs are missing or too many.
        """
        if isinstance(texts, str | Example) or isinstance(text_pairs, str):
            raise DataError("texts must be a list of texts, not one text; write [text]")
        for given in (texts, () if text_pairs is None else text_pairs):
            if not isinstance(given, Collection) or not is_list(given):
                raise DataError(f"texts must be a list of texts, not a {type(given).__name__}")
        if text_pairs is not None and any(isinstance(text, Example) for text in texts):
            raise DataError("an Example has its second text with it; leave text_pairs out")
        pairs = text_pairs if text_pairs is not None else [None] * len(texts)
        if len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(pairs)} second texts")
        examples = [
            text if isinstance(text, Example) else Example(text, pair)
            for text, pair in zip(texts, pairs, strict=True)
        ]
        for number, example in enumerate(examples):
            self.check(number, example)
        return examples

    def check(self, number: int, example: Example) -> None:
        """Makes sure that a text can be asked about.

        Args:
            number: Which one of those given; counted from 0.
            example: The text.

        Raises:
            DataError: It is empty, or its second text is missing or one too many.
        """
        _check_text(number, "text", example.text)
        wants = self.artifact.uses_pairs
        if wants != (example.text_pair is not None):
            raise DataError(
                f"text {number + 1} of the input {'lacks' if wants else 'has'} a second text, "
                f"which the model was tuned {'with' if wants else 'without'}"
            )
        if wants:
            _check_text(number, "second text", example.text_pair)

    def evaluate(self, examples: Sequence[Example]) -> Metrics:
        """Scores on labelled examples.

        Raises:
            DataError: There are none, one has no label, or one that is unknown.
        """
        if not isinstance(examples, Collection) or not all(
            isinstance(example, Example) for example in examples
        ):
            raise DataError(
                "give labelled examples, such as load_task('FOLDER').test or "
                "Example('a text', label='a label')"
            )
        truth = self.artifact.members[0].reader.verbalizer.encode(examples)
        return evaluate(truth, self.log_proba(examples), self.labels)

    def _answers(self, examples: Sequence[Example]) -> Answers:
        """Members take turns on the same few texts, whose beginnings a local model then reuses."""
        replies = self.panel.replies(self.backend, examples, "prediction")
        seen = {source: scores.candidate(0) for source, scores in replies}
        unanswered = np.all([evidence.unanswered for evidence in seen.values()], axis=0)
        return Answers(examples, self.panel.answer(seen), unanswered)


def model_of(
    artifact: Artifact,
    backend: str | Backend | None,
    address: Json,
    *,
    device: str | None,
    dtype: str | None,
) -> Backend:
    """The model that an artifact was tuned on, if it is where it was; else the one that is given.

    A local one is opened in the precision that it was tuned in, unless another is asked for.

    Raises:
        BlackBoxDeltaError: It cannot be opened; see :func:`blackbox_delta.backends.open_backend`.
    """
    if backend is not None and not isinstance(backend, str):
        return opened(backend)
    name = artifact.model if backend is None else backend
    return open_backend(name, device=device, dtype=dtype or artifact.dtype, address=address)


def _check_text(number: int, what: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{what} {number + 1} of the input is empty or not a text")
    sound(text, f"{what} {number + 1} of the input")
