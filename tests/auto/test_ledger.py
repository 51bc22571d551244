"""The ledger: what each part cost is the difference that it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from planted import seen_of

from blackbox_delta.auto.ledger import Ledger
from blackbox_delta.auto.pooling import Pooled
from blackbox_delta.budget import Budget
from blackbox_delta.history import History, read_history
from blackbox_delta.types import Usage

PROBABILITIES = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1], [0.3, 0.7]])
POOLED = Pooled.of([seen_of(np.log(PROBABILITIES))], np.ones(1), np.array([0, 1, 0, 1]))


@given(charges=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 900)), max_size=8))
def test_what_the_parts_cost_adds_up_to_what_was_spent(charges: list[tuple[int, int]]) -> None:
    budget = Budget(10**6, "queries")
    ledger = Ledger(budget)
    for queries, tokens in charges:
        # In two pieces, as a part may take several requests.
        budget.charge(Usage(queries, tokens - tokens // 3), calls=0)
        budget.charge(Usage(0, tokens // 3), calls=0)
        ledger.note("a part", ["one"], [], POOLED)
    assert [(part["queries"], part["tokens"]) for part in ledger.parts] == charges


def test_an_entry_says_who_finished_who_dropped_and_how_good_the_pool_is() -> None:
    ledger = Ledger(Budget(10))
    names = ["one", "two"]
    ledger.note("further views", names, ("three",), POOLED, {"kept": True})
    names.append("changed afterwards")
    (entry,) = ledger.parts
    assert entry == {
        "part": "further views",
        "finished": ["one", "two"],
        "dropped": ["three"],
        "calls": 0,
        "queries": 0,
        "tokens": 0,
        "held_out_loss": POOLED.loss,
        "held_out_accuracy": POOLED.accuracy,
        "kept": True,
    }
    assert json.loads(json.dumps(entry)) == entry


def test_the_history_takes_the_entries_as_they_come(tmp_path: Path) -> None:
    ledger = Ledger(Budget(10))
    path = tmp_path / "history.jsonl"
    ledger.note("before anybody wrote", [], [], POOLED)
    with History.open(path, resume=False) as history:
        ledger.history = history
        for number in range(3):
            ledger.note(f"part {number}", [], [], POOLED)
            assert read_history(path) == ledger.parts[1:]
