"""What a run is about to do, in a line."""

from __future__ import annotations

from blackbox_delta.budget import Budget
from blackbox_delta.display.tables import counted
from blackbox_delta.problem import DIMENSION, starts_in_words
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, Template, default_template
from blackbox_delta.types import Capabilities


def plan_line(
    model: str,
    split: FewShotSplit,
    settings: Settings,
    able: Capabilities | None = None,
    seeds: int = 1,
) -> str:
    """What the budget will be used for, and what comes on top of it, in one line.

    Args:
        model: Its name.
        split: The examples.
        settings: How it will be tuned.
        able: What the model takes, where it is known already.
        seeds: With how many seeds, each of which may spend the budget.

    Raises:
        TemplateError: The template cannot be read.
        ConfigError: The budget cannot.
    """
    pairs = split.train[0].text_pair is not None
    template = Template.parse(settings.template or default_template(pairs))
    classes = len({example.label for example in split.train})
    most_spent = f"{Budget.parse(settings.budget, settings.prices)} at most"
    if seeds > 1:
        most_spent += f" for each of {seeds} seeds"
    test = f"; a test of {counted(len(split.test), 'example')} besides" if split.test else ""
    if settings.recipe == "auto":
        most = counted(settings.max_queries_per_example, "query")
        return (
            f"{model}: {most_spent}, {len(split.train)} training examples of {classes} "
            f"classes; several views of each, an answer takes at most {most}{test}"
        )
    dimension = f"= {settings.dimension}" if settings.dimension else f"≤ {DIMENSION}"
    search = f"λ = {settings.population}, d {dimension}, {settings.optimizer}"
    search = f"{settings.delta}, {search}"
    if able and starts_in_words(able, settings) and "soft-prompt" in settings.delta_kinds:
        search = "the model takes text only, so the output side alone is tuned"
    elif settings.delta_kinds == ("soft-prompt",) and not template.slots:
        search = "no soft slot in the template, so the output side alone is tuned"
    return (
        f"{model}: {most_spent}, {len(split.train)} training and "
        f"{len(split.dev)} development examples of {classes} classes; {search}{test}"
    )
