"""The recipe ``auto``: what a budget is spent on, and what each part of it contributed.

1. The default view is asked about every training example; the calibrated verbalizer on it is the
   baseline.
2. Further views race: other words in the slot, and labelled examples before the text. As many
   enter as the budget is sure to pay for.
3. Rounds of other demonstrations follow, and a search of the delta, each as long as it makes
   the held-out predictions reliably better; then views with words that the model itself proposes.
4. The views that finish are pooled, each with a weight by its held-out predictions.
5. Where there are texts without labels, what is left of the budget goes to these; what they teach
   is kept if it makes the held-out predictions reliably better.

Everything is decided on the training examples by leave-one-out; development examples are not
looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.comparing import ranked
from blackbox_delta.auto.finding import found_by
from blackbox_delta.auto.ledger import Ledger
from blackbox_delta.auto.pooling import Pooled, best_pool
from blackbox_delta.auto.race import run_race
from blackbox_delta.auto.rewriting import rewriting_need, rewritten_views
from blackbox_delta.auto.searching import DeltaSearch, can_be_halved, check_optimizer
from blackbox_delta.auto.selftraining import SelfTrained, self_train
from blackbox_delta.auto.views import DEMONSTRATIONS, View, demonstrated, pool_of_views
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BudgetError, ConfigError, SpentError
from blackbox_delta.forecast import Forecast
from blackbox_delta.heads import make_head
from blackbox_delta.history import History
from blackbox_delta.members import Found
from blackbox_delta.problem import Problem
from blackbox_delta.settings import Settings
from blackbox_delta.tuner import Observer, Progress
from blackbox_delta.types import Backend, Json

#: Rounds of further demonstrations.
MOST_ROUNDS = 8
#: In each of them, how many of the words that did best so far, and draws with each.
ROUND_WORDS = 2
ROUND_DRAWS = 3

#: Views with words of the model's own.
REWRITINGS = 4


class Auto:
    """Tunes one problem on one backend within one budget, once.

    Making one checks all that can be checked beforehand and asks nothing of the model.

    Args:
        backend: The model: what it can do and what prompts cost.
        problem: The task as put to it; its rivals are further views.
        settings: How to go about it.
        budget: The recipe is its only owner. A call is as many queries as there are training
            examples.
        observer: Told after every step.

    Raises:
        ConfigError: The head, the optimizer or the budget makes no sense.
        BudgetError: The budget cannot pay for the first view.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        settings: Settings,
        budget: Budget,
        observer: Observer | None = None,
    ) -> None:
        self._problem, self._settings = problem, settings
        self._budget, self._observer = budget, observer
        budget.exact_tokens = backend.capabilities.exact_tokens
        budget.call_size = len(problem.train)
        head = make_head(settings.head_name, backend.capabilities.max_top_k)
        if head.kind == "contextual":
            raise ConfigError(
                "the 'contextual' head learns from texts without content alone, so there is "
                "nothing to weigh views by; take another head, or recipe = 'search'"
            )
        self._left_out = settings.left_out
        self._asker = Asker(
            backend, problem, head, budget, references="anchors" not in self._left_out
        )
        shown = "demonstrations" not in self._left_out
        views = pool_of_views(backend, problem, settings.seed, demonstrations=shown)
        if budget.unit in ("tokens", "usd"):
            # Where tokens are paid for, demonstrations cost many times what other words do.
            views[1:] = sorted(views[1:], key=lambda view: view.kind == DEMONSTRATIONS)
        self._views = views
        self._finished: list[Seen] = []
        self._trained: SelfTrained | None = None
        self._ledger = Ledger(budget)
        frames = [view.frame for view in views if view.frame is not None]
        if frames and "search" not in self._left_out:
            check_optimizer(settings.optimizer, frames[0])
        first = self._views[0]
        budget.require(self._asker.need(first, first.rows, references=False, what="the first view"))

    def forecast(self) -> Forecast:
        """What :meth:`run`, and the test after it, will spend at most; asks nothing.

        Raises:
            ConfigError: The budget is in seconds, and nobody knows how fast the model answers.
        """
        from blackbox_delta.auto.foretelling import foretell

        rewriting = None
        if "rewritings" not in self._left_out:
            seed = self._settings.seed
            rewriting = rewriting_need(self._asker, self._problem, REWRITINGS, seed)
        return foretell(
            self._asker,
            self._views,
            self._problem,
            self._settings.max_queries_per_example,
            rounds="demonstrations" not in self._left_out,
            rewriting=rewriting,
        )

    # ------------------------------------------------------------------ the run

    def run(self, backend: Backend, history: History | None = None) -> Auto:
        """Spends the budget as long as the next query is expected to pay.

        Args:
            backend: The same model, wrapped in a journal if the run is to be resumable.
            history: Takes one record for each part.

        Raises:
            BackendError: A reply failed; what was paid for stays in the journal.
            BudgetError: Replies were lost or cost more than was estimated, so that the budget ran
                out before there was anything to answer with.
        """
        self._asker.backend, self._ledger.history = backend, history
        self._ask_first()
        with suppress(SpentError):  # what finished before stands
            self._ask_anchors()
            self._ask_others(self._views[1:])
            self._ask_more_demonstrations()
            self._search_prompts()
            self._ask_rewritings()
            self._learn_from_unlabelled()
        return self

    def _ask_first(self) -> None:
        first = self._asker.fresh(self._views[0])
        try:
            self._asker.ask(first, first.view.rows, references=False, purpose="views")
        except SpentError:
            raise BudgetError(
                f"the budget of {self._budget} ran out before the first view was scored, for "
                f"{self._budget.usage.lost} replies were lost or the others cost more than was "
                "estimated; give a larger budget and another --out, with --cache and this run's "
                "journal.sqlite what is paid already is not paid again"
            ) from None
        self._note("the default view", [first])

    def _ask_anchors(self) -> None:
        first = self._finished[0]
        need = self._asker.need(first.view, first.view.rows[:0], references=True)
        if need.queries and self._budget.affords(need):
            self._asker.ask(first, first.view.rows, references=True, purpose="views")
            self._note("anchors of its label words", [])

    def _ask_others(self, waiting: Sequence[View], part: str = "further views") -> None:
        """Views enter as long as the budget is sure to pay them to the end."""
        while entering := self._payable(waiting):
            waiting = waiting[len(entering) :]
            racers = [self._asker.fresh(view) for view in entering]
            try:
                through, out = run_race(self._asker, racers, self._finished, self._tell)
            except SpentError:
                self._note(part, [seen for seen in racers if seen.complete])
                raise
            self._note(part, through, [seen.view.name for seen in out])

    def _ask_more_demonstrations(self) -> None:
        """Round after round, other examples before the texts, and the words that did best."""
        rounds = 0 if "demonstrations" in self._left_out else MOST_ROUNDS
        for number in range(1, rounds + 1):
            views = self._next_round(number)
            if not self._payable(views[:1]):
                return
            before = self._pooled
            self._ask_others(views, f"demonstrations, round {number}")
            if not self._paid(before):
                return

    def _next_round(self, number: int) -> list[View]:
        views, best = list[View](), ranked(self._finished, self._asker.labels)
        starts = [seen.view.start for seen in best if seen.view.start is not None]
        for place, start in enumerate(starts[:ROUND_WORDS]):
            rng = np.random.default_rng([self._settings.seed, 2, number, place])
            views += demonstrated(self._asker.backend, start, rng, ROUND_DRAWS)
        tried = self._ledger.raced  # among few examples the same ones are drawn again
        return [view for view in views if view.name not in tried]

    def _search_prompts(self) -> None:
        """Soft prompts around the best view that has a slot, as long as what they find pays."""
        search = self._delta_search()
        if search is None:
            return
        looks = search.looks()
        while self._budget.affords(*search.need()):
            before = self._pooled
            self._note(f"search of the {self._settings.delta}", next(looks))
            if not self._paid(before):
                return

    def _delta_search(self) -> DeltaSearch | None:
        settings = self._settings
        if "search" in self._left_out or not can_be_halved(self._asker.labels):
            return None
        for best in ranked(self._finished, self._asker.labels):
            if (frame := best.view.frame) is not None:
                name, seed, probing = settings.optimizer, settings.seed, settings.scale is None
                return DeltaSearch(self._asker, best, frame, name, seed, probing=probing)
        return None

    def _learn_from_unlabelled(self) -> None:
        """Heads of the pool learn from texts without labels, as many as can be paid."""
        texts, pooled = self._problem.texts, self._pooled
        if not texts:
            return
        self._trained = self_train(self._asker, pooled, texts, self._settings.seed)
        report = self._trained.report if self._trained else {"texts": 0, "kept": False}
        self._ledger.note("unlabelled texts", [], [], pooled, report)
        self._tell()

    def _ask_rewritings(self) -> None:
        """Words that the model itself proposes."""
        if "rewritings" not in self._left_out:
            seed = self._settings.seed
            views = rewritten_views(self._asker, self._problem, REWRITINGS, seed)
            self._ask_others(views, "rewritings")

    def _paid(self, before: Pooled) -> bool:
        """Whether what was asked since made the held-out predictions reliably better."""
        return self._pooled.gain_over(before, self._asker.labels)

    def _payable(self, waiting: Sequence[View]) -> list[View]:
        needs, entering = [], []
        for view in waiting:
            needs.append(self._asker.need(view, view.rows, references=True))
            if not self._budget.affords(*needs):
                break
            entering.append(view)
        return entering

    # ------------------------------------------------------------------ book-keeping

    @property
    def _pooled(self) -> Pooled:
        most = self._settings.max_queries_per_example
        return best_pool(self._finished, self._asker.labels, most)

    def _note(self, part: str, through: Sequence[Seen], out: Sequence[str] = ()) -> None:
        self._finished += through
        pooled = self._pooled
        self._ledger.note(part, [seen.view.name for seen in through], out, pooled)
        self._tell()

    def _tell(self) -> None:
        self.tell_tested(0, 0)

    def tell_tested(self, tested: int, to_test: int) -> None:
        """Tells the observer how far the views, and after them the test, have come."""
        if self._observer is None or not self._ledger.parts:
            return
        last = self._ledger.parts[-1]
        loss, accuracy = last["held_out_loss"], last["held_out_accuracy"]
        step = Progress(len(self._finished), loss, accuracy, self._budget, tested, to_test, "views")
        self._observer(step)

    # ------------------------------------------------------------------ what was found

    @property
    def found(self) -> Found:
        """What answers from now on, and how it came about; works for a second."""
        trained = self._trained if self._trained and self._trained.kept else None
        most = self._settings.max_queries_per_example
        details: Json = {
            "template": self._finished[0].view.reader.template.source,
            "start": self._problem.words,
            "parts": self._ledger.parts,
        }
        return found_by(self._asker, self._finished, most, trained, details)
