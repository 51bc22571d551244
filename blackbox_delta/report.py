"""What a run reports: test scores against the untuned model, costs, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from blackbox_delta.budget import Budget
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Problem, ask
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Metrics, Verdict, evaluate, paired_verdict
from blackbox_delta.tuner import Option, Outcome
from blackbox_delta.types import Backend, Evidence, Json, Usage, Vector

#: Test examples in one request.
TEST_PIECE = 128
UNMEASURED = "not measured: the data has no test part"


@dataclass(frozen=True)
class HeldOutScores:
    """The test part under the untuned, the calibrated and the tuned model.

    Attributes:
        untuned: Plain verbalizer, no calibration.
        calibrated: Calibrated on the training examples, untuned: the baseline.
        tuned: What the run chose.
        verdict: Tuned against calibrated on the same examples.
        usage: What scoring cost; not part of the search's budget.
    """

    untuned: Metrics
    calibrated: Metrics
    tuned: Metrics
    verdict: Verdict
    usage: Usage


def score_test(
    backend: Backend, outcome: Outcome, tell: Callable[[int, int], None]
) -> HeldOutScores | None:
    """Scores the test part, once per delta; ``None`` without a test part.

    Args:
        backend: The model.
        outcome: What the search found.
        tell: Told how many test examples are scored, of how many, once for each delta.
    """
    problem = outcome.problem
    if not len(problem.test):
        return None
    most = max(option.head.top_k for option in outcome.options)
    tuning, n = outcome.chosen.name == "delta", len(problem.test)
    total = 2 * n if tuning else n
    untuned, usage = _evidence(
        backend, problem, problem.start, most, lambda done: tell(done, total)
    )
    tuned = untuned
    if tuning:
        tuned, more = _evidence(
            backend, problem, outcome.chosen.z, most, lambda done: tell(n + done, total)
        )
        usage = usage + more
    truth, labels = problem.test.labels, problem.reader.verbalizer.labels
    plain = make_head("plain").fit(untuned, truth, None).log_proba(untuned)
    calibrated = outcome.options[0].head.log_proba(untuned)
    answers = outcome.chosen.head.log_proba(tuned)
    return HeldOutScores(
        evaluate(truth, plain, labels),
        evaluate(truth, calibrated, labels),
        evaluate(truth, answers, labels),
        paired_verdict(truth, calibrated.argmax(axis=1), answers.argmax(axis=1)),
        usage,
    )


def _evidence(
    backend: Backend,
    problem: Problem,
    z: Vector | None,
    tokens: int,
    tell: Callable[[int], None],
) -> tuple[Evidence, Usage]:
    """Asked in pieces, so that a kill loses one of them at most and a display can move."""
    prompts, delta, pieces, usage = problem.test.prompts, problem.delta(z), [], Usage()
    for start in range(0, len(prompts), TEST_PIECE):
        request = problem.request(prompts[start : start + TEST_PIECE], delta, tokens)
        scores = ask(backend, request)
        pieces.append(scores.candidate(0))
        usage = usage + scores.usage
        tell(start + len(request.prompts))
    joined = (
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("label_logprobs", "top_ids", "top_logprobs")
    )
    return Evidence(*joined), usage


def build_result(
    backend: Backend,
    settings: Settings,
    budget: Budget,
    outcome: Outcome,
    test: HeldOutScores | None,
) -> Json:
    """The content of ``result.json``; keys that end in ``seconds`` are times."""
    problem, baseline, chosen = outcome.problem, outcome.options[0], outcome.chosen
    return {
        "model": backend.name,
        "seed": settings.seed,
        "shots": settings.shots,
        "labels": list(problem.reader.verbalizer.labels),
        "template": problem.reader.template.source,
        "start": problem.words,
        "chosen": chosen.name,
        "head": chosen.head.kind,
        **_accuracies(test, baseline, chosen),
        "train_n": len(problem.train),
        "dev_n": len(problem.dev),
        "budget": str(budget),
        "generations": outcome.generations,
        "calls": budget.calls,
        "queries": budget.usage.queries,
        "tokens": budget.usage.tokens,
        "test_queries": test.usage.queries if test else 0,
        "test_tokens": test.usage.tokens if test else 0,
        "backend_seconds": budget.usage.seconds,
        "test_seconds": test.usage.seconds if test else 0.0,
        "optimizer_seconds": outcome.seconds.optimizer,
        "head_seconds": outcome.seconds.head,
        **_verdict(test),
    }


def _accuracies(test: HeldOutScores | None, baseline: Option, chosen: Option) -> Json:
    found: Json = {
        "baseline_dev_accuracy": baseline.dev_accuracy,
        "dev_accuracy": chosen.dev_accuracy,
        "test_n": test.tuned.n if test else 0,
    }
    for name in ("untuned", "baseline", "test"):
        found[f"{name}_accuracy"] = found[f"{name}_macro_f1"] = None
    if test:
        scores = {"untuned": test.untuned, "baseline": test.calibrated, "test": test.tuned}
        for name, metrics in scores.items():
            found[f"{name}_accuracy"] = metrics.accuracy
            found[f"{name}_macro_f1"] = metrics.macro_f1
    return found


def _verdict(test: HeldOutScores | None) -> Json:
    if test is None:
        return {"verdict": UNMEASURED, "comparison": None}
    details = asdict(test.verdict)
    return {"verdict": details.pop("sentence"), "comparison": details}


def time_free(result: Json) -> Json:
    """A result without its times: equal for equal runs, however long they took."""
    return {name: value for name, value in result.items() if not name.endswith("seconds")}
