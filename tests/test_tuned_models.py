"""Many users over one model, against each user's own tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept import kept

from blackbox_delta import TunedModels
from blackbox_delta.api import tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import ArtifactError, ConfigError, DataError, FingerprintError
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.tasks import task_from_lists
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example

FRONT, BEHIND = "{soft:3} {text}. It was {label}", "{text} {soft:3} It was {label}"
PLAIN = "{text}. It was {label}"
FILMS = {"bad": "dull", "good": "great"}
TEXTS = ["a great film", "what a bore", "she sings well", "the bank is shut", "he won the game"]


def people() -> dict[str, TunedModel]:
    """Two with soft prompts of one shape, one with another's words, one with none."""
    backend = FakeBackend()
    return {
        "ann": kept(backend, "soft-prompt", FRONT, words=FILMS, seed=1),
        "ben": kept(backend, "soft-prompt", BEHIND, words={"no": "sad", "yes": "happy"}, seed=2),
        "cleo": kept(backend, "soft-prompt", FRONT, words=FILMS, seed=3, head="logistic"),
        "dan": kept(backend, None, PLAIN, words=FILMS, head="calibrated"),
        "eve": kept(backend, "soft-prompt", FRONT.replace("3", "2"), words=FILMS, seed=4),
    }


def artifacts(models: Mapping[str, TunedModel]) -> dict[str, Artifact]:
    return {user: model.artifact for user, model in models.items()}


def mixed(users: list[str], texts: list[str], count: int) -> list[tuple[str, str]]:
    """Users take turns in an order that is no block of anybody's."""
    return [(users[(n * 7 + n // 3) % len(users)], texts[n % len(texts)]) for n in range(count)]


def check_answers(models: TunedModels, alone: Mapping[str, TunedModel], asked: Any) -> None:
    """Each answer is the one that the user's own model gives."""
    answers = models.log_proba(asked)
    assert len(answers) == len(asked)
    for (user, text), answer in zip(asked, answers, strict=True):
        [expected] = alone[user].log_proba([text])
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-4)


def test_each_text_is_answered_as_by_its_own_model() -> None:
    alone, backend = people(), FakeBackend()
    models = TunedModels(artifacts(alone), backend)
    asked = mixed(list(alone), TEXTS, 23)

    check_answers(models, alone, asked)

    assert models.users == tuple(alone)
    assert models.predict(asked) == [alone[user].predict([text])[0] for user, text in asked]
    for row, probabilities in zip(
        models.log_proba(asked), models.predict_proba(asked), strict=True
    ):
        np.testing.assert_array_equal(np.exp(row), probabilities)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_users_with_deltas_of_one_shape_share_a_call(count: int) -> None:
    first = FakeBackend()
    alone = {
        f"user {n}": kept(first, "soft-prompt", FRONT, words=FILMS, seed=n) for n in range(count)
    }
    backend = FakeBackend()
    models = TunedModels(artifacts(alone), backend)

    models.log_proba(mixed(list(alone), TEXTS, 40))

    assert (backend.calls, backend.queries) == (1, 40)


def test_a_backend_that_cannot_assign_is_asked_for_one_user_after_the_other(tmp_path: Path) -> None:
    alone, inner = people(), FakeBackend()
    with Journal.open(tmp_path / "journal.sqlite", create=True) as journal:
        models = TunedModels(artifacts(alone), JournaledBackend(inner, journal))
        asked = mixed(list(alone), TEXTS, 23)

        check_answers(models, alone, asked)

    assert inner.calls == len(alone)


def test_members_of_several_views_are_pooled_for_each_user() -> None:
    labels = ["no", "yes"] * 4
    texts = [f"{what} {n}" for n in range(4) for what in ("a dull film", "a great song")]
    first = FakeBackend()
    alone = {
        user: tune(first, task_from_lists(texts, labels), shots=2, budget="15 calls", seed=seed)
        for seed, user in enumerate(["ann", "ben"])
    }
    assert max(len(model.members) for model in alone.values()) > 1
    backend = FakeBackend()
    models = TunedModels(artifacts(alone), backend)

    check_answers(models, alone, mixed(["ann", "ben"], TEXTS, 9))


def test_many_texts_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, backend = people(), FakeBackend()
    models = TunedModels(artifacts(alone), backend)
    asked = mixed(list(alone), TEXTS, 23)
    expected = models.log_proba(asked)
    monkeypatch.setattr("blackbox_delta.tuned_models.PIECE", 4)

    for one, other in zip(models.log_proba(asked), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


def test_saved_runs_are_loaded_by_user(tmp_path: Path) -> None:
    alone = people()
    for user, model in alone.items():
        model.save(tmp_path / user)

    models = TunedModels.load({user: tmp_path / user for user in alone})

    check_answers(models, alone, mixed(list(alone), TEXTS, 6))
    assert models["ben"].labels == ("no", "yes")
    assert models.log_proba([]) == []
    assert tuple(models) == models.users == tuple(alone)
    assert len(models) == len(alone)
    assert "ben" in models
    assert "nobody" not in models


def test_there_must_be_users(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no users: give a run folder for each"):
        TunedModels({}, FakeBackend())
    with pytest.raises(ConfigError, match="there are no users"):
        TunedModels.load({})
    with pytest.raises(ArtifactError, match="not the folder of a finished run"):
        TunedModels.load({"ann": tmp_path})
    with pytest.raises(ConfigError, match="give a run folder for each user"):
        TunedModels.load([tmp_path])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give a run folder for each user"):
        TunedModels([], FakeBackend())  # type: ignore[arg-type]
    numbered = {1: next(iter(artifacts(people()).values()))}
    with pytest.raises(ConfigError, match="users are named by strings, not by 1"):
        TunedModels(numbered, FakeBackend())  # type: ignore[arg-type]


def test_what_is_asked_may_come_once() -> None:
    models = TunedModels(artifacts(people()), FakeBackend())
    pairs = [("ann", "fine"), ("ben", "dull")]

    assert models.predict(zip(["ann", "ben"], ["fine", "dull"], strict=True)) == models.predict(  # type: ignore[arg-type]
        pairs
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([("ann", "fine"), ("zoe", "fine")], "no model of 'zoe' is loaded; there are ann, ben"),
        ([("ann", "fine"), ("ben", " ")], "text 2 of the input is empty"),
        ([("ann", Example("one", "two"))], "text 1 of the input has a second text"),
        ([(["ann"], "fine")], r"entry 1 names \['ann'\]; users are named by strings"),
        (None, "a NoneType where pairs of a user and a text were expected"),
        (["ann"], r"entry 1 is no pair of a user and a text; write such as \('ann', 'a text'\)"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(asked: Any, message: str) -> None:
    backend = FakeBackend()
    models = TunedModels(artifacts(people()), backend)

    with pytest.raises(DataError, match=message):
        models.predict(asked)
    assert backend.calls == 0


def test_deltas_of_another_model_are_refused(tmp_path: Path) -> None:
    mine = kept(FakeBackend(), "soft-prompt", FRONT, words=FILMS).artifact
    other = kept(FakeBackend("fake:other"), "soft-prompt", FRONT, words=FILMS).artifact

    with pytest.raises(FingerprintError, match=r"'ann' was tuned on 'fake' .*but 'ben' on 'fake:o"):
        TunedModels({"ann": mine, "ben": other}, FakeBackend())
    with pytest.raises(FingerprintError, match="'ben' cannot be loaded: this delta was tuned on"):
        TunedModels({"ben": replace(other)}, FakeBackend())


def test_a_delta_that_cannot_be_rebuilt_is_named_by_its_user() -> None:
    mine = kept(FakeBackend(), "soft-prompt", FRONT, words=FILMS).artifact
    damaged = replace(mine, members=(replace(mine.members[0], checksum="0" * 64),))

    with pytest.raises(ArtifactError, match="'ben' cannot be loaded: the delta rebuilt from z"):
        TunedModels({"ann": mine, "ben": damaged}, FakeBackend())
