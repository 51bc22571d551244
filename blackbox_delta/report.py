"""What a run reports: test scores against the untuned model, costs, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from blackbox_delta.budget import Budget
from blackbox_delta.heads import make_head
from blackbox_delta.prices import Prices
from blackbox_delta.problem import Problem, ask
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Metrics, Verdict, evaluate, paired_verdict
from blackbox_delta.tuner import Option, Outcome, passes_over_test
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
        right: Of ``baseline`` and ``tuned``, a digit for each test example: 1 where the answer is
            right.
    """

    untuned: Metrics
    calibrated: Metrics
    tuned: Metrics
    verdict: Verdict
    usage: Usage
    right: dict[str, str]


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
    passes = passes_over_test(problem, outcome.chosen.z if outcome.chosen.name == "delta" else None)
    n, usage, seen = len(problem.test), Usage(), []
    for z in passes:
        step = _step(tell, usage.queries, len(passes) * n)
        evidence, more = _evidence(backend, problem, z, most, step)
        seen.append(evidence)
        usage = usage + more
    untuned, tuned = seen[0], seen[-1]
    truth, labels = problem.test.labels, problem.reader.verbalizer.labels
    plain = make_head("plain").fit(untuned, truth, None).log_proba(untuned)
    calibrated = outcome.options[0].head.log_proba(untuned)
    answers = outcome.chosen.head.log_proba(tuned)
    said = {"baseline": calibrated.argmax(axis=1), "tuned": answers.argmax(axis=1)}
    return HeldOutScores(
        evaluate(truth, plain, labels),
        evaluate(truth, calibrated, labels),
        evaluate(truth, answers, labels),
        paired_verdict(truth, said["baseline"], said["tuned"]),
        usage,
        {who: "".join(map(str, (it == truth).astype(int))) for who, it in said.items()},
    )


def _step(tell: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: tell(before + done, total)


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
        request = problem.request(prompts[start : start + TEST_PIECE], delta, tokens, "test")
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
    """The content of ``result.json``.

    Keys that end in ``seconds`` are times. Costs stand apart for the search and, where the key
    begins with ``test_``, for the test part: ``queries`` are those that were answered,
    ``lost_queries`` were sent besides; tokens and ``cost_usd`` (``None`` without prices) are of
    both. ``bounded_labels`` counts label log-probabilities that are upper bounds, and
    ``unparsed_replies`` the replies that name no label.
    """
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
        **_costs("", budget.usage, budget.prices),
        **_costs("test_", test.usage if test else Usage(), budget.prices),
        "backend_seconds": budget.usage.seconds,
        "test_seconds": test.usage.seconds if test else 0.0,
        "optimizer_seconds": outcome.seconds.optimizer,
        "head_seconds": outcome.seconds.head,
        **_verdict(test),
        "test_right": test.right if test else None,
    }


def _costs(part: str, usage: Usage, prices: Prices | None) -> Json:
    return {
        f"{part}queries": usage.queries,
        f"{part}lost_queries": usage.lost,
        f"{part}tokens": usage.tokens,
        f"{part}output_tokens": usage.output_tokens,
        f"{part}cost_usd": prices.cost(usage) if prices else None,
        f"{part}bounded_labels": usage.bounded,
        f"{part}unparsed_replies": usage.unparsed,
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
