from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BackendError, BudgetError, ConfigError
from blackbox_delta.heads import make_head
from blackbox_delta.history import History, read_history
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.objectives import make_objective
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.probing import PROBED, PROBES, SMALLEST, does_no_harm
from blackbox_delta.problem import Problem, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import DEFAULT_STARTS, FewShotSplit, draw_split, load_task
from blackbox_delta.tuner import CHECK_EVERY, Outcome, Progress, Tuner
from blackbox_delta.types import DeltaBatch, Json, Prompt, ScoreRequest, Scores, Sink

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=2, seed=0, max_test=10)
N = M = 10  # training and development examples
POPULATION = 4
SEARCHED = {"dimension": 20, "soft_tokens": 3, "population": POPULATION}
SMALL: dict[str, Any] = {
    "recipe": "search",
    **SEARCHED,
    "head": "calibrated",
    "budget": "50 calls",
}


class Counting(FakeBackend):
    """Counts what it really gets and remembers the prompts."""

    def __init__(self, **knobs: Any) -> None:
        super().__init__(**knobs)
        self.got = {"calls": 0, "queries": 0, "tokens": 0}
        self.prompts: set[Prompt] = set()
        self.requests: list[tuple[int, int, int]] = []  # λ, n, k

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        reply = super().score(request, sink)
        self.got["calls"] += request.candidates
        self.got["queries"] += request.candidates * len(request.prompts)
        self.got["tokens"] += request.candidates * int(self.count_tokens(request).sum())
        self.prompts.update(request.prompts)
        self.requests.append((request.candidates, len(request.prompts), request.top_k))
        return reply


class Run:
    """One run of the tuner, with all that can be seen of it."""

    def __init__(
        self, backend: Counting | None = None, split: FewShotSplit = SPLIT, **given: Any
    ) -> None:
        self.settings = Settings.of({**SMALL, **given})
        self.backend = backend or Counting()
        self.budget = Budget.parse(self.settings.budget)
        self.problem: Problem = build_problem(self.backend, split, self.settings)
        self.told: list[Progress] = []
        self.tuner = Tuner(self.backend, self.problem, self.settings, self.budget, self.told.append)

    def go(self) -> Outcome:
        return self.tuner.run(self.backend)

    def into(self, folder: Path) -> tuple[Outcome, list[Json]]:
        """Runs with a history and a journal."""
        with (
            Journal.open(folder / "journal", create=True) as journal,
            History.open(folder / "history", resume=False) as history,
        ):
            outcome = self.tuner.run(JournaledBackend(self.backend, journal), history)
            return outcome, history.records

    def with_history(self, path: Path) -> tuple[Outcome, list[Json]]:
        with History.open(path, resume=False) as history:
            outcome = self.tuner.run(self.backend, history)
        return outcome, read_history(path)


def time_free(records: list[Json]) -> list[Json]:
    return [
        {name: value for name, value in record.items() if not name.endswith("seconds")}
        for record in records
    ]


# ------------------------------------------------------------------------- the loop


def test_the_loop_asks_what_the_design_says() -> None:
    run = Run(head="ridge")
    outcome = run.go()
    top = make_head("ridge").top_k
    look = [(1, N, top), (1, M, top)]
    generation = [(POPULATION, N, top)]
    # 3 + 4·4 + 2 + 4·4 + 2 + 2·4 + 2 = 49 calls; a generation and its look take 6.
    starts = [(1, N, top)] * len(DEFAULT_STARTS) + [(1, M, top)]
    expected = starts + 2 * (CHECK_EVERY * generation + look) + 2 * generation + look
    assert run.backend.requests == expected
    assert outcome.generations == 2 * CHECK_EVERY + 2
    assert run.budget.calls == 49


def harm(calls: int = 100, **given: Any) -> tuple[Run, list[tuple[int, int, int]]]:
    """A run, and what it asked between its starts and its first generation."""
    run = Run(budget=f"{calls} calls", **given)
    run.go()
    after = len(DEFAULT_STARTS) + 1
    asked = run.backend.requests[after:]
    return run, asked[: next(n for n, each in enumerate(asked) if each[0] == POPULATION)]


def test_first_steps_are_probed_where_that_takes_a_tenth_of_the_budget() -> None:
    probes = 1 + len(PROBED) * PROBES
    assert harm(10 * probes)[1] == [(probes, N, 0)]
    assert harm(10 * probes - 1)[1] == []
    assert harm(scale=0.3)[1] == []


def test_the_largest_harmless_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told from the replies by the head and the rule itself, and handed to the optimizer."""
    taken: list[float] = []

    def spied(*args: Any, **named: Any) -> Any:
        taken.append(named["sigma"])
        return make_optimizer(*args, **named)

    monkeypatch.setattr("blackbox_delta.tuner.loop.make_optimizer", spied)
    run = Run(budget="100 calls", seed=1)
    kept: list[Scores] = []
    score = run.backend.score

    def remembered(request: ScoreRequest, sink: Sink | None = None) -> Scores:
        reply = score(request, sink)
        if request.purpose == "probe":
            kept.append(reply)
        return reply

    monkeypatch.setattr(run.backend, "score", remembered)
    outcome = run.go()

    [probes] = kept
    train, head = outcome.problem.train, make_head("calibrated")
    losses = [
        -head.held_out(evidence, train.labels, None)[np.arange(N), train.labels]
        for evidence in probes
    ]
    expected = SMALLEST
    for place, sigma in reversed(list(enumerate(PROBED))):
        both = losses[1 + PROBES * place : 1 + PROBES * (place + 1)]
        if does_no_harm(np.mean(both, axis=0) - losses[0]):
            expected = sigma
    assert taken[-1] == expected


def test_the_journalled_and_the_journal_free_run_agree(tmp_path: Path) -> None:
    plain, plain_history = Run(head="ridge").with_history(tmp_path / "plain")
    journalled, history = Run(head="ridge").into(tmp_path)
    assert time_free(plain_history) == time_free(history)
    assert len(plain.options) == len(journalled.options)
    for one, other in zip(plain.options, journalled.options, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.dev_losses, other.dev_losses)
        for name, value in one.head.state().items():
            np.testing.assert_array_equal(value, other.head.state()[name])
        if one.z is None or other.z is None:
            assert one.z is other.z
        else:
            np.testing.assert_array_equal(one.z, other.z)


@pytest.mark.parametrize("optimizer", ["cma", "cma-diagonal", "eggroll", "random"])
def test_equal_seeds_give_equal_runs(optimizer: str, tmp_path: Path) -> None:
    histories = []
    for number, seed in enumerate((3, 3, 4)):
        run = Run(optimizer=optimizer, seed=seed, budget="24 calls")
        histories.append(time_free(run.with_history(tmp_path / str(number))[1]))
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def calibrated_loss(
    problem: Problem, delta: DeltaBatch | None, objective: str = "cross-entropy"
) -> float:
    """Held-out training loss of one candidate behind the calibrated head, worked out afresh."""
    scores = FakeBackend().score(problem.request(problem.train.prompts, delta, 0))
    x, y = scores.label_logprobs[0].astype(float), problem.train.labels
    # Every example is centred by the nine others.
    logits = np.array([x[i] - np.delete(x, i, axis=0).mean(axis=0) for i in range(N)])
    return make_objective(objective)(log_softmax(logits, axis=1), y)


@pytest.mark.parametrize("objective", ["cross-entropy", "hinge"])
def test_the_search_lowers_the_training_loss(objective: str) -> None:
    run = Run(objective=objective, budget="1000 calls", dimension=10, population=10)
    outcome = run.go()
    untuned, *_ = outcome.options
    found = [option for option in outcome.options if option.name == "delta"]
    # All that a soft prompt can do for this head is to go along the planted direction.
    direction = np.tile(run.backend.planted_direction, (1, 3, 1))
    planted = min(
        calibrated_loss(
            outcome.problem, DeltaBatch("soft-prompt", {"soft.0": step * direction}), objective
        )
        for step in np.linspace(0, 1, 101, dtype=np.float32)
    )
    assert planted < 0.98 * untuned.train_loss
    for loss in (found[-1].train_loss, run.told[-1].best_loss):
        assert loss == pytest.approx(planted, rel=1e-3)
    best = [progress.best_loss for progress in run.told]
    assert best == sorted(best, reverse=True)


def test_the_loss_is_the_objective_of_held_out_predictions() -> None:
    run = Run()
    outcome = run.go()
    expected = calibrated_loss(outcome.problem, outcome.problem.delta(np.zeros(20)))
    assert outcome.options[0].train_loss == pytest.approx(expected, rel=1e-6)


def test_the_untuned_options_come_first() -> None:
    run = Run(head="ridge")
    outcome = run.go()
    names = [option.name for option in outcome.options]
    assert names[:2] == ["calibrated", "head"]
    assert set(names[2:]) == {"delta"}
    assert [option.head.kind for option in outcome.options[:3]] == ["calibrated", "ridge", "ridge"]
    for option in outcome.options[:2]:
        np.testing.assert_array_equal(option.z, np.zeros(20))
    assert any(outcome.chosen is option for option in outcome.options)


def test_every_generation_is_recorded_and_observed(tmp_path: Path) -> None:
    run = Run()
    outcome, records = run.with_history(tmp_path / "history")
    numbers = list(range(1, outcome.generations + 1))
    assert [record["generation"] for record in records] == numbers
    assert [progress.generation for progress in run.told] == numbers
    checked = [record["generation"] for record in records if "mean_dev_loss" in record]
    assert checked == [4, 8, outcome.generations]
    assert len(checked) == len(outcome.options) - 2
    assert records[-1]["calls"] == run.budget.calls
    assert run.told[-1].dev_accuracy == outcome.chosen.dev_accuracy
    seconds = outcome.seconds
    assert 0 < records[0]["optimizer_seconds"] <= records[-1]["optimizer_seconds"]
    assert records[-1]["optimizer_seconds"] == seconds.optimizer
    assert records[-1]["head_seconds"] <= seconds.head


def test_without_a_slot_two_calls_suffice() -> None:
    unsearched = {"template": "{text} It is {label}", **dict.fromkeys(SEARCHED)}
    run = Run(**unsearched, budget="2 calls", head="ridge")
    outcome = run.go()
    assert run.backend.got["calls"] == 2
    assert outcome.generations == 0
    assert [option.name for option in outcome.options] == ["calibrated", "head"]
    assert all(option.z is None for option in outcome.options)
    with pytest.raises(BudgetError, match="give at least 2"):
        Run(**unsearched, budget="1 call")


def test_content_free_queries_are_counted() -> None:
    free = len(make_head("contextual").references(()))
    run = Run(head="contextual")
    outcome = run.go()
    looks = len(outcome.options) - 1  # the untuned model's and one for each delta
    starts = len(DEFAULT_STARTS) - 1  # the others are asked about the training examples alone
    expected = (looks * (N + free + M) + starts * (N + free)) + outcome.generations * POPULATION * (
        N + free
    )
    assert run.budget.usage.queries == expected
    assert run.backend.got == {
        "calls": run.budget.calls,
        "queries": expected,
        "tokens": run.budget.usage.tokens,
    }


# ------------------------------------------------------------------------- the start

STARTS = ("\nCategory:", "\nIn one word, it is", "the market", "my parcel is late", "a new coach")


@pytest.mark.parametrize("shift", range(len(STARTS)))
def test_the_search_begins_where_the_held_out_training_loss_is_lowest(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = STARTS[shift:] + STARTS[:shift]
    monkeypatch.setattr("blackbox_delta.problem.starts.DEFAULT_STARTS", starts)
    run = Run()
    table = run.backend.embedding_table
    assert table is not None
    losses = {}
    for words in starts:
        rows = table.rows(table.tokenize(words)[:3])
        soft = DeltaBatch("soft-prompt", {"soft.0": np.resize(rows, (1, 3, rows.shape[1]))})
        losses[words] = calibrated_loss(run.problem, soft)
    assert len({round(loss, 6) for loss in losses.values()}) == len(STARTS)
    outcome = run.go()
    best = min(losses, key=lambda words: losses[words])
    assert outcome.problem.words == best
    assert outcome.options[0].train_loss == pytest.approx(losses[best], rel=1e-6)
    assert outcome.problem.frame is not None
    rows = table.rows(table.tokenize(best)[:3]).reshape(-1)
    np.testing.assert_array_equal(outcome.problem.frame.delta.origin, rows)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_start_is_charged_one_call(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbox_delta.problem.starts.DEFAULT_STARTS", STARTS[:count])
    assert least("calls") == count + 1 + POPULATION + 2
    run = Run(Counting(fail_at=[count + 2]))  # after the development examples
    with pytest.raises(BackendError):
        run.go()
    assert run.backend.requests == [(1, N, 0)] * count + [(1, M, 0)]
    assert run.budget.calls == count + 1


@pytest.mark.parametrize(
    "given_settings",
    [
        {"template": "{text} {soft} It is {label}"},
        {"template": "{text} {soft} It is {label}", "soft_init": "text:It was"},
        {"soft_init": "text:It was"},
        {"soft_init": "random"},
        {"soft_init": "zero"},
    ],
)
def test_a_start_of_ones_own_is_the_only_one(given_settings: dict[str, Any]) -> None:
    run = Run(**given_settings)
    outcome = run.go()
    assert outcome.problem is run.problem
    assert run.problem.rivals == ()
    text = "It was" if given_settings.get("soft_init") == "text:It was" else None
    assert outcome.problem.words == text
    assert run.backend.requests[:3] == [(1, N, 0), (1, M, 0), (POPULATION, N, 0)]


def test_the_smallest_budget_pays_for_whichever_start_wins() -> None:
    """Starts of their own lengths cost different numbers of tokens."""
    smallest = least("tokens", soft_tokens=None)
    run = Run(soft_tokens=None, budget=f"{smallest} tokens")
    assert run.go().generations == 1
    assert run.budget.usage.tokens <= smallest


@pytest.mark.parametrize("seed", [0, 1, 13])
@pytest.mark.parametrize("optimizer", ["cma", "cma-diagonal", "random", "nevergrad:OnePlusOne"])
def test_the_search_shares_no_stream_with_its_subspace_and_its_start(
    optimizer: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    subspace = np.random.PCG64(seed).state["state"]
    streams: list[dict[str, int]] = []

    class Watched(np.random.PCG64):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            streams.append(self.state["state"])

    monkeypatch.setattr(np.random, "PCG64", Watched)
    run = Run(optimizer=optimizer, seed=seed)
    make_optimizer(optimizer, 20, seed=seed)
    searching = streams[-1]
    assert streams.count(searching) == 2, "the run's own and this one"
    problem = build_problem(run.backend, SPLIT, run.settings)
    problem.delta(np.ones(20))  # the subspace is drawn when something moves in it
    assert streams.count(searching) == 2
    assert subspace in streams, "the subspace was watched"


# ------------------------------------------------------------------------- honesty


def test_the_test_part_is_not_sent_before_the_choice() -> None:
    run = Run()
    run.go()
    sent = run.backend.prompts
    assert sent == {*run.problem.train.prompts, *run.problem.dev.prompts}
    assert not sent & set(run.problem.test.prompts)


def test_development_labels_do_not_steer_the_search(tmp_path: Path) -> None:
    labels = [example.label for example in SPLIT.dev]
    moved = tuple(
        replace(example, label=label)
        for example, label in zip(SPLIT.dev, labels[1:] + labels[:1], strict=True)
    )
    one, records = Run(head="ridge").with_history(tmp_path / "one")
    other, others = Run(split=replace(SPLIT, dev=moved), head="ridge").with_history(
        tmp_path / "other"
    )
    names = ("best_loss", "median_loss", "lowest_loss_so_far", "calls", "mean_train_loss")
    for record, another in zip(records, others, strict=True):
        assert [record.get(name) for name in names] == [another.get(name) for name in names]
    for option, another_option in zip(one.options[2:], other.options[2:], strict=True):
        np.testing.assert_array_equal(option.z, another_option.z)
        assert option.dev_loss != another_option.dev_loss


# ------------------------------------------------------------------------- the budget


def least(unit: str, **given: Any) -> int:
    """The smallest budget, as the message says it."""
    with pytest.raises(BudgetError) as caught:
        Run(budget=f"1 {unit}", **given)
    match = re.search(r"give at least (\d+)", str(caught.value))
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize("unit", ["calls", "queries", "tokens"])
@pytest.mark.parametrize("soft_init", [None, "random"])
def test_the_smallest_budget_pays_for_one_generation_and_is_spent_whole(
    unit: str, soft_init: str | None
) -> None:
    smallest = least(unit, soft_init=soft_init)
    run = Run(budget=f"{smallest} {unit}", soft_init=soft_init)
    assert run.go().generations == 1
    assert run.backend.got[unit] == smallest
    backend = Counting()
    with pytest.raises(BudgetError, match="is too small"):
        Run(backend, budget=f"{smallest - 1} {unit}", soft_init=soft_init)
    assert backend.calls == 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), unit=st.sampled_from(["calls", "queries", "tokens"]))
def test_the_budget_is_never_exceeded_and_counted_exactly(data: st.DataObject, unit: str) -> None:
    given_settings = {
        "population": data.draw(st.integers(4, 8)),
        "head": data.draw(st.sampled_from(["calibrated", "contextual"])),
        "soft_init": data.draw(st.sampled_from([None, "random"])),
    }
    smallest = least(unit, **given_settings)
    limit = data.draw(st.integers(smallest, 4 * smallest))
    run = Run(budget=f"{limit} {unit}", **given_settings)
    run.go()
    got = run.backend.got
    usage = run.budget.usage
    assert got == {"calls": run.budget.calls, "queries": usage.queries, "tokens": usage.tokens}
    assert got[unit] <= limit
    # What is left would not have paid for another generation and its look.
    assert limit - got[unit] < smallest


class Timed(Counting):
    """Says that every candidate takes one second, however busy the machine is."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        reply = super().score(request, sink)
        return replace(reply, usage=replace(reply.usage, seconds=float(request.candidates)))


def test_a_budget_in_seconds_ends_the_run() -> None:
    run = Run(Timed(), budget="50 s")
    outcome = run.go()
    assert 1 <= outcome.generations <= 10
    # Predictions go by the slowest token so far, so they err on the safe side, but not by half.
    assert 50 - 1.5 * (POPULATION + 2) < run.budget.usage.seconds <= 50


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given_settings", "what"),
    [
        ({"head": "tail"}, "no head called 'tail'"),
        ({"objective": "glory"}, "no objective 'glory'"),
        ({"optimizer": "sgd"}, "no optimizer 'sgd'"),
        ({"optimizer": "nevergrad:Nope"}, "nevergrad has no optimizer 'Nope'"),
        ({"optimizer": "nevergrad:FCMA"}, "nevergrad:FCMA' cannot be used"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_spent(
    given_settings: dict[str, Any], what: str
) -> None:
    backend = Counting()
    with pytest.raises(ConfigError, match=what):
        Run(backend, **given_settings)
    assert backend.calls == 0


@pytest.mark.parametrize("call", [1, 2, 3, 7])
@pytest.mark.parametrize("fault", ["fail_at", "nan_at"])
def test_a_failed_reply_is_an_error_and_not_charged(call: int, fault: str) -> None:
    run = Run(Counting(**{fault: [call]}), head="ridge")
    with pytest.raises(BackendError):
        run.go()
    assert run.backend.calls == call
    sound = Run(Counting(), head="ridge")
    sound.go()
    assert run.budget.calls == sum(asked[0] for asked in sound.backend.requests[: call - 1])
