"""A remote model as a backend: every tier against the model itself, and what is never sent."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import Fault, FaultyServer, healthy, scripted

from blackbox_delta.backends.remote import Access, Endpoint
from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.opening import open_remote, reopen
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.errors import (
    BackendError,
    ConfigError,
    JournalError,
    ModelError,
    RejectedError,
    RemoteError,
    SpentError,
    UnsupportedError,
    VerbalizerError,
)
from blackbox_delta.testing import check_backend
from blackbox_delta.types import (
    AnswerSlot,
    DeltaBatch,
    FloatArray,
    Prompt,
    Reply,
    ScoreRequest,
    SoftSlot,
    Words,
)
from servers import HIDDEN, WORDS, ModelServer, TinyModel, unpacked, write_model

CHOICES = (" great", " terrible")
KEY = "sk-Zr8ahaeZ0ngoh3eCh1ee"
Open = Callable[..., RemoteBackend]
pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def opened(server: ModelServer, folder: Path) -> Iterator[Open]:
    """Opens the served model without a probe; all are closed at the end."""
    made: list[RemoteBackend] = []

    def open_it(
        tier: str = "embeddings", *, table: bool | None = None, url: str = "", **access: Any
    ) -> RemoteBackend:
        with_table = tier == "embeddings" if table is None else table
        known = {"preset": "vllm", "api": "completions", "max_top_k": 20, "tokenizes": True}
        endpoint = Endpoint(
            base_url=url or server.url, embeddings=str(folder) if with_table else None
        )
        backend = RemoteBackend("toy", endpoint, Access.of({**known, "tier": tier, **access}))
        made.append(backend)
        return backend

    yield open_it
    for backend in made:
        backend.close()


def prompt(text: str, *tail: Any) -> Prompt:
    return Prompt((Words(text, truncatable=True), *tail, Words(" It was"), AnswerSlot()))


def soft(candidates: int, tokens: int = 2, seed: int = 0) -> DeltaBatch:
    rng = np.random.default_rng(seed)
    return DeltaBatch(
        "soft-prompt", {"soft": rng.standard_normal((candidates, tokens, HIDDEN)).astype("f4")}
    )


PROMPTS = [prompt(text, SoftSlot("soft")) for text in ("a great film", "dull", "one word on it")]


def sequence(toy: TinyModel, text: str, tokens: FloatArray | None = None) -> FloatArray:
    """``text``, soft tokens and " It was", as the model would see them."""
    before = toy.rows[toy.encode(text)]
    after = toy.rows[toy.encode(" It was")]
    return np.concatenate([before, *([] if tokens is None else [tokens]), after])


def labels(toy: TinyModel) -> list[int]:
    return [toy.encode(choice)[0] for choice in CHOICES]


# ------------------------------------------------------------------------ the contract


SERVERS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"tier": "label-logprobs"}, {}),
    ({"tier": "label-logprobs"}, {"refuses": {"prompt_embeds"}}),
    ({"tier": "label-logprobs"}, {"drops": {"logprob_token_ids"}, "lifts": True}),
    ({"tier": "top-tokens"}, {}),
    ({"tier": "top-tokens", "preset": "generic"}, {"max_logprobs": 5}),
    ({"tier": "top-tokens", "api": "chat"}, {}),
    ({"tier": "text"}, {}),
    ({"tier": "text", "api": "chat"}, {"refuses": {"logprobs"}}),
]
CASES = [
    (True, {"tier": "embeddings"}, {}),
    (True, {"tier": "embeddings"}, {"drops": {"logprob_token_ids"}}),
    *((table, *case) for case in SERVERS for table in (True, False)),
]


@pytest.mark.parametrize(("table", "settings", "server_has"), CASES, ids=str)
def test_it_keeps_the_contract_in_every_tier(
    server: ModelServer, folder: Path, table: bool, settings: Any, server_has: Any
) -> None:
    for name, value in server_has.items():
        setattr(server, name, value)
    given = {"embeddings": str(folder)} if table else {}
    backend = open_remote(None, Endpoint(base_url=server.url, **given, **settings))
    assert backend.address["access"]["tier"] == settings["tier"]
    check_backend(backend)
    backend.close()


@pytest.mark.parametrize("tier", [None, "text"])
@pytest.mark.parametrize("api", [None, "chat"])
def test_it_keeps_the_contract_at_an_unknown_kind_of_server(
    tier: str | None, api: str | None
) -> None:
    with FaultyServer() as server:
        backend = open_remote(
            "toy", Endpoint.of({"base_url": server.url, "tier": tier, "api": api})
        )
        assert backend.address["access"]["preset"] == "generic"
        # Its words are tokens: a byte is less of a token than elsewhere.
        texts = ("a dull film, too long, I said", "so fine", "I would not ever go there again")
        check_backend(backend, [prompt(text) for text in texts])
        backend.close()


# ------------------------------------------------------------------------ the numbers


def test_soft_prompts_act_as_they_do_in_the_model(opened: Open, toy: TinyModel) -> None:
    backend, delta = opened(label_ids=True, batch=2), soft(4)
    scores = backend.score(ScoreRequest(PROMPTS, CHOICES, delta, top_k=6))
    others = set(scores.top_ids.ravel().tolist())
    assert len(others) == 6  # the same neighbours everywhere
    assert not others & set(labels(toy))
    for candidate, (at, asked) in itertools.product(range(4), enumerate(PROMPTS)):
        words = asked.segments[0].text  # type: ignore[union-attr]
        said = toy.logprobs(sequence(toy, words, delta.tensors["soft"][candidate]))
        np.testing.assert_allclose(
            scores.label_logprobs[candidate, at], said[labels(toy)], atol=1e-5
        )
        ids = scores.top_ids[candidate, at]
        np.testing.assert_allclose(scores.top_logprobs[candidate, at], said[ids], atol=1e-5)
    assert scores.usage.bounded == 0


def test_without_a_delta_the_slots_are_empty(opened: Open, toy: TinyModel) -> None:
    scores = opened(label_ids=True).score(ScoreRequest(PROMPTS, CHOICES))
    said = toy.logprobs(sequence(toy, "dull"))
    np.testing.assert_allclose(scores.label_logprobs[0, 1], said[labels(toy)], atol=1e-5)


@pytest.mark.parametrize("table", [True, False])
def test_all_text_tiers_say_what_the_model_says(opened: Open, toy: TinyModel, table: bool) -> None:
    said = toy.logprobs(sequence(toy, "dull"))
    request = ScoreRequest([prompt("dull")], CHOICES)
    exact = opened("label-logprobs", table=table, label_ids=True).score(request)
    np.testing.assert_allclose(exact.label_logprobs[0, 0], said[labels(toy)], atol=1e-5)
    top = opened("top-tokens", table=table, label_ids=True).score(request)
    last = np.sort(said)[-20]
    bounded = 0
    for got, true in zip(top.label_logprobs[0, 0], said[labels(toy)], strict=True):
        if true >= last:
            assert got == pytest.approx(true, abs=1e-5)
        else:
            bounded += 1
            assert true <= got + 1e-6
    assert top.usage.bounded == bounded
    written = opened("text", table=table).score(request)
    assert written.usage.unparsed == 1  # one of 2048 tokens


def test_a_bias_tells_labels_that_are_out_of_sight(
    server: ModelServer, opened: Open, toy: TinyModel
) -> None:
    server.lifts = True
    said = toy.logprobs(sequence(toy, "dull"))
    tokens = {f" {word}": toy.encode(f" {word}")[0] for word in WORDS}
    likely = sorted(tokens, key=lambda word: -said[tokens[word]])[:2]
    ids = [tokens[word] for word in likely]
    assert said[ids].max() < np.sort(said)[-20]
    scores = opened("label-logprobs", bias=10.0).score(ScoreRequest([prompt("dull")], likely))
    np.testing.assert_allclose(scores.label_logprobs[0, 0], said[ids], atol=0.01)
    assert scores.usage.bounded == 0
    assert {int(token) for token in server.bodies()[-1]["logit_bias"]} == set(ids)


# ------------------------------------------------------------------------ what goes out


def test_candidates_of_a_prompt_follow_one_another_in_batches(
    server: ModelServer, opened: Open, toy: TinyModel
) -> None:
    delta = soft(5)
    backend = opened(label_ids=True, batch=4)
    request = ScoreRequest(PROMPTS, CHOICES, delta)
    bodies = [json.loads(job.body()) for job in backend.jobs(request)]
    sent = [unpacked(one) for body in bodies for one in body["prompt_embeds"]]
    texts = [one.segments[0].text for one in PROMPTS]  # type: ignore[union-attr]
    expected = [
        sequence(toy, text, delta.tensors["soft"][candidate])
        for text in texts
        for candidate in range(5)
    ]
    for got, wanted in zip(sent, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [len(body["prompt_embeds"]) for body in bodies] == [4, 4, 4, 3]
    assert not server.requests
    backend.score(request)
    assert sorted(map(str, server.bodies())) == sorted(map(str, bodies))


def test_tokens_are_counted_beforehand_to_the_last_one(server: ModelServer, opened: Open) -> None:
    for backend in (opened(), opened("label-logprobs", table=True, exact_tokens=True)):
        assert backend.capabilities.exact_tokens
        request = ScoreRequest(PROMPTS, CHOICES, soft(3) if backend.embedding_table else None)
        predicted = int(backend.count_tokens(request).sum()) * request.candidates
        assert not server.requests
        assert backend.score(request).usage.tokens == predicted
        server.requests.clear()


def test_what_the_server_took_from_its_cache_was_not_computed(
    server: ModelServer, opened: Open
) -> None:
    server.cached = 3
    usage = opened(batch=1).score(ScoreRequest(PROMPTS, CHOICES, soft(2))).usage
    assert usage.tokens - usage.computed_tokens == 3 * 6


def test_a_text_that_is_too_long_is_cut_where_tokens_are_known(
    server: ModelServer, opened: Open
) -> None:
    server.context = 32
    request = ScoreRequest([prompt("a film " * 50, SoftSlot("soft"))], CHOICES)
    for backend in (
        opened(max_length=32),
        opened("label-logprobs", table=True, exact_tokens=True, max_length=32),
    ):
        assert backend.score(request).usage.tokens == 31


def test_a_text_that_is_too_long_is_cut_until_it_fits_where_they_are_not(
    server: ModelServer, opened: Open
) -> None:
    server.context = 32
    backend = opened("label-logprobs", max_length=32)
    usage = backend.score(ScoreRequest([prompt("a film " * 50)], CHOICES)).usage
    assert 32 * 3 // 4 - 1 <= usage.tokens <= 31
    assert (usage.queries, usage.lost) == (1, 0)
    # Of a template nothing is cut.
    template = Prompt((Words("a film " * 50), Words(" It was"), AnswerSlot()))
    with pytest.raises(RejectedError, match="maximum context length is 32 tokens") as caught:
        backend.score(ScoreRequest([template], CHOICES))
    start = "a film a film a film a film a film a film a film a film a fi"
    end = "lm a film a film a film a film a film a film a film It was"
    assert f"; it was asked about '{start} … " in str(caught.value)
    assert str(caught.value).endswith(f"{end}'")


# ------------------------------------------------------------------------ label words


@pytest.mark.parametrize("choices", [(" great", " Sci/Tech"), (" great", " great"), (" great", "")])
def test_words_that_are_no_token_of_their_own_are_refused_before_anything_is_sent(
    server: ModelServer, opened: Open, choices: tuple[str, ...]
) -> None:
    request = ScoreRequest(PROMPTS, choices)
    for backend in (opened(), opened("label-logprobs", table=True, label_ids=True)):
        with pytest.raises(VerbalizerError):
            backend.count_tokens(request)
        with pytest.raises(VerbalizerError):
            backend.score(request)
        assert not server.requests
    for asking in (opened("label-logprobs", label_ids=True), opened("top-tokens")):
        asking.count_tokens(request)  # asks nothing, so cannot know
        assert not server.requests
        with pytest.raises(VerbalizerError):
            asking.score(request)
        assert {one.path for one in server.requests} == {"/tokenize"}
        server.requests.clear()


def test_the_servers_tokens_are_those_inside_a_sentence(
    server: ModelServer, opened: Open, toy: TinyModel
) -> None:
    """Some tokenizers put a space before whatever opens a text, and so two before a word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {"?": 0, "▁": 1, "▁great": labels(toy)[0], "▁terrible": labels(toy)[1]}
    metaspace = Tokenizer(models.WordLevel({**vocabulary, "▁a": 2}, unk_token="?"))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    metaspace.normalizer = normalizers.Sequence(spaces)
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    assert len(metaspace.encode(" great").ids) == 2
    server.tiny = TinyModel(toy.rows, metaspace)
    scores = opened("label-logprobs", label_ids=True).score(ScoreRequest([prompt("x")], CHOICES))
    said = toy.logprobs(toy.rows[metaspace.encode("x It was").ids])
    np.testing.assert_allclose(scores.label_logprobs[0, 0], said[labels(toy)], atol=1e-5)


@pytest.mark.parametrize("lacks", ["missing", "pages"])
def test_a_server_that_no_longer_tells_tokens_is_said_so(
    server: ModelServer, opened: Open, lacks: str
) -> None:
    setattr(server, lacks, {"/tokenize"})
    with pytest.raises(RemoteError, match="tokenize|not JSON"):
        opened("label-logprobs", label_ids=True).score(ScoreRequest(PROMPTS, CHOICES))


def test_where_nobody_knows_tokens_words_are_matched_by_their_letters(
    opened: Open, toy: TinyModel
) -> None:
    """Also at a server that could name them by id alone."""
    backend = opened("top-tokens", tokenizes=False)
    seen = 0
    for text in map(str, range(30)):
        said = toy.logprobs(sequence(toy, text))
        top = {toy.tokenizer.decode([int(token)]): token for token in np.argsort(said)[-20:]}
        words = [word for word in top if word.isascii() and word.strip()]
        for word in words:
            scores = backend.score(ScoreRequest([prompt(text)], (word, " Sci/Tech")))
            assert scores.label_logprobs[0, 0, 0] == pytest.approx(said[top[word]], abs=1e-5)
            assert scores.usage.bounded == 1
        seen += len(words)
    assert seen


def test_more_words_and_neighbours_than_the_server_tells_at_once(
    server: ModelServer, opened: Open
) -> None:
    choices = [chr(code) for code in range(33, 63)]  # single bytes
    backend = opened(label_ids=True)
    assert backend.capabilities.max_top_k == 100
    with pytest.raises(UnsupportedError, match="30 label words and 100 more tokens"):
        backend.score(ScoreRequest(PROMPTS, choices, top_k=100))
    assert not server.requests
    most = PRESETS["vllm"].offers[0].max_label_ids - len(choices)
    assert backend.score(ScoreRequest(PROMPTS, choices, top_k=most)).usage.bounded == 0
    assert len(server.bodies()[0]["logprob_token_ids"]) == 128


@pytest.mark.parametrize("tier", ["embeddings", "label-logprobs", "top-tokens", "text"])
def test_no_label_words_are_too_few(server: ModelServer, opened: Open, tier: str) -> None:
    with pytest.raises(VerbalizerError):
        opened(tier, label_ids=True).score(ScoreRequest(PROMPTS, ()))
    assert not server.requests


# ------------------------------------------------------------------------ refusals


def test_what_it_cannot_do_is_refused_before_anything_is_sent(
    server: ModelServer, opened: Open
) -> None:
    wrong = DeltaBatch("soft-prompt", {"soft": np.zeros((1, 2, HIDDEN + 1), np.float32)})
    flat = DeltaBatch("soft-prompt", {"soft": np.zeros((1, HIDDEN), np.float32)})
    cases: list[tuple[RemoteBackend, ScoreRequest, str]] = [
        (opened(), ScoreRequest(PROMPTS, CHOICES, wrong), rf"takes \(candidates, tokens, {HIDDEN}"),
        (opened(), ScoreRequest(PROMPTS, CHOICES, flat), "has shape"),
        (opened("top-tokens"), ScoreRequest(PROMPTS, CHOICES, soft(1)), "it is given text"),
        (opened("top-tokens"), ScoreRequest(PROMPTS, CHOICES, top_k=21), "more than the 20 tokens"),
        (opened("text"), ScoreRequest(PROMPTS, CHOICES, top_k=1), "more than the 0 tokens"),
    ]
    for backend, request, said in cases:
        with pytest.raises(UnsupportedError, match=said):
            backend.score(request)
    assert not server.requests


@pytest.mark.parametrize("tier", ["embeddings", "label-logprobs", "text"])
def test_nothing_to_ask_is_answered_with_nothing(
    server: ModelServer, opened: Open, tier: str
) -> None:
    backend = opened(tier, label_ids=True, table=True)
    scores = backend.score(ScoreRequest([], CHOICES))
    assert scores.label_logprobs.shape == (1, 0, 2)
    assert scores.usage.queries == scores.usage.tokens == 0
    assert backend.count_tokens(ScoreRequest([], CHOICES)).shape == (0,)
    if tier == "embeddings":
        none = DeltaBatch("soft-prompt", {"soft": np.zeros((0, 2, HIDDEN), np.float32)})
        scores = backend.score(ScoreRequest(PROMPTS, CHOICES, none))
        assert scores.label_logprobs.shape == (0, 3, 2)
    assert not server.requests


@pytest.mark.parametrize(
    ("endpoint", "access", "said"),
    [
        ({}, {"preset": "vlm"}, "no preset 'vlm'"),
        ({}, {"api": "sglang"}, "vllm has no sglang API"),
        ({}, {"tier": "embeddings"}, "say where the model's embedding table is"),
        ({"base_url": "http://x/v1?key=1"}, {}, "base URL"),
        ({"embeddings": "FOLDER"}, {"tier": "embeddings", "api": "chat"}, "chat .*no embeddings"),
    ],
)
def test_an_impossible_access_is_refused(
    folder: Path, endpoint: Any, access: Any, said: str
) -> None:
    known = {"preset": "vllm", "api": "completions", "tier": "text"}
    given = {"base_url": "http://127.0.0.1:9/v1", **endpoint}
    if "embeddings" in given:
        given["embeddings"] = str(folder)
    with pytest.raises(ConfigError, match=said):
        RemoteBackend("m", Endpoint(**given), Access.of({**known, **access}))


# ------------------------------------------------------------------------ losses


def test_lost_replies_are_sent_again_and_counted(server: ModelServer, opened: Open) -> None:
    request = ScoreRequest(PROMPTS, CHOICES, soft(2))
    sound = opened(label_ids=True, batch=2).score(request)
    server.plan = scripted([Fault.ERROR, Fault.NAN, Fault.DUPLICATED, Fault.TRUNCATED])
    server._number = 0
    taken: list[Reply] = []
    scores = opened(label_ids=True, batch=2).score(request, taken.extend)
    np.testing.assert_array_equal(scores.label_logprobs, sound.label_logprobs)
    assert scores.usage.lost == 8
    assert scores.usage.tokens > sound.usage.tokens
    assert len({(one.candidate, one.prompt) for one in taken}) == len(taken) == 6


def test_a_budget_is_not_exceeded_and_what_was_answered_is_kept(
    server: ModelServer, opened: Open
) -> None:
    backend = opened(label_ids=True, batch=1)
    request = ScoreRequest(PROMPTS, CHOICES, soft(3), max_sent=9)
    assert backend.score(request).usage.queries == 9
    server.plan = lambda number, prompts: Fault.ERROR if number % 3 == 0 else None
    server._number, before = 0, len(server.requests)
    taken: list[Reply] = []
    with pytest.raises(SpentError) as caught:
        backend.score(request, taken.extend)
    assert caught.value.sent == len(server.requests) - before == 9
    assert len(taken) == 6


def test_whatever_a_sink_raises_ends_the_request(server: ModelServer, opened: Open) -> None:
    def full(replies: object) -> None:
        raise JournalError("the disk is full")

    backend = opened(label_ids=True)
    with pytest.raises(JournalError, match="disk is full"):
        backend.score(ScoreRequest(PROMPTS, CHOICES), full)
    assert backend.score(ScoreRequest(PROMPTS, CHOICES)).usage.queries == 3


def test_nonsense_never_becomes_a_score(server: ModelServer, opened: Open) -> None:
    server.plan = lambda number, prompts: Fault.NO_LOGPROBS
    with pytest.raises(BackendError, match="failed 8 times"):
        opened(label_ids=True).score(ScoreRequest(PROMPTS, CHOICES))


# ------------------------------------------------------------------------ who it is


def test_it_comes_back_from_its_address_and_asks_nothing(server: ModelServer, folder: Path) -> None:
    for tier in ("embeddings", "label-logprobs", "top-tokens", "text"):
        endpoint = Endpoint.of({"base_url": server.url, "embeddings": str(folder), "tier": tier})
        with_table = open_remote("toy", endpoint)
        server.requests.clear()
        again = reopen(with_table.name, json.loads(json.dumps(with_table.address)))
        assert again.identity == with_table.identity
        assert again.fingerprint == with_table.fingerprint
        assert again.capabilities == with_table.capabilities
        assert again.address == with_table.address
        request = ScoreRequest(PROMPTS, CHOICES)
        again.count_tokens(request)
        assert not server.requests
        np.testing.assert_array_equal(
            again.score(request).label_logprobs, with_table.score(request).label_logprobs
        )
        with_table.close()
        again.close()


def test_the_fingerprint_is_the_models_wherever_it_is(
    opened: Open, folder: Path, tmp_path: Path
) -> None:
    backend = opened(label_ids=True)
    access, url = Access.of(backend.address["access"]), "http://127.0.0.1:9/v1"
    other_files = write_model(tmp_path / "other", seed=1)

    def fingerprint(model: str = "toy", files: Path = folder, **changes: Any) -> str:
        endpoint = Endpoint(base_url=url, embeddings=str(files), concurrency=3)
        other = RemoteBackend(model, endpoint, access.model_copy(update=changes))
        other.close()
        return other.fingerprint

    assert fingerprint() == fingerprint(batch=7) == backend.fingerprint
    others = [
        fingerprint("another"),
        fingerprint(files=other_files),
        fingerprint(api="chat", tier="text"),
    ]
    assert len({backend.fingerprint, *others}) == 4


def test_everything_that_changes_replies_is_in_the_identity(opened: Open) -> None:
    base: dict[str, Any] = {"tier": "label-logprobs", "table": True, "label_ids": True}
    changes: list[dict[str, Any]] = [
        {},
        {"url": "http://127.0.0.1:9/v1"},
        {"preset": "generic"},  # other fields are sent, and tokens come back as text
        {"api": "chat", "label_ids": False},
        {"tier": "top-tokens"},
        {"tier": "text"},
        {"tier": "embeddings"},
        {"table": False},
        {"table": False, "tokenizes": False},
        {"exact_tokens": True},
        {"max_length": 20},  # where a text is cut
        {"max_top_k": 10},
        {"label_ids": False},
        {"label_ids": False, "bias": 10.0},
        {"temperature": False},
    ]
    seen = [json.dumps(dict(opened(**{**base, **one}).identity)) for one in changes]
    assert len(set(seen)) == len(seen)
    same = opened(**base, batch=3, tokens_per_byte=1.0, overhead=0.0)
    assert json.dumps(dict(same.identity)) == seen[0]


def test_the_key_is_nowhere_to_be_seen(
    server: ModelServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.key = KEY
    backend = open_remote("toy", Endpoint(base_url=server.url, key_env="MY_KEY"))
    shown = [repr(backend), str(vars(backend)), json.dumps(backend.address)]
    shown += [json.dumps(dict(backend.identity)), backend.fingerprint, repr(backend._connection)]
    assert all(KEY not in one and KEY[5:15] not in one for one in shown)
    assert "MY_KEY" in shown[2]  # so that it is found again
    backend.close()


# ------------------------------------------------------------------------ its life


def test_a_closed_one_says_so(server: ModelServer, opened: Open) -> None:
    alive = sum(one.name == "blackbox-delta-remote" for one in threading.enumerate())
    backend = opened()
    backend.close()
    backend.close()
    with pytest.raises(ModelError, match="'toy' has been closed; open it again"):
        backend.score(ScoreRequest(PROMPTS, CHOICES))
    assert not server.requests
    left = sum(one.name == "blackbox-delta-remote" for one in threading.enumerate())
    assert left == alive


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_not_copied(opened: Open, duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="keep its name and address"):
        duplicate(opened())


def test_several_threads_may_ask_at_once(server: ModelServer, opened: Open) -> None:
    backend = opened(label_ids=True, batch=2)
    requests = [ScoreRequest(PROMPTS, CHOICES, soft(3, seed=seed)) for seed in range(6)]
    alone = [backend.score(request).label_logprobs for request in requests]
    with ThreadPoolExecutor(6) as pool:
        together = [one.label_logprobs for one in pool.map(backend.score, requests)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert server.plan is healthy
