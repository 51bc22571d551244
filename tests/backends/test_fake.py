from __future__ import annotations

import time

import numpy as np
import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError, ModelError, UnsupportedError
from blackbox_delta.testing import check_backend
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    DeltaBatch,
    Prompt,
    ScoreRequest,
    SoftSlot,
    Words,
)

TOPICS = {
    " sports": "team match player coach league goal",
    " business": "market stock bank shares profit investor",
    " science": "software research space data chip computer",
    " world": "minister election war president police nation",
}
FILLER = ("the", "a", "is", "it", "of", "and", "to", "in", "great", "order", "screen", "who")
CHOICES = tuple(TOPICS)


def prompt(text: str) -> Prompt:
    return Prompt((SoftSlot("soft"), Words(text, truncatable=True), Words(" It is"), AnswerSlot()))


def labelled(n: int) -> tuple[list[Prompt], np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % len(CHOICES)
    texts = [
        [*rng.choice(TOPICS[CHOICES[label]].split(), 2), *rng.choice(FILLER, 6)] for label in labels
    ]
    return [prompt(" ".join(rng.permutation(text))) for text in texts], labels


def moved(backend: FakeBackend, step: float) -> DeltaBatch:
    tokens = np.tile(step * backend.planted_direction, (1, 4, 1))
    return DeltaBatch("soft-prompt", {"soft": tokens.astype(np.float32)})


def cross_entropy(logprobs: np.ndarray, labels: np.ndarray) -> float:
    normalised = logprobs - np.logaddexp.reduce(logprobs, axis=1, keepdims=True)
    return float(-normalised[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("name", ["fake", "fake:other"])
@pytest.mark.parametrize("accepts", [frozenset({"soft-prompt"}), frozenset()])
def test_it_keeps_the_contract(name: str, accepts: frozenset[str]) -> None:
    check_backend(FakeBackend(name, accepts=accepts), tolerance=1e-5)
    choices = (" great", " not so bad", " Zanzibar")
    check_backend(FakeBackend(name, accepts=accepts), choices=choices, tolerance=1e-5)


def test_it_is_the_same_model_on_every_machine() -> None:
    # Taken from the first run ever; a change here changes every example's numbers.
    backend = FakeBackend()
    scores = backend.score(ScoreRequest([prompt("a great film")], (" great", " terrible")))
    np.testing.assert_allclose(scores.label_logprobs[0, 0], [-3.9161658, -7.2093778], atol=1e-5)
    assert backend.fingerprint.startswith("dab76cd964d83a76")
    other = FakeBackend("fake:other")
    assert other.fingerprint != backend.fingerprint
    assert other.identity != backend.identity


@pytest.mark.parametrize("name", ["fake", "fake:a", "fake:b"])
def test_calibration_helps_and_the_planted_direction_helps_further(name: str) -> None:
    backend = FakeBackend(name)
    prompts, labels = labelled(200)
    untuned = backend.score(ScoreRequest(prompts, CHOICES)).label_logprobs[0]
    tuned = backend.score(ScoreRequest(prompts, CHOICES, moved(backend, 0.3))).label_logprobs[0]

    def accuracy(logprobs: np.ndarray) -> float:
        return float((logprobs.argmax(axis=1) == labels).mean())

    calibrated = accuracy(untuned - untuned.mean(axis=0))
    assert calibrated > accuracy(untuned) + 0.1
    assert accuracy(tuned - tuned.mean(axis=0)) > calibrated + 0.05
    assert accuracy(tuned) > accuracy(untuned) + 0.05


def test_the_loss_falls_smoothly_along_the_planted_direction() -> None:
    backend = FakeBackend()
    prompts, labels = labelled(100)
    losses = [
        cross_entropy(
            backend.score(ScoreRequest(prompts, CHOICES, moved(backend, step))).label_logprobs[0],
            labels,
        )
        for step in np.linspace(-0.2, 0.2, 41)
    ]
    steps = np.diff(losses)
    assert (steps < 0).all()
    assert np.abs(np.diff(steps)).max() < 0.02


def test_a_random_search_finds_something_better() -> None:
    backend = FakeBackend()
    prompts, labels = labelled(60)
    noise = 0.3 * np.random.default_rng(1).standard_normal((100, 4, 16)).astype(np.float32)
    noise[0] = 0
    scores = backend.score(
        ScoreRequest(prompts, CHOICES, DeltaBatch("soft-prompt", {"soft": noise}))
    )
    losses = [cross_entropy(evidence.label_logprobs, labels) for evidence in scores]
    assert min(losses) < 0.7 * losses[0]


def test_top_tokens_tell_the_topic() -> None:
    backend = FakeBackend()
    table = backend.embedding_table
    assert table is not None
    prompts = [prompt("team match goal coach"), prompt("election war president police")]
    top = backend.score(ScoreRequest(prompts, CHOICES, top_k=20)).top_ids[0]
    sports, world = (
        set(table.tokenize(f"{TOPICS[name]} {name}")) for name in (" sports", " world")
    )
    assert len(sports & set(top[0])) > len(sports & set(top[1]))
    assert len(world & set(top[1])) > len(world & set(top[0]))


def test_known_words_can_be_read_back() -> None:
    table = FakeBackend().embedding_table
    assert table is not None
    ids = table.tokenize("A great film, Zanzibar!")
    assert table.detokenize(ids) == " a great film , !"
    everything = range(table.vocabulary_size)
    words = [token for token in everything if table.detokenize([token])]
    assert [table.tokenize(table.detokenize([token])) for token in words] == [[t] for t in words]


def test_log_probabilities_sum_to_one_over_the_vocabulary() -> None:
    backend = FakeBackend()
    top = backend.score(ScoreRequest([prompt("a film")], CHOICES, top_k=100)).top_logprobs[0, 0]
    assert 0.5 < np.exp(top.astype(np.float64)).sum() < 1


def test_a_choice_of_several_words_sums_over_them() -> None:
    backend = FakeBackend()
    request = ScoreRequest([prompt("a film")], (" not", " not bad", " not bad film"))
    one, two, three = backend.score(request).label_logprobs[0, 0]
    assert 0 > one > two > three


def test_soft_tokens_cost_tokens_and_an_empty_slot_none() -> None:
    backend = FakeBackend()
    text = prompt("a great film")
    assert backend.count_tokens(ScoreRequest([text], CHOICES)).tolist() == [6]
    tuned = ScoreRequest([text], CHOICES, moved(backend, 0.1))
    assert backend.count_tokens(tuned).tolist() == [10]


def test_it_reads_nothing_after_the_answer() -> None:
    short = Prompt((Words("a film"), AnswerSlot()))
    long = Prompt((Words("a film"), AnswerSlot(), SoftSlot("soft"), Words("great great")))
    backend = FakeBackend()
    scores = backend.score(ScoreRequest([short, long], CHOICES, moved(backend, 1.0)))
    np.testing.assert_array_equal(scores.label_logprobs[0, 0], scores.label_logprobs[0, 1])


def test_it_fails_when_told_to() -> None:
    backend = FakeBackend(fail_at=[2], nan_at=[3], delay=0.02)
    request = ScoreRequest([prompt("a film")], CHOICES)
    start = time.perf_counter()
    first = backend.score(request)
    assert time.perf_counter() - start >= first.usage.seconds >= 0.02
    with pytest.raises(BackendError, match="call 2"):
        backend.score(request)
    assert np.isnan(backend.score(request).label_logprobs).all()
    assert (backend.calls, backend.queries) == (3, 2)


def test_what_it_does_not_take_is_refused() -> None:
    backend, text = FakeBackend(), prompt("a film")
    wrong_size = DeltaBatch("soft-prompt", {"soft": np.zeros((1, 2, 8), np.float32)})
    requests = {
        "shape": ScoreRequest([text], CHOICES, wrong_size),
        "holds no word": ScoreRequest([text], (" ",)),
        "decoder": ScoreRequest([Prompt((Words("a"), DecoderStart(), AnswerSlot()))], CHOICES),
    }
    for message, request in requests.items():
        with pytest.raises(UnsupportedError, match=message):
            backend.score(request)
    text_only = FakeBackend(accepts=())
    assert text_only.embedding_table is None
    with pytest.raises(UnsupportedError, match="takes no 'soft-prompt'"):
        text_only.score(ScoreRequest([text], CHOICES, moved(backend, 0.1)))
    with pytest.raises(ModelError, match="names no fake model"):
        FakeBackend("gpt")
