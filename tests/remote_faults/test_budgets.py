"""A budget is never exceeded, whatever the server does: what it took in is counted on its side."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import threading
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import LOSING, REFUSING, Fault, FaultyServer, healthy, seeded
from scenes import EMBEDDINGS, TOP_TOKENS, AskedBackend, Scene, access, split
from table_server import TableServer

from blackbox_delta import tune
from blackbox_delta.api import forecast
from blackbox_delta.budget import MARGIN
from blackbox_delta.errors import BudgetError, RemoteError, SpentError
from blackbox_delta.journal import summarise
from blackbox_delta.report import time_free
from blackbox_delta.runs import HISTORY_NAME, JOURNAL_NAME, RESULT_NAME
from blackbox_delta.types import AnswerSlot, Json, Prompt, ScoreRequest, Words

#: Losing a reply, at once: those that take a time-out would only slow the tests down.
LOST_AT_ONCE = frozenset(LOSING) - {Fault.SILENCE, Fault.DRIP, Fault.BOMB}
#: Nothing is scored after the search, which alone has a budget.
NO_TEST = replace(split(2, 8, 3), test=())
SEARCH = Scene(
    "embeddings",
    EMBEDDINGS.access,
    {**EMBEDDINGS.settings, "population": 4},
    NO_TEST,
)
#: Views of 4 training examples, each with 8 texts of the head's own; a call is 4 queries.
AUTO = replace(TOP_TOKENS, data=NO_TEST)
CALL = len(NO_TEST.train)
VIEW = CALL + 8
#: The least that the search can begin with: the untuned model, a generation and a look.
LEAST = 8 + 4 * 4 + 8
#: As many requests as a client may have in flight.
AT_ONCE = 64

pytestmark = pytest.mark.usefixtures("no_waiting")


def taken_in(server: FaultyServer) -> int:
    """Queries that the server accepted, and so may bill."""
    return (server.received - server.refused).total()


def search(server: FaultyServer, table: Path, budget: str, **more: Any) -> Json:
    scene = more.pop("scene", SEARCH)
    with closing(scene.backend(server, table)) as backend:
        chosen = {**scene.settings, "budget": budget}
        return dict(tune(backend, scene.data, **chosen, **more).result)


# -------------------------------------------------------------------------- one request


def request(prompts: int, max_sent: int | None) -> ScoreRequest:
    texts = [Prompt((Words(f"text number {at} is"), AnswerSlot())) for at in range(prompts)]
    return ScoreRequest(texts, (" great", " terrible"), max_sent=max_sent)


class CrowdedServer(FaultyServer):
    """Answers nothing before so many requests are in flight at once as a client may have."""

    async def _deliver(self, *given: Any) -> None:
        while self.most_in_flight < AT_ONCE:
            await asyncio.sleep(0.005)
        await super()._deliver(*given)


def one_by_one(server: FaultyServer, table: Path) -> AskedBackend:
    single = replace(TOP_TOKENS, access=access("top-tokens", preset="generic", batch=1))
    return single.backend(server, table, concurrency=AT_ONCE)


@pytest.mark.parametrize(("queries", "seed"), [(64, 0), (65, 1), (130, 2)])
def test_refusals_cost_nothing_of_what_may_be_sent(queries: int, seed: int, table: Path) -> None:
    plan = seeded(seed, 0.4, REFUSING)
    with CrowdedServer(plan=plan) as server, closing(one_by_one(server, table)) as backend:
        scores = backend.score(request(queries, queries))
    assert server.answered.total() == taken_in(server) == queries
    assert server.refused.total() > 0
    assert server.most_in_flight == AT_ONCE
    assert scores.usage.queries == queries
    assert scores.usage.lost == 0


@pytest.mark.parametrize("spare", [0, 1, 20, 1000])
@pytest.mark.parametrize(("rate", "seed"), [(0.25, 0), (0.4, 1)])
def test_queries_that_are_lost_count_against_what_may_be_sent(
    spare: int, rate: float, seed: int, table: Path
) -> None:
    queries, plan = 100, seeded(seed, rate, LOST_AT_ONCE | REFUSING)
    with CrowdedServer(plan=plan) as server, closing(one_by_one(server, table)) as backend:
        try:
            lost = backend.score(request(queries, queries + spare)).usage.lost
            sent, enough = queries + lost, True
        except SpentError as error:
            sent, enough = error.sent, False
    assert taken_in(server) == sent <= queries + spare
    assert max(server.answered.values()) == 1
    assert server.most_in_flight == AT_ONCE
    # It gives up exactly when more was lost than there was to spare.
    assert enough == (sent - server.answered.total() <= spare)
    assert enough == (spare == 1000)


# --------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("budget", "seed"), [(LEAST, 0), (LEAST + 1, 1), (100, 2), (177, 3)])
def test_a_run_that_is_refused_a_lot_spends_what_one_that_is_not_does(
    budget: int, seed: int, table: Path
) -> None:
    with FaultyServer() as server:
        well = search(server, table, f"{budget} queries")
        assert server.answered.total() == well["queries"] <= budget
        server.answered.clear()
        server.received.clear()
        server.plan = seeded(seed, 0.5, REFUSING)
        ill = search(server, table, f"{budget} queries")
        assert server.answered.total() == taken_in(server) == ill["queries"]
    assert time_free(ill) == time_free(well)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
@pytest.mark.parametrize(("budget", "seed"), [(LEAST + 12, 0), (90, 1), (143, 2)])
def test_a_run_that_loses_replies_never_sends_more_than_its_budget(
    budget: int, rate: float, seed: int, table: Path
) -> None:
    """The untuned model is scored in peace: without it there is nothing to report."""
    faults = seeded(seed, rate, LOST_AT_ONCE | REFUSING, most_in_a_row=6)
    with FaultyServer(plan=lambda at, prompts: faults(at, prompts) if at >= 2 else None) as server:
        result = search(server, table, f"{budget} queries")
    assert taken_in(server) == result["queries"] + result["lost_queries"] <= budget
    assert max(server.answered.values()) == 1


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
@pytest.mark.parametrize(
    ("budget", "queries", "seed"),
    [("1 call", CALL, 0), ("7 calls", 7 * CALL, 1), ("33 queries", 33, 2), ("47 queries", 47, 3)],
)
def test_auto_never_sends_more_than_its_budget_whatever_is_lost(
    budget: str, queries: int, rate: float, seed: int, table: Path
) -> None:
    """In calls too: one is as many queries as there are training examples, lost ones included."""
    faults = seeded(seed, rate, LOST_AT_ONCE | REFUSING, most_in_a_row=6)
    with FaultyServer(plan=lambda at, prompts: faults(at, prompts) if at >= 1 else None) as server:
        result = search(server, table, budget, scene=AUTO)
    sent = taken_in(server)
    assert sent == result["queries"] + result["lost_queries"] <= queries
    assert result["calls"] == pytest.approx(sent / CALL)
    assert max(server.answered.values()) == 1
    if not rate:
        assert sent > queries - VIEW, "what pays for a view is spent"


def test_a_budget_is_kept_over_runs_that_end_in_errors(table: Path, tmp_path: Path) -> None:
    """The server loses everything for a while; the run is resumed again and again."""
    budget = 150
    given: Json = {"out": tmp_path / "run", "resume": True}
    with FaultyServer(plan=lambda at, _prompts: Fault.ERROR if at >= 4 else None) as server:
        with pytest.raises(RemoteError):
            search(server, table, f"{budget} queries", **given)
        lost = taken_in(server) - server.answered.total()
        assert lost > 0
        kept = summarise(tmp_path / "run" / JOURNAL_NAME).total
        assert (kept.usage.lost, kept.sent) == (lost, taken_in(server))
        for _ in range(3):
            with suppress(RemoteError):
                search(server, table, f"{budget} queries", **given)
        server.plan = healthy
        result = search(server, table, f"{budget} queries", **given)
    assert taken_in(server) <= budget
    assert result["queries"] + result["lost_queries"] == taken_in(server)
    assert max(server.answered.values()) == 1


def test_what_ctrl_c_cut_off_is_in_the_books(table: Path, tmp_path: Path) -> None:
    """What is under way then may be billed, and is not paid out of the budget twice."""
    # Shells have their background jobs ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    budget, given = LEAST + 40, {"out": tmp_path / "run", "resume": True}
    timers: list[threading.Timer] = []

    def interrupt(number: int, _prompts: list[str]) -> Fault | None:
        if number == 4:
            timers.append(threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)))
            timers[0].start()
        return Fault.SILENCE if number >= 4 else None

    try:
        with FaultyServer(plan=interrupt) as server:
            with pytest.raises(KeyboardInterrupt):
                search(server, table, f"{budget} queries", **given)
            cut_off = taken_in(server) - server.answered.total()
            server.plan = healthy
            result = search(server, table, f"{budget} queries", **given)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result["lost_queries"] == cut_off > 0
    assert result["queries"] + cut_off == taken_in(server) <= budget


def test_auto_that_runs_out_over_lost_replies_answers_with_what_it_has(
    table: Path, tmp_path: Path
) -> None:
    """From some request on every reply is lost; resumed, it pays nothing and ends alike."""
    with FaultyServer(
        plan=lambda number, _prompts: Fault.TRUNCATED if number >= 3 else None
    ) as server:
        given: Json = {"scene": AUTO, "out": tmp_path / "run"}
        result = search(server, table, "6 calls", **given)
        sent = taken_in(server)
        assert server.answered.total() == VIEW < sent <= 6 * CALL
        assert (result["queries"], result["lost_queries"]) == (VIEW, sent - VIEW)
        assert [part["part"] for part in result["parts"]] == [
            "the default view",
            "anchors of its label words",
            "further views",
        ]
        assert result["parts"][2]["finished"] == []
        server.plan = healthy
        again = search(server, table, "6 calls", resume=True, **given)
        assert taken_in(server) == sent
    assert time_free(again) == time_free(result)


def test_the_budget_may_run_out_in_the_middle_of_a_generation(table: Path, tmp_path: Path) -> None:
    """The result then rests on the generations before, and says what was lost."""
    with FaultyServer() as server:
        # From some request on every first attempt is lost.
        lost: set[tuple[str, ...]] = set()

        def plan(number: int, prompts: list[str]) -> Fault | None:
            key = tuple(prompts)
            if number < 8 or key in lost:
                return None
            lost.add(key)
            return Fault.TRUNCATED

        server.plan = plan
        budget = 2 * LEAST + 12
        result = search(server, table, f"{budget} queries", out=tmp_path / "run")
        assert result["lost_queries"] > 0
        sent = taken_in(server)
        assert result["queries"] + result["lost_queries"] == sent <= budget
        generations = (tmp_path / "run" / HISTORY_NAME).read_text().splitlines()
        assert len(generations) == result["generations"] >= 1
        # Some of what was sent belongs to a generation that was never finished.
        finished = json.loads(generations[-1])
        assert finished["queries"] < result["queries"]
        assert json.loads((tmp_path / "run" / RESULT_NAME).read_text()) == result
        server.plan = healthy
        again = search(server, table, f"{budget} queries", out=tmp_path / "run", resume=True)
        assert taken_in(server) == sent, "a finished run pays for nothing when it is resumed"
        assert time_free(again) == time_free(result)


# ----------------------------------------------------------------------- tokens and money


def tokens(counts: Counter[str]) -> int:
    """Prompt tokens of so many queries, by the prompts that a :class:`TableServer` sees."""
    return sum(len(prompt.split()) * count for prompt, count in counts.items())


@pytest.mark.parametrize("scene", [SEARCH, AUTO], ids=["search", "auto"])
@pytest.mark.parametrize("budget", ["1000 tokens", "$0.0013"])
def test_tokens_and_money_pay_for_lost_replies_too(budget: str, scene: Scene, table: Path) -> None:
    """From the third request on, seven of eight attempts are lost."""
    attempts: Counter[tuple[str, ...]] = Counter()

    def plan(number: int, prompts: list[str]) -> Fault | None:
        attempts[tuple(prompts)] += 1
        return Fault.TRUNCATED if number >= 4 and attempts[tuple(prompts)] % 8 else None

    with TableServer(folder=table, plan=plan) as server:
        result = search(server, table, budget, scene=scene)
    sent = server.received
    assert (sent - server.answered).total() == result["lost_queries"] > 0
    limit = float(budget.removeprefix("$").removesuffix(" tokens"))
    taken = tokens(sent)
    spent = (taken + 3 * sent.total()) / 1e6 if budget.startswith("$") else taken
    assert spent <= limit + 1e-12


@pytest.mark.parametrize("kinds", [REFUSING, LOST_AT_ONCE])
@pytest.mark.parametrize("budget", ["400 tokens", "1000 tokens", "$0.0006", "$0.0013"])
def test_tokens_and_money_are_exceeded_by_lost_replies_alone(
    kinds: frozenset[Fault], budget: str, table: Path
) -> None:
    with TableServer(folder=table, plan=seeded(1, 0.4, kinds)) as server:
        result = search(server, table, budget)
    sent = server.received - server.refused
    assert result["tokens"] == tokens(sent)
    assert result["output_tokens"] == sent.total()
    assert result["cost_usd"] == pytest.approx((tokens(sent) + 3 * sent.total()) / 1e6)
    lost = sent - server.answered
    limit = float(budget.removeprefix("$").removesuffix(" tokens"))
    spent, spilt = result["tokens"], tokens(lost)
    if budget.startswith("$"):
        spent, spilt = result["cost_usd"], (tokens(lost) + 3 * lost.total()) / 1e6
    assert spent <= limit + spilt + 1e-12
    assert bool(lost) == (kinds is LOST_AT_ONCE)
    assert spent > 0.5 * limit


def test_where_tokens_are_estimated_a_margin_is_kept_back(table: Path) -> None:
    """The toy server counts words, of which there is one in five bytes or so."""
    estimate = {"tokens_per_byte": 0.19, "overhead": 0.0}
    how = access("top-tokens", preset="generic", **estimate)
    chosen = {**TOP_TOKENS.settings, "recipe": "search", "max_queries_per_example": None}
    scene = replace(TOP_TOKENS, access=how, settings=chosen, data=NO_TEST)
    with FaultyServer() as server:
        with closing(scene.backend(server, table)) as backend:
            [start] = forecast(backend, NO_TEST, **{**scene.settings, "budget": "9 calls"}).starts
        least = math.ceil(start.search.tokens * (1 + MARGIN))
        with pytest.raises(BudgetError, match="a tenth to spare as tokens are estimated"):
            search(server, table, f"{least - 1} tokens", scene=scene)
        assert not server.received
        result = search(server, table, f"{least} tokens", scene=scene)
    assert result["tokens"] == tokens(server.answered) != start.search.tokens
    assert result["tokens"] <= least


@pytest.mark.parametrize("per_byte", [0.19, 0.1])
def test_auto_asks_nothing_more_once_estimates_have_spent_its_budget(
    per_byte: float, table: Path
) -> None:
    """Its tokens are exceeded by one request at most, and by nothing where estimates are good."""
    how = access("top-tokens", preset="generic", tokens_per_byte=per_byte, overhead=0.0)
    with FaultyServer() as server:
        asked: list[int] = []

        def plan(_number: int, prompts: list[str]) -> None:
            asked.append(sum(len(prompt.split()) for prompt in prompts))

        server.plan = plan
        result = search(server, table, "260 tokens", scene=replace(AUTO, access=how))
    assert result["tokens"] == tokens(server.answered) == sum(asked)
    assert result["tokens"] - asked[-1] <= 260
    if per_byte == 0.19:
        assert 130 < result["tokens"] <= 260
