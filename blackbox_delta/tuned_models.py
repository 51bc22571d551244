"""Many tuned models over one base model: each text of a batch under its own user's delta."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blackbox_delta.artifact import ONE_IN_FP16, Artifact
from blackbox_delta.errors import ArtifactError, ConfigError, DataError, FingerprintError
from blackbox_delta.members import Member, Source
from blackbox_delta.problem import ask
from blackbox_delta.tuned_model import PIECE, TunedModel, model_of
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Evidence,
    Example,
    Prompt,
    ScoreRequest,
    Vector,
)

_GIVE = "give a run folder for each user, {'name': folder}"


class TunedModels:
    """Answers for many users at once as each one's :class:`TunedModel` does.

    Where the backend can (a local model), texts of different users go through the model in the
    same forward passes, each under its own delta; users whose deltas differ in kind or shape take
    turns, and so do ways of asking whose label words differ in length. Other backends are asked for
    one user after the other.

    Args:
        artifacts: What was tuned, by user; all on the same model.
        backend: That model.

    Raises:
        ConfigError: There are no users.
        FingerprintError: A user's delta belongs to another model.
        ArtifactError: A delta cannot be rebuilt to the bit.
    """

    def __init__(self, artifacts: Mapping[str, Artifact], backend: Backend) -> None:
        _check_users(artifacts)
        self.backend = backend
        self._models = {user: _opened(user, each, backend) for user, each in artifacts.items()}
        self._ways = {
            user: [_Way.of(source, member, backend) for source, member in model.panel.ways.items()]
            for user, model in self._models.items()
        }

    @classmethod
    def load(
        cls,
        folders: Mapping[str, str | Path],
        *,
        backend: str | Backend | None = None,
        device: str | None = None,
        dtype: str | None = None,
        key_env: str | None = None,
        key_file: str | Path | None = None,
    ) -> TunedModels:
        """The tuned models saved in run folders.

        Args:
            folders: A run folder for each user.
            backend: The model, if it is open already, or its name where that has changed: on its
                server, or of a local one, such as the folder that it is in now. Else the one of
                the saved name and address is opened.
            device: Where to open it.
            dtype: In which precision; by default in that in which the first was tuned.
            key_env: The environment variable that holds the key for its server. A folder never
                says; without it a key goes to a provider's own hosts and to this machine alone.
            key_file: A file that holds the key, likewise.

        Raises:
            ConfigError: There are no users, one is not named by a string, or a key is given for a
                local model.
            RunError: A folder holds a run for each of several seeds.
            ArtifactError: A folder holds no artifact, or a damaged one.
            ModelError: The model cannot be loaded.
            FingerprintError: Users were tuned on different models, or on another than this one.
        """
        if not isinstance(folders, Mapping):
            raise ConfigError(_GIVE)
        from blackbox_delta.runs import artifact_of_one

        artifacts = {user: artifact_of_one(Path(folder)) for user, folder in folders.items()}
        _check_users(artifacts)
        first = next(iter(artifacts.values()))
        address = first.address_with(key_env, key_file)
        model = model_of(first, backend, address, device=device, dtype=dtype)
        return cls(artifacts, model)

    @property
    def users(self) -> tuple[str, ...]:
        """Whose models are loaded."""
        return tuple(self._models)

    def __contains__(self, user: object) -> bool:
        """Whether a user's model is loaded."""
        return user in self._models

    def __iter__(self) -> Iterator[str]:
        """The users."""
        return iter(self._models)

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._models)

    def __getitem__(self, user: str) -> TunedModel:
        """One user's model, e.g. for its ``labels``.

        Raises:
            DataError: Nobody of that name was loaded.
        """
        if user not in self._models:
            raise DataError(f"no model of {user!r} is loaded; there are {', '.join(self._models)}")
        return self._models[user]

    def predict(self, asked: Sequence[tuple[str, str | Example]]) -> list[str]:
        """The likeliest of each user's labels; raises what :meth:`log_proba` does."""
        pairs = _listed(asked)
        rows = zip(pairs, self.log_proba(pairs), strict=True)
        return [self[user].labels[row.argmax()] for (user, _), row in rows]

    def predict_proba(self, asked: Sequence[tuple[str, str | Example]]) -> list[Vector]:
        """Class probabilities, (c,) for each text; raises what :meth:`log_proba` does."""
        return [np.exp(row) for row in self.log_proba(asked)]

    def log_proba(self, asked: Sequence[tuple[str, str | Example]]) -> list[Vector]:
        """Log class probabilities, one array (c,) for each text, c being its user's labels.

        Args:
            asked: n pairs of a user and a text, in any order; :class:`Example` for pairs of texts.

        Raises:
            DataError: A user is unknown, or a text cannot be asked about.
            BackendError: No sound reply could be had.
        """
        examples = [self._example(number, entry) for number, entry in enumerate(_listed(asked))]
        answers: list[Vector] = []
        for start in range(0, len(examples), PIECE):
            answers += self._answered(examples[start : start + PIECE])
        return answers

    # ------------------------------------------------------------------ parts

    def _example(self, number: int, entry: tuple[str, str | Example]) -> tuple[str, Example]:
        if not isinstance(entry, tuple) or len(entry) != 2:
            raise DataError(
                f"entry {number + 1} is no pair of a user and a text; write such as "
                f"({self.users[0]!r}, 'a text')"
            )
        user, text = entry
        if not isinstance(user, str):
            raise DataError(f"entry {number + 1} names {user!r}; users are named by strings")
        example = text if isinstance(text, Example) else Example(text)
        self[user].check(number, example)
        return user, example

    def _answered(self, piece: Sequence[tuple[str, Example]]) -> list[Vector]:
        places: dict[str, list[int]] = {}
        for place, (user, _) in enumerate(piece):
            places.setdefault(user, []).append(place)
        questions = [
            _Question(user, way, way.member.reader.prompts([piece[at][1] for at in mine]), top_k)
            for user, mine in places.items()
            for top_k in [self[user].panel.top_k]
            for way in self._ways[user]
        ]
        seen: dict[str, dict[Source, Evidence]] = {user: {} for user in places}
        for group in self._groups(questions):
            for question, evidence in self._replies(group):
                seen[question.user][question.way.source] = evidence
        answers: dict[int, Vector] = {}
        for user, mine in places.items():
            answers.update(zip(mine, self[user].panel.answer(seen[user]), strict=True))
        return [answers[place] for place in range(len(piece))]

    def _groups(self, questions: Sequence[_Question]) -> list[list[_Question]]:
        """Those that one request can put."""
        if not self.backend.capabilities.assigns:
            return [[question] for question in questions]
        groups: dict[Hashable, list[_Question]] = {}
        for question in questions:
            delta = question.way.delta
            # A long text is cut so that the longest label word fits, and a masked model reads the
            # top tokens under as many masks as the shortest has: for each as when it is alone.
            lengths = sorted(map(len, question.way.tokens))
            key = (None if delta is None else delta.structure, lengths[0], lengths[-1])
            groups.setdefault(key, []).append(question)
        return list(groups.values())

    def _replies(self, group: Sequence[_Question]) -> Iterator[tuple[_Question, Evidence]]:
        """Each question with what the model said, all of them asked in one request."""
        union = {
            tokens: choice
            for question in group
            for tokens, choice in zip(question.way.tokens, question.way.choices, strict=True)
        }
        deltas = [each.way.delta for each in group if each.way.delta is not None]
        several = len(deltas) > 1
        own = tuple(number for number, each in enumerate(group) for _ in each.prompts)
        request = ScoreRequest(
            [prompt for question in group for prompt in question.prompts],
            tuple(union.values()),
            DeltaBatch.joined(deltas) if deltas else None,
            max(question.top_k for question in group),
            purpose="prediction",
            assignment=own if several else None,
        )
        said, columns, start = ask(self.backend, request).candidate(0), list(union), 0
        for question in group:
            rows = slice(start, start + len(question.prompts))
            start = rows.stop
            mine = [columns.index(tokens) for tokens in question.way.tokens]
            yield (
                question,
                Evidence(
                    said.label_logprobs[rows][:, mine],
                    said.top_ids[rows, : question.top_k],
                    said.top_logprobs[rows, : question.top_k],
                ),
            )


@dataclass(frozen=True)
class _Way:
    """One way of asking for a user, its delta unpacked once and for all."""

    source: Source
    member: Member
    delta: DeltaBatch | None
    choices: tuple[str, ...]
    tokens: tuple[tuple[Hashable, ...], ...]

    @classmethod
    def of(cls, source: Source, member: Member, backend: Backend) -> _Way:
        choices, table = member.reader.choices, backend.embedding_table
        # What a label word is to the model: words that it cannot tell apart are asked for once.
        if table is None or not backend.capabilities.assigns:
            tokens: list[tuple[Hashable, ...]] = [(choice,) for choice in choices]
        else:
            tokens = [tuple(table.tokenize(choice)) for choice in choices]
        return cls(source, member, member.delta, choices, tuple(tokens))


@dataclass(frozen=True)
class _Question:
    """Some prompts of one user, to be asked in one way."""

    user: str
    way: _Way
    prompts: list[Prompt]
    top_k: int


def _listed(asked: object) -> list[tuple[str, str | Example]]:
    """What was asked, once, whatever it comes in.

    Raises:
        DataError: It is nothing that could hold pairs.
    """
    if isinstance(asked, str | Mapping) or not isinstance(asked, Iterable):
        raise DataError(
            f"a {type(asked).__name__} where pairs of a user and a text were expected, such as "
            "[('alice', 'a text')]"
        )
    return list(asked)


def _check_users(artifacts: Mapping[str, Artifact]) -> None:
    if not isinstance(artifacts, Mapping):
        raise ConfigError(_GIVE)
    if not artifacts:
        raise ConfigError(f"there are no users: {_GIVE}")
    if odd := [user for user in artifacts if not isinstance(user, str)]:
        raise ConfigError(f"users are named by strings, not by {odd[0]!r}: {_GIVE}")
    (first, model), *others = artifacts.items()
    for user, other in others:
        if other.fingerprint != model.fingerprint:
            raise FingerprintError(
                f"{first!r} was tuned on {model.model!r} (fingerprint {model.fingerprint[:12]}…), "
                f"but {user!r} on {other.model!r} (fingerprint {other.fingerprint[:12]}…), which "
                f"is another model, {ONE_IN_FP16}; load those together that were tuned on one model"
            )


def _opened(user: str, artifact: Artifact, backend: Backend) -> TunedModel:
    try:
        return TunedModel(artifact, backend)
    except (FingerprintError, ArtifactError) as error:
        raise type(error)(f"{user!r} cannot be loaded: {error}") from error
