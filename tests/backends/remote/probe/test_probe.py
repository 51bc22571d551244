"""What a probe finds out about servers that offer more or less, and what it makes of it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Fault, FaultyServer, scripted
from toy_api import BadRequestError

from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.asking import WRITTEN_TOKENS
from blackbox_delta.backends.remote.probe import Probe, probe
from blackbox_delta.backends.remote.probe.inquiry import distance
from blackbox_delta.backends.remote.wires.wire import Answer, Token
from blackbox_delta.errors import (
    AuthorisationError,
    ConfigError,
    ModelError,
    RemoteError,
    UnsupportedError,
)
from servers import ModelServer, TinyModel, tokenizer, write_model

KEY = "sk-Zr8ahaeZ0ngoh3eCh1ee"
Ask = Callable[..., Probe]
pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def ask(server: ModelServer, folder: Path) -> Ask:
    """Probes the server, with the table of its model unless told otherwise."""

    def asking(model: str | None = None, *, table: Any = folder, **settings: Any) -> Probe:
        embeddings = None if table is None else str(table)
        given = {"base_url": server.url, "embeddings": embeddings, **settings}
        return probe(Endpoint.of(given), model)

    return asking


def found(result: Probe) -> dict[str, tuple[str, bool | None]]:
    assert len({one.what for one in result.findings}) == len(result.findings)
    return {one.what: (one.found, one.good) for one in result.findings}


# ------------------------------------------------------------------------ what is offered


def test_a_server_that_offers_everything(server: ModelServer, ask: Ask) -> None:
    server.cached = 4
    result = ask()
    seen = found(result)
    assert seen["models"] == ("toy", True)
    assert seen["kind of server"] == ("vllm", None)
    assert seen["API"] == ("completions", True)
    assert seen["log-probabilities"] == ("the 20 likeliest tokens", True)
    assert seen["log-probabilities of chosen tokens"] == ("honoured", True)
    assert seen["embeddings in"][0].startswith("accepted, equal to text within 0.00")
    assert seen["prefix cache"] == ("4 tokens of a text reused", True)
    assert seen["the same question again"][1] is True
    assert "chat template" in seen
    access = result.access
    assert (access.preset, access.api, access.tier) == ("vllm", "completions", "embeddings")
    assert (access.max_top_k, access.label_ids, access.bias) == (20, True, 0.0)
    assert (access.max_length, access.exact_tokens, access.tokenizes) == (512, True, False)
    assert 1 < access.batch <= 16


def test_queries_are_counted_as_the_server_counts_them(server: ModelServer, ask: Ask) -> None:
    result = ask()
    assert 10 <= result.queries == sum(server.answered.values()) <= 25
    server.answered.clear()
    server.plan, server._number = scripted([Fault.ERROR]), 0
    assert ask().queries == sum(server.answered.values()) + 1


@pytest.mark.parametrize(
    ("server_has", "what", "said", "tier"),
    [
        ({"refuses": {"prompt_embeds"}}, "embeddings in", "refused: ", "label-logprobs"),
        ({"drops": {"prompt_embeds"}}, "embeddings in", "refused: ", "label-logprobs"),
        (
            {"drops": {"logprob_token_ids"}},
            "log-probabilities of chosen tokens",
            "silently dropped: ",
            "embeddings",
        ),
        (
            {"refuses": {"logprob_token_ids"}},
            "log-probabilities of chosen tokens",
            "refused: ",
            "embeddings",
        ),
        ({"drops": {"logprobs"}}, "log-probabilities", "none (silently dropped: ", "text"),
        ({"refuses": {"logprobs"}}, "log-probabilities", "none (refused: ", "text"),
        ({"max_logprobs": 5}, "log-probabilities", "the 5 likeliest tokens", "embeddings"),
        ({"max_logprobs": 100}, "log-probabilities", "the 100 likeliest tokens", "embeddings"),
    ],
    ids=str,
)
def test_what_is_dropped_or_refused_is_not_used(
    server: ModelServer, ask: Ask, server_has: Any, what: str, said: str, tier: str
) -> None:
    for name, value in server_has.items():
        setattr(server, name, value)
    result = ask()
    assert found(result)[what][0].startswith(said)
    assert result.access.tier == tier
    if what == "log-probabilities of chosen tokens":
        assert not result.access.label_ids
    if tier == "text":
        assert (result.access.max_top_k, result.access.bias) == (0, 0.0)


@pytest.mark.parametrize("lifts", [True, False])
def test_a_bias_is_used_where_it_shows(server: ModelServer, ask: Ask, lifts: bool) -> None:
    server.drops, server.lifts = {"logprob_token_ids"}, lifts
    result = ask(table=None)
    said, good = found(result)["log-probabilities after logit_bias"]
    assert said.startswith("yes" if lifts else "no: before the bias")
    assert good is (True if lifts else None)
    assert result.access.bias == (10.0 if lifts else 0.0)
    assert result.access.tier == ("label-logprobs" if lifts else "top-tokens")


def test_without_a_table_the_server_must_tell_tokens(server: ModelServer, ask: Ask) -> None:
    told = ask(table=None)
    assert told.access.tokenizes
    assert told.access.label_ids
    assert told.access.tier == "label-logprobs"
    for lacks in ("missing", "pages"):
        setattr(server, lacks, {"/tokenize"})
        result = ask(table=None)
        assert "--embeddings" in found(result)["tokens of a text"][0]
        assert not result.access.tokenizes
        assert not result.access.label_ids
        assert result.access.tier == "top-tokens"


@pytest.mark.parametrize("bos", [True, False])
def test_tokens_are_counted_as_the_server_counts_them(
    server: ModelServer, ask: Ask, tmp_path: Path, bos: bool
) -> None:
    """Those included that open a sequence."""
    files = write_model(tmp_path, bos=bos)
    server.tiny = TinyModel.read(files)
    assert ask(table=files).access.exact_tokens
    estimated = ask(table=None).access
    assert not estimated.exact_tokens
    assert estimated.overhead == bos
    text = "Is it worth the price? I doubt it.\nOne word:"
    guess = estimated.tokens_per_byte * len(text.encode()) + estimated.overhead
    assert guess == pytest.approx(len(server.tiny.encode(text)), rel=0.1)


def test_what_a_chat_puts_around_a_text_is_counted(server: ModelServer, ask: Ask) -> None:
    access = ask(api="chat").access
    assert (access.api, access.tier) == ("chat", "top-tokens")
    assert access.overhead == len(server.tiny.encode("user: \n"))
    text = "Is it worth it?"
    guess = access.tokens_per_byte * len(text) + access.overhead
    assert guess == pytest.approx(len(server.tiny.encode(f"user: {text}\n")), rel=0.15)
    assert not any([access.label_ids, access.exact_tokens, access.tokenizes])


def test_a_server_that_is_not_deterministic(server: ModelServer, ask: Ask) -> None:
    original, calls = TinyModel.logprobs, iter(range(1000))

    class Noisy(TinyModel):
        def logprobs(self, sequence: Any) -> Any:
            return original(self, sequence) - 0.01 * (next(calls) % 2)

    server.tiny = Noisy(server.tiny.rows, server.tiny.tokenizer)
    said, good = found(ask(table=None))["the same question again"]
    assert said == "log-probabilities differ by 0.01"
    assert good is False


def test_a_server_of_an_unknown_kind_is_taken_as_it_is() -> None:
    with FaultyServer() as server:
        result = probe(Endpoint(base_url=server.url))
    assert result.model == "toy"
    assert (result.access.preset, result.access.tier) == ("generic", "top-tokens")
    assert result.access.max_top_k == 50  # all of its words


# ------------------------------------------------------------------------ other tables


def test_a_table_of_another_model_is_found_out(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not that of 'toy': .*name the model's own") as caught:
        ask(table=write_model(tmp_path, seed=1))
    assert str(tmp_path) in str(caught.value)


def test_the_tokenizer_of_another_model_is_found_out(
    server: ModelServer, ask: Ask, tmp_path: Path
) -> None:
    """Also where the rows are the right ones."""
    files = write_model(tmp_path)
    other = tokenizer(["great", "a", "day", "it"])
    other.save(str(files / "tokenizer.json"))
    with pytest.raises(ModelError, match="tokenizer in .* is not that of 'toy'") as caught:
        ask(table=files)
    assert str(tmp_path) in str(caught.value)
    server.missing = {"/tokenize"}
    with pytest.raises(ModelError, match="embedding table in .* is not that of 'toy'"):
        ask(table=files)


def test_ids_that_mean_something_else_are_not_sent(
    server: ModelServer, ask: Ask, tmp_path: Path
) -> None:
    """Two tokenizers may split texts into as many tokens."""
    files = write_model(tmp_path)
    other = json.loads((files / "tokenizer.json").read_text())
    vocabulary = other["model"]["vocab"]
    vocabulary["a"], vocabulary["i"] = vocabulary["i"], vocabulary["a"]
    (files / "tokenizer.json").write_text(json.dumps(other))
    assert ask(preset="generic").access.exact_tokens
    assert not ask(preset="generic", table=files).access.exact_tokens


def test_a_table_of_another_size_is_refused_by_the_server(ask: Ask, tmp_path: Path) -> None:
    result = ask(table=write_model(tmp_path, hidden=4))
    said, good = found(result)["embeddings in"]
    assert "hidden_size does not match" in said
    assert good is False
    assert result.access.tier == "label-logprobs"


def test_a_table_that_cannot_be_read_is_said_before_anything_is_sent(
    server: ModelServer, ask: Ask, tmp_path: Path
) -> None:
    with pytest.raises(ModelError):
        ask(table=tmp_path / "nothing")
    assert not server.requests


# ------------------------------------------------------------------------ tiers and APIs


@pytest.mark.parametrize("tier", ["embeddings", "label-logprobs", "top-tokens", "text"])
def test_a_tier_that_was_asked_for_is_taken(ask: Ask, tier: str) -> None:
    assert ask(tier=tier).access.tier == tier


def test_a_tier_that_is_not_offered_is_named_with_those_that_are(
    server: ModelServer, ask: Ask
) -> None:
    server.refuses = {"prompt_embeds"}
    with pytest.raises(UnsupportedError, match="'embeddings'; it offers label-logprobs, top") as it:
        ask(tier="embeddings")
    assert "prompt_embeds is not supported" in str(it.value)
    server.refuses = {"logprobs"}
    for tier in ("label-logprobs", "top-tokens"):
        with pytest.raises(UnsupportedError, match=f"'{tier}'; it offers text "):
            ask(tier=tier)
    with pytest.raises(UnsupportedError, match="--embeddings"):
        ask(tier="embeddings", table=None)


def test_the_next_api_is_tried_where_one_is_missing(server: ModelServer, ask: Ask) -> None:
    server.missing = {"/v1/completions"}
    assert ask().access.api == "chat"
    server.missing = {"/v1/completions", "/v1/chat/completions"}
    with pytest.raises(RemoteError, match="no API of the server answers. completions: .*; chat: "):
        ask()


def test_an_api_that_the_server_does_not_have(ask: Ask) -> None:
    with pytest.raises(ConfigError, match="has no sglang API"):
        ask(api="sglang", preset="vllm")
    with pytest.raises(ConfigError, match="no preset 'vlm'"):
        ask(preset="vlm")


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(
    ("server_has", "tier"), [({"refuses": {"logprobs"}}, None), ({}, "text")], ids=str
)
def test_a_model_that_writes_nothing_is_of_no_use_on_the_text_tier(
    server: ModelServer, ask: Ask, api: str, server_has: Any, tier: str | None
) -> None:
    for name, value in server_has.items():
        setattr(server, name, value)
    assert ask(api=api, tier=tier, table=None).access.tier == "text"
    server.silent = True
    with pytest.raises(UnsupportedError, match="'toy' at .* writes nothing .*: length.*at once"):
        ask(api=api, tier=tier, table=None)
    path = "/v1/completions" if api == "completions" else "/v1/chat/completions"
    assert server.bodies(path)[-1]["max_tokens"] == WRITTEN_TOKENS


def test_where_log_probabilities_come_nothing_need_be_written(
    server: ModelServer, ask: Ask
) -> None:
    server.silent = True
    assert ask(table=None).access.tier == "label-logprobs"


def test_a_model_that_may_not_write_as_much_as_a_run_lets_it(
    server: ModelServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ModelServer._reply

    def reply(self: ModelServer, path: str, request: Any, sequences: Any) -> Any:
        if request["max_tokens"] > 1:
            raise BadRequestError("max_tokens is too large")
        return original(self, path, request, sequences)

    monkeypatch.setattr(ModelServer, "_reply", reply)
    with pytest.raises(UnsupportedError, match="no answer of 16 tokens: refused: .*too large"):
        ask(tier="text", table=None)


def test_why_a_model_stopped_may_be_anything(
    server: ModelServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key, server.silent, server.finish = KEY, True, f"\x1b[31m{KEY}\n"
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.raises(UnsupportedError, match="writes nothing") as caught:
        ask(tier="text", table=None, key_env="MY_KEY")
    assert KEY not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_model_that_refuses_a_temperature_is_asked_without(
    server: ModelServer, ask: Ask, api: str
) -> None:
    server.refuses = {"temperature"}
    result = ask(api=api)
    assert not result.access.temperature
    said, good = found(result)["temperature"]
    assert said.startswith("0 is refused")
    assert good is False
    path = "/v1/completions" if api == "completions" else "/v1/chat/completions"
    assert ["temperature" in body for body in server.bodies(path)].count(True) == 1
    server.refuses = ()
    assert ask(api=api).access.temperature
    assert "temperature" not in found(ask(api=api))


def test_what_is_refused_with_and_without_a_temperature_is_told_twice(
    server: ModelServer, ask: Ask
) -> None:
    with pytest.raises(RemoteError, match="`temperature-1` does.*; without it: .* does not exist"):
        ask("temperature-1", preset="openai", api="chat", table=None)
    sent = server.bodies("/v1/chat/completions")
    assert ["temperature" in body for body in sent] == [True, False]


# ------------------------------------------------------------------------ models


def test_one_of_several_models_must_be_named(server: ModelServer, ask: Ask) -> None:
    server.listed = [f"model-{at}" for at in range(30)]
    with pytest.raises(ConfigError, match="has 30 models; name one with --model: model-0, ") as it:
        ask()
    assert "and 22 more" in str(it.value)
    server.listed = ["other", "toy"]
    assert ask("toy").model == "toy"


def test_a_model_that_is_not_served(server: ModelServer, ask: Ask) -> None:
    with pytest.raises(RemoteError, match="does not serve 'gpt-9'; it serves toy"):
        ask("gpt-9")
    assert len(server.requests) == 1


def test_some_services_take_other_names_than_they_list(server: ModelServer, ask: Ask) -> None:
    server.listed = ["models/toy"]
    result = ask("toy", preset="openai", table=None)
    assert found(result)["model"] == ("toy is not listed", False)
    with pytest.raises(RemoteError, match="`toi` does not exist"):
        ask("toi", preset="openai", table=None)


@pytest.mark.parametrize("preset", [None, "generic"])
def test_a_gateway_of_an_unknown_kind_may_serve_what_it_does_not_list(
    server: ModelServer, ask: Ask, preset: str | None
) -> None:
    server.owned_by, server.listed = "gateway", ["one", "two"]
    result = ask("toy", preset=preset, table=None)
    assert result.model == "toy"
    assert found(result)["model"] == ("toy is not listed", False)
    said = "`toi` does not exist.*; 'toi' is not among its models: one, two$"
    with pytest.raises(RemoteError, match=f"no API of the server answers.*{said}"):
        ask("toi", preset=preset, table=None)


def test_a_gateway_may_break_down_over_what_it_does_not_serve(
    server: ModelServer, ask: Ask
) -> None:
    server.owned_by, server.listed = "gateway", ["one"]
    server.plan = lambda number, prompts: Fault.ERROR
    with pytest.raises(RemoteError, match="HTTP 500.*; 'toy' is not among its models: one$"):
        ask("toy", table=None)


@pytest.mark.parametrize("listed", [None, ()])
def test_a_server_that_lists_nothing(server: ModelServer, ask: Ask, listed: Any) -> None:
    server.listed = listed
    with pytest.raises(ConfigError, match="name one with --model"):
        ask()
    assert ask("toy", preset="vllm").access.tier == "embeddings"


@pytest.mark.parametrize("data", ['{"data": 5}', "[]", '"x"', '{"data": {"id": "toy"}}', "null"])
def test_a_list_of_models_that_is_none(
    ask: Ask, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def inform(self: ModelServer, peer: Any, path: str) -> None:
        await peer.send_raw(200, data.encode())

    monkeypatch.setattr(ModelServer, "_inform", inform)
    with pytest.raises(ConfigError, match="does not list its models"):
        ask()


# ------------------------------------------------------------------------ servers that are not well


def test_a_key_that_is_not_accepted(
    server: ModelServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = KEY
    monkeypatch.setenv("MY_KEY", "sk-another-key-altogether")
    with pytest.raises(AuthorisationError, match="does not accept the API key") as caught:
        ask(key_env="MY_KEY")
    assert "altogether" not in str(caught.value)
    assert len(server.requests) == 1
    monkeypatch.setenv("MY_KEY", KEY)
    assert ask(key_env="MY_KEY").access.tier == "embeddings"


def test_nothing_listening_is_said_quickly(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for preset in (None, "anthropic"):  # which lists no models
        began = time.monotonic()
        with pytest.raises(RemoteError, match=f"nothing answers at {url}"):
            probe(Endpoint(base_url=url, embeddings=str(folder), preset=preset), "m")
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("preset", [None, "azure-deployment"])
def test_a_web_page_is_no_model(server: ModelServer, ask: Ask, preset: str | None) -> None:
    server.pages = {"/v1/models", "/v1/completions", "/v1/chat/completions"}
    with pytest.raises(RemoteError, match="HTML page"):
        ask("toy", preset=preset, table=None)
    assert len(server.requests) <= 4


def test_retries_of_a_probe_end_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the jitter: the longest that the waits between attempts can add up to."""
    from blackbox_delta.backends.remote import probe as module

    monkeypatch.undo()
    from blackbox_delta.backends.remote.http import sender

    waits = [sender._FIRST_BACKOFF * 2**at for at in range(module._ATTEMPTS - 1)]
    assert sum(waits) < 10


def test_what_passes_is_tried_again(server: ModelServer, ask: Ask) -> None:
    sound = ask().access
    server.plan, server._number = scripted([Fault.ERROR, None, Fault.OVERLOADED, Fault.RESET]), 0
    assert ask().access == sound


def test_a_server_that_breaks_on_something_is_an_error(server: ModelServer, ask: Ask) -> None:
    server.plan = lambda number, prompts: Fault.ERROR if number > 3 else None
    with pytest.raises(RemoteError, match="failed 4 times .*HTTP 500"):
        ask()


# ------------------------------------------------------------------------ distances


def answer(*tokens: tuple[int | None, str, float]) -> Answer:
    return Answer("", tuple(Token(at, text.encode(), value) for at, text, value in tokens))


def test_distance_is_the_largest_difference_of_the_likeliest() -> None:
    one = answer((1, "a", -0.1), (2, "b", -2.5), (3, "c", -9.0))
    assert distance(one, one) == 0.0
    assert distance(one, answer((2, "b", -2.0), (1, "a", -0.2), (9, "c", -9.0))) == float("inf")
    near = answer((2, "b", -2.0), (1, "a", -0.2), (3, "c", -9.0))
    assert distance(one, near) == pytest.approx(0.5)
    assert distance(one, answer((1, "", -0.1), (2, "", -2.5)), tokens=2) == 0.0
    named = answer((None, "a", -0.1))
    assert distance(named, answer((None, "a", -0.4))) == pytest.approx(0.3)
    assert distance(answer(), one) == float("inf")
