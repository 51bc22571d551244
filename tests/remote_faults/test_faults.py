"""Whole runs through a server that fails most of the time end as through one that never does.

``pytest -s tests/remote_faults/test_faults.py`` prints how often it failed and how.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import LASTING, REFUSING, Fault, FaultyServer, healthy
from scenes import EMBEDDINGS, TEXT, TOP_TOKENS, AskedBackend, Dealer, Scene, check_journal, split

from blackbox_delta import tune
from blackbox_delta.artifact import ARRAYS_NAME, JSON_NAME
from blackbox_delta.errors import RemoteError
from blackbox_delta.journal import summarise
from blackbox_delta.report import ASKED_AGAIN, time_free
from blackbox_delta.runs import HISTORY_NAME, JOURNAL_NAME, RESULT_NAME
from blackbox_delta.types import Json

#: What a server may do that a later attempt can mend.
MENDED = [each for each in Fault if each not in LASTING | {Fault.REDIRECT, Fault.BOMB}]
#: These cost a time-out each, so they are dealt to many requests at once.
SLOW = [Fault.SILENCE, Fault.DRIP]
QUICK = [fault for fault in MENDED if fault not in SLOW]
SCENES = [EMBEDDINGS, TOP_TOKENS, TEXT]
#: Requests of the embeddings run before its first generation, and those of a generation.
BEFORE_SEARCH, AT_ONCE = 4, 40
#: What billing adds for replies that were lost.
BILLED = ("lost_queries", "tokens", "output_tokens", "cost_usd")
#: A call of ``auto`` is so many queries, those included whose reply is lost.
BILLED_TO_AUTO = ("calls", "parts")


@dataclass
class Ran:
    """A scene, run on one server without faults and then with them."""

    scene: Scene
    server: FaultyServer
    folders: dict[str, Path]
    backend: AskedBackend
    plain_backend: AskedBackend

    def read(self, name: str) -> list[bytes]:
        """The same file of both runs."""
        return [(folder / name).read_bytes() for folder in self.folders.values()]

    def results(self) -> list[Json]:
        return [time_free(json.loads(content)) for content in self.read(RESULT_NAME)]


@pytest.fixture(scope="module")
def ran(table: Path, tmp_path_factory: pytest.TempPathFactory, no_waiting: None) -> dict[str, Ran]:
    """Every scene, with and without faults."""
    runs = {}
    for scene in SCENES:
        with FaultyServer() as server:
            folder = tmp_path_factory.mktemp(scene.name)
            folders = {name: folder / name for name in ("well", "ill")}
            plain_backend = run(scene, server, table, folders["well"])
            forget(server)
            at_once = dict.fromkeys(SLOW, AT_ONCE // 2) if scene is EMBEDDINGS else {}
            server.plan = Dealer(QUICK, at_once, first=BEFORE_SEARCH)
            backend = run(scene, server, table, folders["ill"])
            runs[scene.name] = Ran(scene, server, folders, backend, plain_backend)
    return runs


def run(scene: Scene, server: FaultyServer, table: Path, out: Path, **more: Any) -> AskedBackend:
    backend = scene.backend(server, table, timeout=5.0, concurrency=AT_ONCE)
    try:
        tune(backend, scene.data, out=out, **scene.settings, **more)
    finally:
        backend.close()
    return backend


def forget(server: FaultyServer) -> None:
    """Starts all of the server's counts afresh."""
    server._number = 0
    for counts in (server.received, server.answered, server.refused, server.faults):
        counts.clear()


@pytest.fixture(params=[scene.name for scene in SCENES])
def each(request: pytest.FixtureRequest, ran: dict[str, Ran]) -> Ran:
    return ran[request.param]


# ---------------------------------------------------------------------- all kinds together


def test_a_thousand_faults_of_every_kind_were_injected(ran: dict[str, Ran]) -> None:
    faults: Counter[Fault] = Counter()
    for one in ran.values():
        faults.update(one.server.faults)
    received = sum(sum(one.server.received.values()) for one in ran.values())
    answered = sum(sum(one.server.answered.values()) for one in ran.values())
    again = answered - sum(len(one.server.answered) for one in ran.values())
    print_table(faults, received, answered, again)
    assert set(faults) == set(MENDED)
    assert faults.total() >= 1000
    assert min(faults.values()) >= 20


def print_table(faults: Counter[Fault], received: int, answered: int, again: int) -> None:
    lines = ["", "| fault | injected |", "| --- | ---: |"]
    lines += [f"| {kind.name.lower().replace('_', ' ')} | {faults[kind]} |" for kind in MENDED]
    lines += [f"| together | {faults.total()} |", ""]
    lines += [f"{received} queries received, {answered} answered, {again} of them again"]
    print("\n".join(lines))  # noqa: T201


def test_the_result_is_the_same_but_for_what_was_lost(each: Ran) -> None:
    well, ill = each.results()
    assert ill["lost_queries"] > 0
    for result in (well, ill):
        for part in ("", "test_"):
            for name in BILLED:
                del result[part + name]
        if result["recipe"] == "auto":
            for name in BILLED_TO_AUTO:
                del result[name]
    assert ill == well


def test_parts_that_were_lost_are_billed_to_the_part_that_lost_them(ran: dict[str, Ran]) -> None:
    well, ill = (result["parts"] for result in ran["top-tokens"].results())
    assert len(well) == len(ill) > 1
    for one, other in zip(well, ill, strict=True):
        for cost in ("calls", "tokens"):
            assert other.pop(cost) >= one.pop(cost)
        assert other == one


def test_the_artifact_is_the_same_to_the_byte(each: Ran) -> None:
    for name in (JSON_NAME, ARRAYS_NAME):
        well, ill = each.read(name)
        assert ill == well


def test_the_search_took_the_same_course(each: Ran) -> None:
    well, ill = (
        [
            {name: value for name, value in json.loads(line).items() if "seconds" not in name}
            for line in content.splitlines()
        ]
        for content in each.read(HISTORY_NAME)
    )
    for record in (*well, *ill):
        for cost in ("calls", "tokens"):  # of lost queries too
            record.pop(cost, None)
    assert ill == well
    # A search of the output side alone has no generations.
    assert bool(well) == (each.scene is not TEXT)


def test_every_reply_that_was_kept_is_what_the_model_says(each: Ran, table: Path) -> None:
    path = each.folders["ill"] / JOURNAL_NAME
    kept = check_journal(path, each.scene, each.backend, table)
    assert kept == len(each.server.answered) + ASKED_AGAIN


def test_nothing_that_was_answered_was_asked_again_but_on_purpose(each: Ran) -> None:
    """A few of the test's questions are put twice, to see whether the server is steady."""
    answered = each.server.answered
    again = {prompt for prompt, count in answered.items() if count == 2}
    [repeated] = [request for request in each.backend.asked if request.repeat]
    assert len(again) == len(repeated.prompts) == ASKED_AGAIN
    assert {count for prompt, count in answered.items() if prompt not in again} == {1}
    assert answered.keys() == each.server.received.keys()
    assert not any(result["comparison"]["unsteady"] for result in each.results())


def test_what_was_lost_is_counted_as_the_server_counts_it(each: Ran) -> None:
    server = each.server
    lost = (server.received - server.refused - server.answered).total()
    kept = summarise(each.folders["ill"] / JOURNAL_NAME).total.usage
    assert kept.lost == lost
    assert kept.queries == server.answered.total()
    well, ill = each.results()
    assert ill["lost_queries"] + ill["test_lost_queries"] == lost
    assert well["lost_queries"] == well["test_lost_queries"] == 0
    # One token is written for each query, whether its reply arrives or not.
    written = [result["output_tokens"] + result["test_output_tokens"] for result in (well, ill)]
    assert written[1] - written[0] == lost


# ------------------------------------------------------------------------ a fault that stays

SHORT = {
    "search": replace(
        EMBEDDINGS,
        settings={**EMBEDDINGS.settings, "budget": "15 calls", "population": 4},
        data=split(2, 8, 3),
    ),
    "auto": replace(TOP_TOKENS, data=split(2, 8, 3)),
}


@dataclass
class Broken:
    """A server that tests break, a scene, what a run of it asks, and that run's folder."""

    server: FaultyServer
    scene: Scene
    asked: Counter[str]
    folder: Path


@pytest.fixture(scope="module", params=list(SHORT))
def broken(
    request: pytest.FixtureRequest,
    table: Path,
    tmp_path_factory: pytest.TempPathFactory,
    no_waiting: None,
) -> Iterator[Broken]:
    scene, folder = SHORT[request.param], tmp_path_factory.mktemp("short")
    with FaultyServer() as server:
        run(scene, server, table, folder)
        yield Broken(server, scene, server.answered.copy(), folder)


@pytest.mark.parametrize(
    "fault", [each for each in Fault if each not in LASTING | {Fault.PERMUTED, Fault.BOMB}]
)
def test_a_fault_that_stays_ends_in_one_clear_error_and_the_run_can_go_on(
    fault: Fault, broken: Broken, table: Path, tmp_path: Path
) -> None:
    server, scene = broken.server, broken.scene
    # With a short time-out from the beginning, for a busy machine is as slow as a silent server.
    first, timeout = (0, 0.2) if fault in SLOW else (12, 30.0)
    forget(server)
    server.plan = lambda number, _prompts: fault if number >= first else None
    before = scene.backend(server, table, timeout=timeout)
    with pytest.raises(RemoteError) as caught:
        tune(before, scene.data, out=tmp_path / "run", **scene.settings)
    before.close()
    assert_clear(str(caught.value), fault)
    kept = summarise(tmp_path / "run" / JOURNAL_NAME).total
    assert kept.replies == server.answered.total()
    assert bool(kept.replies) == bool(first)
    server.plan = healthy
    after = run(scene, server, table, tmp_path / "run", resume=True)
    after.asked += before.asked
    check_journal(tmp_path / "run" / JOURNAL_NAME, scene, after, table)
    assert server.answered == broken.asked
    for name in (JSON_NAME, ARRAYS_NAME):
        assert (tmp_path / "run" / name).read_bytes() == (broken.folder / name).read_bytes()


def assert_clear(message: str, fault: Fault) -> None:
    """One line that says where, what and what now."""
    assert "\n" not in message
    assert len(message) < 400
    assert "http://127.0.0.1:" in message
    if fault is Fault.REDIRECT:
        assert "redirects to another server" in message
        return
    assert "What was answered is kept: check the server, then resume" in message
    expected = {
        Fault.TOO_MANY: "HTTP 429",
        Fault.TOO_MANY_WAIT: "HTTP 429",
        Fault.OVERLOADED: "HTTP 503",
        Fault.ERROR: "HTTP 500",
        Fault.RESET: "connection",
        Fault.SILENCE: "within 0.2 s",
        Fault.DRIP: "within 0.2 s",
        Fault.TRUNCATED: "connection",
        Fault.OTHER_JSON: "not what was asked for",
        Fault.HTML: "an HTML page",
        Fault.NO_LOGPROBS: "logprobs",
        Fault.NAN: "not JSON",
        Fault.FEWER: "answers to",
        Fault.DUPLICATED: "two answers",
    }
    assert expected[fault] in message
    assert fault in REFUSING or "failed" in message
