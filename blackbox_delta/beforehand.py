"""What can be found wrong before a model is opened, which takes minutes, or queries of a server."""

from __future__ import annotations

from pathlib import Path

from blackbox_delta.budget import Budget, Need
from blackbox_delta.heads import make_head
from blackbox_delta.journal import Journal
from blackbox_delta.optimizers import check_name
from blackbox_delta.problem import labels_of
from blackbox_delta.runs import check_folder, is_there
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, Template, Verbalizer


def check_settings(split: FewShotSplit, settings: Settings) -> None:
    """Checks what settings say of the data, and names that are the same for all models.

    Raises:
        DataError: The split cannot be tuned on.
        VerbalizerError: The label words do not fit the labels.
        TemplateError: The template cannot be read.
        ConfigError: There is no such head or optimizer, or the budget makes no sense.
        BudgetError: It is of fewer queries than there are training examples.
    """
    Verbalizer.build(labels_of(split, settings), settings.label_words)
    if settings.template is not None:
        Template.parse(settings.template)
    make_head(settings.head_name)
    check_name(settings.optimizer)
    budget = Budget.parse(settings.budget, settings.prices)
    if budget.unit == "queries":
        n = len(split.train)
        # What else a recipe must pay for, and what tokens a query takes, depends on the model.
        budget.require(Need("one pass over the training examples", 1, n, tokens=0))


def check_place(out: Path, *, resume: bool, cache: Path | None = None) -> None:
    """Checks that a run can be begun in a folder, or goes on there; makes nothing.

    Raises:
        RunError: The folder holds something else.
        JournalError: The cache is none, or damaged.
    """
    check_folder(out, resume=resume)
    if cache is not None and is_there(cache):
        with Journal.open(cache, create=False, shared=True):
            pass
