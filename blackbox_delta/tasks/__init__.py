"""Tasks: labelled data, few-shot splits, templates, label words and metrics."""

from blackbox_delta.tasks.data import (
    Columns,
    Lists,
    TaskData,
    load_task,
    read_examples,
    read_texts,
    task_from_lists,
)
from blackbox_delta.tasks.metrics import Metrics, evaluate
from blackbox_delta.tasks.splits import (
    FewShotSplit,
    draw_split,
    sample_test,
    split_by_share,
    train_on_all,
)
from blackbox_delta.tasks.templates import (
    DEFAULT_PAIR,
    DEFAULT_SINGLE,
    DEFAULT_STARTS,
    VIEW_STARTS,
    VIEW_STARTS_PAIR,
    Slot,
    Template,
    default_template,
)
from blackbox_delta.tasks.unlabelled import digest_of, unlabelled_texts
from blackbox_delta.tasks.verbalizers import Verbalizer, parse_words, readable
from blackbox_delta.tasks.verdicts import Verdict, paired_verdict, verdict_over_seeds

__all__ = [
    "DEFAULT_PAIR",
    "DEFAULT_SINGLE",
    "DEFAULT_STARTS",
    "VIEW_STARTS",
    "VIEW_STARTS_PAIR",
    "Columns",
    "FewShotSplit",
    "Lists",
    "Metrics",
    "Slot",
    "TaskData",
    "Template",
    "Verbalizer",
    "Verdict",
    "default_template",
    "digest_of",
    "draw_split",
    "evaluate",
    "load_task",
    "paired_verdict",
    "parse_words",
    "read_examples",
    "read_texts",
    "readable",
    "sample_test",
    "split_by_share",
    "task_from_lists",
    "train_on_all",
    "unlabelled_texts",
    "verdict_over_seeds",
]
