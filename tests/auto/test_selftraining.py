"""Co-training on planted clusters: kept where it helps, rejected where nothing can be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from planted import NAMES, OTHERS, Planted, asked_text, asker_of, bare_problem, noise, said, worded
from typer.testing import CliRunner

from blackbox_delta.api import describe, forecast, tune
from blackbox_delta.auto import selftraining
from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.pooling import Pooled, weigh
from blackbox_delta.auto.selftraining import (
    FOLDS,
    SURE,
    SelfTrained,
    _Lesson,
    self_train,
    sure_ones,
)
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.cli import app
from blackbox_delta.errors import ConfigError, DataError, RunError
from blackbox_delta.members import pool
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import task_from_lists
from blackbox_delta.types import Evidence, Example, FittedHead, Prompt, Vector

#: Words of the views.
WORDS = ("It is", "Clearly")


class Clusters(Planted):
    """Each class is a cluster of replies; the label words themselves say nothing.

    How many nats apart the clusters are is the quality. Which tokens tell the classes apart
    differs from view to view, and so does the noise, as co-training would have it.
    """

    def _logits(self, prompt: Prompt, choices: Sequence[str]) -> Vector:
        logits = self.spread * noise(said(prompt), len(choices) + OTHERS)
        name = asked_text(prompt).split()[-1]
        view = said(prompt).split()[-1]
        if name in NAMES:
            logits[len(choices) :] += self.quality(view) * noise(f"{view} {name}", OTHERS)
        return np.asarray(logits)


def texts_of(classes: int, each: int, start: int = 1000) -> list[Example]:
    return [
        Example(f"text {start + number} of {NAMES[k]}")
        for number in range(each)
        for k in range(classes)
    ]


class Lecture:
    """Views of one problem that were asked about all examples, and their pool."""

    def __init__(
        self,
        shots: int = 4,
        classes: int = 2,
        *,
        nats: float = 1.0,
        by_lot: int | None = None,
        budget: int = 10**6,
        words: Sequence[str] = WORDS,
        head: str = "ridge",
    ) -> None:
        self.backend = Clusters(lambda _: nats)
        problem = bare_problem([shots] * classes)
        if by_lot is not None:
            labels = np.random.default_rng(by_lot).permutation(problem.train.labels)
            problem = replace(problem, train=replace(problem.train, labels=labels))
        self.asker: Asker = asker_of(self.backend, problem, budget, head)
        self.seen = [self.asker.fresh(worded(problem, each)) for each in words]
        for seen in self.seen:
            self.asker.ask(seen, seen.view.rows, references=True, purpose="views")
        self.asked = self.backend.usage.queries
        self.pooled = self.pool_of(self.seen)

    def pool_of(self, seen: Sequence[Seen]) -> Pooled:
        return Pooled.of(seen, weigh(seen, self.asker.labels), self.asker.labels)

    def learn(self, texts: Sequence[Example], seed: int = 0) -> SelfTrained | None:
        return self_train(self.asker, self.pooled, texts, seed)

    def known(self, view: int) -> Evidence:
        evidence = self.seen[view].evidence
        assert evidence is not None
        return evidence

    def lesson(self, texts: Sequence[Example]) -> _Lesson:
        """With the views in the order in which they were made."""
        self.pooled = replace(self.pooled, seen=tuple(self.seen), weights=np.full(2, 0.5))
        said_of = [
            self.asker.evidence_on(seen.view, seen.view.reader.prompts(texts), "unlabelled")
            for seen in self.seen
        ]
        return _Lesson(self.asker, self.pooled, said_of)

    def accuracy(self, examples: Sequence[Example], taught: Sequence[FittedHead] = ()) -> float:
        """Of the pool, with the taught heads beside its own, on texts whose last word they are."""
        answers, weights = [], []
        for number, (seen, weight) in enumerate(
            zip(self.pooled.seen, self.pooled.weights, strict=True)
        ):
            prompts = seen.view.reader.prompts(examples)
            evidence = self.asker.evidence_on(seen.view, prompts, "test")
            heads = [self.asker.fitted(seen), *taught[number : number + 1]]
            answers += [head.log_proba(evidence) for head in heads]
            weights += [weight] * len(heads)
        truth = np.array([NAMES.index(each.text.split()[-1]) for each in examples])
        return float((pool(answers, weights).argmax(axis=1) == truth).mean())


# ------------------------------------------------------------------------- what it is worth


def test_clusters_teach_what_a_few_labels_do_not() -> None:
    gains, kept = [], 0
    for seed in range(4):
        words = (f"It is{seed}", f"Clearly{seed}")  # other clusters, other noise
        lecture = Lecture(6, nats=0.8, words=words)
        learnt = lecture.learn(texts_of(2, 80))
        assert learnt is not None
        assert learnt.texts == 160
        fresh = texts_of(2, 100, start=5000)
        gains.append(lecture.accuracy(fresh, learnt.heads) - lecture.accuracy(fresh))
        kept += learnt.kept
        if learnt.kept:
            assert learnt.trained.loss < learnt.without.loss
    assert np.mean(gains) > 0.03
    assert kept >= 3


def test_labels_drawn_by_lot_teach_nothing() -> None:
    learnt = [Lecture(8, by_lot=lot).learn(texts_of(2, 40)) for lot in range(8)]
    assert sum(each.kept for each in learnt if each is not None) <= 2


def test_texts_of_no_class_teach_nothing() -> None:
    """Replies to them are noise, and noise must not replace what the labels taught."""
    nonsense = [Example(f"nonsense {number} here") for number in range(80)]
    learnt = [
        Lecture(8, nats=2.0, words=(f"It is{seed}", f"Clearly{seed}")).learn(nonsense)
        for seed in range(6)
    ]
    assert sum(each.kept for each in learnt if each is not None) <= 1


def test_a_hidden_label_does_not_reach_the_answer_for_its_example() -> None:
    lecture = Lecture(6, nats=0.7)
    folds = np.arange(12) // 2 % FOLDS
    lesson = lecture.lesson(texts_of(2, 20))
    before = lesson.cross_fitted(folds)
    hidden = folds == 1
    lecture.asker.labels = np.where(hidden, 1 - lecture.asker.labels, lecture.asker.labels)
    after = lesson.cross_fitted(folds)
    for one, other in zip(before, after, strict=True):
        for was, now in zip(one.seen, other.seen, strict=True):
            np.testing.assert_array_equal(was.held_out[hidden], now.held_out[hidden])
            assert not np.array_equal(was.held_out[~hidden], now.held_out[~hidden])


def test_what_a_view_was_tuned_on_does_not_judge_it() -> None:
    lecture = Lecture(6)
    tuned_on = np.arange(0, 12, 3)
    lecture.seen[1].held_out[tuned_on] = np.nan
    lecture.pooled = lecture.pool_of(lecture.seen)
    learnt = lecture.learn(texts_of(2, 10))
    assert learnt is not None
    for judged in (learnt.without, learnt.trained):
        unknown = np.isnan(judged.seen[1].held_out[:, 0])
        assert np.flatnonzero(unknown).tolist() == tuned_on.tolist()
        assert np.isfinite(judged.held_out).all()


# ------------------------------------------------------------------------- who is taught


def test_the_sure_ones_by_hand() -> None:
    """Of two classes, a quarter of the way from chance to certainty is five eighths."""
    first = np.array([0.62, 0.63, 0.5, 0.37, 0.38, 0.999])
    rows, labels = sure_ones(np.log(np.stack([first, 1 - first], axis=1)))
    assert SURE == 0.25
    assert (rows.tolist(), labels.tolist()) == ([1, 3, 5], [0, 1, 0])


@given(arrays(float, st.tuples(st.integers(1, 60), st.integers(2, 8)), elements=st.floats(-9, 9)))
def test_the_sure_ones_get_their_likeliest_class(scores: Vector) -> None:
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows, labels = sure_ones(np.log(shares))
    threshold = SURE + (1 - SURE) / scores.shape[1]
    near = np.abs(shares.max(axis=1) - threshold) < 1e-9
    expected = shares.max(axis=1) >= threshold
    taken = np.isin(np.arange(len(scores)), rows)
    assert ((taken == expected) | near).all()
    assert (np.diff(rows) > 0).all()
    assert labels.tolist() == shares[rows].argmax(axis=1).tolist()


def test_a_view_is_taught_by_the_others() -> None:
    """What a view itself says about a text has no part in the label that it learns."""
    lecture = Lecture(6, nats=2.0)
    lesson = lecture.lesson(texts_of(2, 20))
    everyone = np.ones(12, dtype=bool)
    _, before = lesson.heads(everyone)
    backwards = replace(lesson, said=[lesson.said[0], lesson.said[1].select(np.arange(39, -1, -1))])
    _, after = backwards.heads(everyone)
    alone = replace(
        lesson,
        pooled=replace(lecture.pooled, seen=lecture.seen[:1], weights=np.ones(1)),
        said=lesson.said[:1],
    )
    _, self_taught = alone.heads(everyone)
    first = [heads[0].state()["weights"] for heads in (before, after, self_taught)]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    teacher = lecture.asker.fitted(lecture.seen[1])
    rows, labels = sure_ones(teacher.log_proba(lesson.said[1]))
    evidence = Evidence.joined([lecture.known(0), lesson.said[0].select(rows)])
    own = lecture.asker.labels[lecture.seen[0].rows]
    by_hand = lecture.asker.head.fit(evidence, np.concatenate([own, labels]), None)
    np.testing.assert_allclose(first[0], by_hand.state()["weights"])


# ------------------------------------------------------------------------- what it costs


@settings(max_examples=25, deadline=None)
@given(left=st.integers(0, 60), classes=st.integers(2, 4), views=st.integers(1, 3))
def test_the_budget_pays_for_as_many_texts_as_it_can(left: int, classes: int, views: int) -> None:
    words = [f"words{number}" for number in range(views)]
    asked = 3 * classes * views
    lecture = Lecture(3, classes, budget=asked + left, words=words, head="calibrated")
    assert lecture.asked == asked
    learnt = lecture.learn(texts_of(classes, 5))
    expected = min(5 * classes, left // views)
    assert (0 if learnt is None else learnt.texts) == expected
    assert lecture.backend.usage.queries == asked + expected * views
    assert lecture.asker.budget.spent <= lecture.asker.budget.limit


@pytest.mark.parametrize("limit", [11, 12, 24, 37, 1000])
def test_a_budget_in_tokens(limit: int) -> None:
    lecture = Lecture(head="calibrated")
    texts = texts_of(2, 4)
    requests = [seen.view.reader.prompts(texts[:1]) for seen in lecture.seen]
    each = sum(1 + len(said(prompt).split()) for [prompt] in requests)
    lecture.asker.budget = Budget(limit, "tokens")
    learnt = lecture.learn(texts)
    assert (0 if learnt is None else learnt.texts) == min(len(texts), limit // each)
    assert lecture.asker.budget.spent <= limit


def test_each_text_is_asked_about_once_under_each_view() -> None:
    lecture = Lecture()
    lecture.learn(texts_of(2, 10))
    assert set(lecture.backend.asked.values()) == {1}
    purposes = [request.purpose for request in lecture.backend.requests]
    assert purposes == ["views", "views", "unlabelled", "unlabelled"]


def test_heads_need_not_learn_from_more_than_enough_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftraining, "MOST_TEXTS", 7)
    learnt = Lecture().learn(texts_of(2, 10))
    assert learnt is not None
    assert learnt.texts == 7


def test_the_seed_draws_the_texts_and_nothing_else_does() -> None:
    def told(seed: int) -> tuple[Any, ...]:
        lecture = Lecture(budget=16 + 20)
        learnt = lecture.learn(texts_of(2, 40), seed)
        assert learnt is not None
        heads = [head.state()["weights"].tobytes() for head in learnt.heads]
        return learnt.report, heads, list(lecture.backend.asked)

    assert told(1) == told(1)
    assert set(told(1)[2]) != set(told(2)[2])


# ------------------------------------------------------------------------- too little


@pytest.mark.parametrize("texts", [1, 2])
def test_fewer_texts_than_classes(texts: int) -> None:
    learnt = Lecture(4, 4).learn(texts_of(4, 1)[:texts])
    assert learnt is not None
    assert (learnt.texts, len(learnt.heads)) == (texts, 2)
    assert np.isfinite([learnt.without.loss, learnt.trained.loss]).all()


def test_one_example_a_class_cannot_tell_so_nothing_is_asked() -> None:
    lecture = Lecture(1, 3)
    assert lecture.learn(texts_of(3, 10)) is None
    assert lecture.backend.usage.queries == lecture.asked


def test_two_examples_a_class_can() -> None:
    learnt = Lecture(2, 2).learn(texts_of(2, 10))
    assert learnt is not None
    assert np.isfinite(learnt.without.held_out).all()


# ------------------------------------------------------------------------- from the faces

TASK = task_from_lists(
    [f"{word} number {number}" for number in range(8) for word in ("film", "bank")],
    [label for _ in range(8) for label in ("film", "bank")],
    dev=(["no film", "no bank"], ["film", "bank"]),
    test=([f"a {word} of mine" for word in ("film", "bank")], ["film", "bank"]),
)
TEXTS = [f"my {word} again, {number}" for number in range(9) for word in ("film", "bank")]
SMALL: dict[str, Any] = {"shots": 8, "budget": "40 calls", "head": "ridge"}
SMALL |= {"without": "demonstrations,search", "max_queries_per_example": 2}


def last_part(result: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = result["parts"][-1]
    return part


def test_tune_reports_what_the_texts_were_worth() -> None:
    part = last_part(tune(FakeBackend(), TASK, unlabeled=TEXTS, **SMALL).result)
    assert part["part"] == "unlabelled texts"
    assert part["texts"] == len(TEXTS)
    assert part["queries"] == len(TEXTS) * 2
    assert part["kept"] in (True, False)
    assert part["loss_without"] > 0 < part["loss_trained"]


def test_known_and_repeated_texts_are_not_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    known = [*(each.text for each in TASK.train), *(each.text for each in TASK.test)]
    file.write_text("\n".join([*TEXTS, *known, *TEXTS]))
    spaced = [f" {text}\n" for text in [*known, *TEXTS]]
    for source in (file, [*TEXTS, *spaced]):
        part = last_part(tune(FakeBackend(), TASK, unlabeled=source, **SMALL).result)
        assert part["texts"] == len(TEXTS)


def test_a_budget_without_anything_left_says_so() -> None:
    tight = {**SMALL, "budget": "1 call"}
    part = last_part(tune(FakeBackend(), TASK, unlabeled=TEXTS, **tight).result)
    assert (part["part"], part["texts"], part["kept"]) == ("unlabelled texts", 0, False)


def test_heads_that_were_kept_are_those_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> Vector:
        model = tune(FakeBackend(), TASK, unlabeled=TEXTS, **SMALL)
        return model.predict_proba(["what a film", "what a bank"])

    for verdict in (True, False):
        monkeypatch.setattr(Pooled, "gain_over", lambda *_, verdict=verdict: verdict)
        if verdict:
            kept = answers()
        else:
            rejected = answers()
    untaught = tune(FakeBackend(), TASK, **SMALL).predict_proba(["what a film", "what a bank"])
    assert not np.array_equal(kept, untaught)
    np.testing.assert_array_equal(rejected, untaught)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "the sequence is empty"),
        ([" "], "position 0: the text in column 'text' is empty"),
        ([3], "is a int, not a string"),
        (
            pd.DataFrame({"text": ["foo"]}),
            "a DataFrame; give a file, a list",
        ),
        ({"foo": 1}, "a dict; give a file"),
        ([each.text for each in TASK.train], "every text is a training or a test example"),
        ([Example("one", "two")], "pairs of texts, though the training examples are single"),
        ("nowhere.txt", "nowhere.txt"),
    ],
)
def test_texts_that_cannot_be_used_cost_nothing(texts: Any, message: str) -> None:
    backend = FakeBackend()
    with pytest.raises(DataError, match=message):
        tune(backend, TASK, unlabeled=texts, **SMALL)
    assert backend.calls == 0


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n")
    with pytest.raises(DataError, match="empty"):
        tune(FakeBackend(), TASK, unlabeled=file, **SMALL)


def test_the_search_refuses_texts() -> None:
    for call in (tune, forecast):
        with pytest.raises(ConfigError, match="leave unlabeled out"):
            call(FakeBackend(), TASK, unlabeled=TEXTS, recipe="search", shots=4)


def test_a_run_goes_on_with_the_same_texts_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = tune(FakeBackend(), TASK, unlabeled=TEXTS, out=run, **SMALL).result
    backend = FakeBackend()
    again = tune(backend, TASK, unlabeled=TEXTS, out=run, resume=True, **SMALL).result
    assert backend.calls == 0
    assert again["parts"] == first["parts"]
    for others in (TEXTS[1:], None):
        with pytest.raises(RunError, match="unlabeled"):
            tune(backend, TASK, unlabeled=others, out=run, resume=True, **SMALL)
    split = Settings()  # a description without texts is that of runs begun before there were any
    assert "unlabeled" not in describe(FakeBackend(), _split(), split)


def _split() -> Any:
    from blackbox_delta.tasks import draw_split

    return draw_split(TASK, 4, 0)


def test_the_command_line_reads_them_from_a_file(tmp_path: Path) -> None:
    data, file, run = tmp_path / "data.csv", tmp_path / "texts.txt", tmp_path / "run"
    rows = [f"{each.text},{each.label}" for each in TASK.train]
    data.write_text("\n".join(["text,label", *rows]))
    file.write_text("\n".join(TEXTS))
    options = ["--shots", "4", "--budget", "40", "--head", "ridge", "--out", str(run)]
    options += ["--without", "demonstrations,search"]
    command = ["tune", "--model", "fake", "--data", str(data), "--unlabeled", str(file), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert '"unlabelled texts"' in (run / "result.json").read_text()
    missing = [*command[:6], str(tmp_path / "none.txt"), *options[:4], "--dry-run"]
    refused = CliRunner().invoke(app, missing)
    assert refused.exit_code == 1
    assert "none.txt" in refused.output
