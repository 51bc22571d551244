"""What a run reports: test scores against the untuned model, costs, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from blackbox_delta.budget import Budget
from blackbox_delta.heads import make_head
from blackbox_delta.members import Found, Member, Panel, Source
from blackbox_delta.prices import Prices
from blackbox_delta.problem import ask
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Metrics, Verdict, evaluate, paired_verdict
from blackbox_delta.types import Backend, Evidence, Example, Json, Usage

#: Test examples in one request.
TEST_PIECE = 128
#: Test examples that a server is asked about twice.
ASKED_AGAIN = 8
#: Nats by which a repeated answer of a steady server may differ: batches in half precision do.
STEADY = 0.25
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
    backend: Backend, found: Found, examples: Sequence[Example], tell: Callable[[int, int], None]
) -> HeldOutScores | None:
    """Scores the test part, once for each way of asking; ``None`` without a test part.

    Args:
        backend: The model.
        found: The baseline and what answers.
        examples: n labelled examples.
        tell: Told how many queries are answered, of how many.
    """
    if not examples:
        return None
    everyone = Panel((found.baseline, *found.members))
    seen, usage = _asked_all(backend, everyone, examples, tell)
    unsteady, more = _is_unsteady(backend, found.baseline, examples, seen[found.baseline.source])
    verbalizer = found.baseline.reader.verbalizer
    truth, labels = verbalizer.encode(examples), verbalizer.labels
    untuned = seen[found.baseline.source]
    plain = make_head("plain").fit(untuned, truth, None).log_proba(untuned)
    calibrated = found.baseline.head.log_proba(untuned)
    answers = found.panel.answer(seen)
    said = {"baseline": calibrated.argmax(axis=1), "tuned": answers.argmax(axis=1)}
    return HeldOutScores(
        evaluate(truth, plain, labels),
        evaluate(truth, calibrated, labels),
        evaluate(truth, answers, labels),
        paired_verdict(truth, said["baseline"], said["tuned"], unsteady=unsteady),
        usage + more,
        {who: "".join(map(str, (it == truth).astype(int))) for who, it in said.items()},
    )


def _asked_all(
    backend: Backend,
    everyone: Panel,
    examples: Sequence[Example],
    tell: Callable[[int, int], None],
) -> tuple[dict[Source, Evidence], Usage]:
    """Evidence under every way of asking, each asked once.

    In pieces, so that a kill loses one of them at most and a display can move; the ways take turns
    on a piece, whose texts a local model then reads once.
    """
    pieces: dict[Source, list[Evidence]] = {source: [] for source in everyone.ways}
    usage, total = Usage(), len(pieces) * len(examples)
    for start in range(0, len(examples), TEST_PIECE):
        some = examples[start : start + TEST_PIECE]
        for source, scores in everyone.replies(backend, some, "test"):
            pieces[source].append(scores.candidate(0))
            usage = usage + scores.usage
            tell(usage.queries, total)
    return {source: Evidence.joined(parts) for source, parts in pieces.items()}, usage


def asked_again(backend: Backend) -> int:
    """How many of the test's questions are put again: none to a model on this machine."""
    return ASKED_AGAIN if backend.address else 0


def _is_unsteady(
    backend: Backend, member: Member, examples: Sequence[Example], first: Evidence
) -> tuple[bool, Usage]:
    """Whether a server answers the same few questions differently when they are put again."""
    some = examples[: asked_again(backend)]
    if not some:
        return False, Usage()
    request = member.request(member.reader.prompts(some), first.top_ids.shape[1], "test")
    again = ask(backend, replace(request, repeat=1))
    moved = np.abs(again.label_logprobs[0] - first.label_logprobs[: len(some)])
    return bool(moved.max() > STEADY), again.usage


def build_result(
    backend: Backend,
    settings: Settings,
    budget: Budget,
    found: Found,
    test: HeldOutScores | None,
) -> Json:
    """The content of ``result.json``.

    Keys that end in ``seconds`` are times. Costs stand apart for the search and, where the key
    begins with ``test_``, for the test part: ``queries`` are those that were answered,
    ``lost_queries`` were sent besides; tokens and ``cost_usd`` (``None`` without prices) are of
    both. ``bounded_labels`` counts label log-probabilities that are upper bounds, and
    ``unparsed_replies`` the replies that name no label. ``test_right`` says which test examples
    were answered rightly, as in :class:`HeldOutScores`.
    """
    members = found.members
    return {
        "model": backend.name,
        "recipe": settings.recipe,
        "seed": settings.seed,
        "shots": settings.shots,
        "labels": list(found.baseline.reader.verbalizer.labels),
        **found.details,
        **_accuracies(test),
        "budget": str(budget),
        "calls": budget.calls,
        **_costs("", budget.usage, budget.prices),
        **_costs("test_", test.usage if test else Usage(), budget.prices),
        "queries_per_answer": len({member.source for member in members}),
        "backend_seconds": budget.usage.seconds,
        "test_seconds": test.usage.seconds if test else 0.0,
        "optimizer_seconds": found.optimizer_seconds,
        "head_seconds": found.head_seconds,
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


def _accuracies(test: HeldOutScores | None) -> Json:
    found: Json = {"test_n": test.tuned.n if test else 0}
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
    return told(test.verdict)


def told(verdict: Verdict) -> Json:
    """A verdict as ``result.json`` has it: the sentence, and all else beside it."""
    details = asdict(verdict)
    return {"verdict": details.pop("sentence"), "comparison": details}


def time_free(result: Json) -> Json:
    """A result without its times: equal for equal runs, however long they took."""
    return {name: value for name, value in result.items() if not name.endswith("seconds")}
