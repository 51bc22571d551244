"""Many users of one local model in the same forward passes, against each one's own tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from by_the_book import TEXTS
from kept import kept

from blackbox_delta import TunedModels
from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.tuned_model import TunedModel

PLAIN, FRONT = "{text}. It was {label}", "{soft:3} {text}. It was {label}"
ONE_TOKEN = {"no": "bad", "yes": "good"}


def people(backend: Any) -> dict[str, TunedModel]:
    """Users of several kinds of delta, some of one kind and shape, with words of their own."""
    users = {
        "lora": kept(backend, "lora", PLAIN, seed=1),
        "lora too": kept(backend, "lora", "Review: {text} It was {label}", seed=2),
        "lora, other words": kept(backend, "lora", PLAIN, words=ONE_TOKEN, seed=3),
        "lora, larger": kept(backend, "lora", PLAIN, seed=4, rank=2),
        "soft": kept(backend, "soft-prompt", FRONT, seed=5),
        "soft too": kept(backend, "soft-prompt", "{text}{soft:3}. It was {label}", seed=6),
        "none": kept(backend, None, PLAIN, head="logistic"),
        "both": kept(backend, "soft-prompt+ia3", FRONT, seed=7),
        "both too": kept(backend, "soft-prompt+ia3", FRONT, seed=8),
        "sparse": kept(backend, "sparse", PLAIN, seed=11),
        "sparse too": kept(backend, "sparse", PLAIN, seed=12),
    }
    if "deep-prompt" in backend.capabilities.deltas:
        for seed in (13, 14):
            users[f"deep {seed}"] = kept(backend, "deep-prompt", FRONT, seed=seed)
    if "prefix" in backend.capabilities.deltas:
        for seed in (9, 10):
            users[f"prefix {seed}"] = kept(backend, "prefix", PLAIN, seed=seed, tokens=3)
    return users


def check(backend: Any, alone: dict[str, TunedModel], texts: Sequence[str] = TEXTS) -> None:
    models = TunedModels({user: model.artifact for user, model in alone.items()}, backend)
    asked = [(user, text) for text in texts for user in alone]

    answers = models.log_proba(asked)

    for (user, text), answer in zip(asked, answers, strict=True):
        [expected] = alone[user].log_proba([text])
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-4, err_msg=user)


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma3", "bloom", "bert", "t5", "bart"])
def test_each_text_is_answered_as_by_its_own_model(model: str, tiny: Any) -> None:
    """Also where a text is cut, which depends on the user's own label words."""
    long = "a dull film and a great plot " * 60
    check(tiny(model).wrap(), people(tiny(model).wrap()), [*TEXTS, long])


@pytest.mark.parametrize("model", ["bert", "roberta", "llama"])
def test_top_tokens_do_not_depend_on_other_users_words(model: str, tiny: Any) -> None:
    """A masked model reads them under as many masks as a request's shortest word has tokens."""
    backend = tiny(model).wrap()
    two = {"no": "terrible dull", "yes": "great film"}
    mixed = {"no": "bad", "yes": "terrible dull"}
    users = {
        "two": kept(backend, None, PLAIN, words=two, head="logistic", seed=1),
        "mixed": kept(backend, None, PLAIN, words=mixed, seed=2),
    }
    check(backend, users)


def test_deltas_too_large_to_be_kept_are_made_for_each_pass(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 1000)
    backend = tiny("llama").wrap()
    check(backend, {f"user {n}": kept(backend, "selective", PLAIN, seed=n) for n in range(3)})


@pytest.mark.model
def test_a_real_model_answers_several_users_at_once(smollm2: LocalBackend) -> None:
    words = {"bad": "terrible", "good": "great"}
    kinds = ["lora", "lora", "prefix", "prefix", "ia3", None]
    alone = {
        f"{kind} {seed}": kept(smollm2, kind, PLAIN, words=words, seed=seed)
        for seed, kind in enumerate(kinds)
    }
    check(smollm2, alone)


@pytest.mark.parametrize("kind", ["lora", "soft-prompt", "prefix", "adapter"])
def test_more_users_take_no_more_forward_passes(kind: str, tiny: Any) -> None:
    backend = tiny("llama").wrap()
    template = FRONT if kind == "soft-prompt" else PLAIN
    models = {f"user {n}": kept(backend, kind, template, seed=n) for n in range(8)}
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    backend._model.register_forward_hook(count)
    taken = []
    for users in (2, 4, 8):
        some = list(models)[:users]
        several = TunedModels({user: models[user].artifact for user in some}, backend)
        asked = [(some[n % users], f"{TEXTS[n % 3]} {n}") for n in range(16)]
        several.log_proba(asked)
        # What all users share is kept from now on.
        before, tokens = passes, backend._engine.computed_tokens
        several.log_proba(asked)
        taken.append((passes - before, backend._engine.computed_tokens - tokens))
    assert len(set(taken)) == 1
