"""Pictures of a comparison: accuracy against queries, and the course of the searches."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from blackbox_delta.compare.methods import GRADIENTS
from blackbox_delta.compare.report import Report, Scored, Summary
from blackbox_delta.compare.specs import Spec
from blackbox_delta.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_OWN = "#000000"  # this package's recipe
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")
_DASHES = ("-", "--", ":", "-.")
_PANEL = (4.2, 3.4)  # inches
_DODGE = 0.085  # decades between points that would hide one another
_LEGEND_LINE = 0.24  # inches
_DPI = 150


class _Style(NamedTuple):
    """How a method is drawn; hollow if it is trained with gradients."""

    colour: str
    marker: str
    filled: bool


def check_matplotlib() -> None:
    """Finds out before anything is spent.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "compare", "drawing the comparison") from None


def accuracy_figure(report: Report) -> Figure:
    """Test accuracy against queries per training example, a panel a task and one for their mean.

    Methods that were given several budgets are joined by a line. Points that would hide one
    another stand side by side. Hollow marks are for methods with gradients.
    """
    tasks = report.tasks
    shown: list[str | None] = [*tasks, None] if len(tasks) > 1 else list(tasks)
    styles = _styles(report)
    figure, panels = _panels(len(shown))
    for axes, task in zip(panels, shown, strict=True):
        summaries = report.summaries(task)
        _draw_accuracies(axes, summaries, styles)
        name = f"mean of {len(tasks)} tasks" if task is None else task
        axes.set_title(name, parse_math=False, fontweight="bold" if task is None else "normal")
        _scale_queries(axes, summaries)
        axes.set_ylabel("test accuracy, %")
        axes.set_xlabel("queries per training example")
    _legend(figure, panels)
    return figure


def convergence_figure(report: Report) -> Figure | None:
    """Training loss against calls, a line a seed; ``None`` if no method told its course."""
    curves = [cell for cell in report.scored.values() if cell.measured.curve]
    if not curves:
        return None
    tasks = list(dict.fromkeys(cell.finding.task for cell in curves))
    figure, panels = _panels(len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        _draw_curves(axes, [cell for cell in curves if cell.finding.task == task], report)
        axes.set_title(task, parse_math=False)
        axes.set_xlabel("calls (passes over the training examples)")
        axes.set_ylabel("training loss, each by its own measure")
    _legend(figure, panels)
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a file's content."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


# ------------------------------------------------------------------------- panels


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, without any of matplotlib's global state."""
    from matplotlib.figure import Figure

    columns = min(count, 3 if count != 4 else 2)
    rows = math.ceil(count / columns)
    width, height = columns * _PANEL[0] + 1.6, rows * _PANEL[1]
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(grid.flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, beside them."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.set_figheight(max(figure.get_figheight(), _LEGEND_LINE * (len(handles) + 1)))
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)


def _plain(axes: Axes) -> None:
    axes.grid(visible=True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# ----------------------------------------------------------- accuracy against queries


def _draw_accuracies(
    axes: Axes, summaries: Sequence[Summary], styles: Mapping[str, _Style]
) -> None:
    places = _dodged(summaries)
    for family, style in styles.items():
        own = [each for each in summaries if _family(each.method) == family]
        own.sort(key=lambda each: float(each.costs["calls"]))
        if not own:
            continue
        axes.errorbar(
            [places[each.method] for each in own],
            [100 * each.accuracy.mean for each in own],
            yerr=[100 * (each.accuracy.deviation or 0.0) for each in own],
            label=family,
            color=style.colour,
            marker=style.marker,
            markersize=6,
            markerfacecolor=style.colour if style.filled else "white",
            linestyle="-" if len(own) > 1 else "none",
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2.5,
        )
    _plain(axes)


def _dodged(summaries: Sequence[Summary]) -> dict[str, float]:
    """Where each method's point stands: its calls, but side by side with others of the same."""
    crowds: dict[float, list[str]] = {}
    for each in summaries:
        crowds.setdefault(float(each.costs["calls"]), []).append(each.method)
    return {
        method: _moved(calls, (number - (len(crowd) - 1) / 2) * _DODGE)
        for calls, crowd in crowds.items()
        for number, method in enumerate(crowd)
    }


def _moved(calls: float, decades: float) -> float:
    # Below 1 call the axis is linear, and 0 to 1 as wide as a decade.
    moved = calls * 10**decades
    return moved if moved >= 1 else calls + decades


def _scale_queries(axes: Axes, summaries: Sequence[Summary]) -> None:
    """Logarithmic from 1 on, with a place for methods that ask nothing at 0."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    most = max((float(each.costs["calls"]) for each in summaries), default=1.0)
    least = min((float(each.costs["calls"]) for each in summaries), default=0.0)
    decades = [10.0**power for power in range(max(1, math.ceil(math.log10(max(most, 1.0)))) + 1)]
    axes.set_xscale("symlog", linthresh=1, linscale=1)
    axes.set_xlim(-0.2 if least < 1 else 0.7, decades[-1] * 1.35)
    axes.xaxis.set_major_locator(FixedLocator([0.0, *decades] if least < 1 else decades))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


# ------------------------------------------------------------------- convergence


def _draw_curves(axes: Axes, cells: Sequence[Scored], report: Report) -> None:
    """A line a cell; the seeds of a method look alike, its budgets differ in their dashes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    styles = _styles(report)
    methods = list(dict.fromkeys(cell.finding.method for cell in cells))
    for number, method in enumerate(methods):
        colour = styles[_family(method)].colour
        same = [each for each in methods[:number] if styles[_family(each)].colour == colour]
        own = [cell.measured.curve for cell in cells if cell.finding.method == method]
        for seed, curve in enumerate(own):
            axes.plot(
                [point.calls for point in curve],
                [point.loss for point in curve],
                color=colour,
                linestyle=_DASHES[len(same) % len(_DASHES)],
                marker="o" if len(curve) == 1 else "",
                linewidth=1.3,
                alpha=0.85,
                label="" if seed else method,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain(axes)


# ------------------------------------------------------------------------- styles


def _family(method: str) -> str:
    """The method without its budget: ``auto:4`` and ``auto:16`` are one line."""
    return str(replace(Spec.parse(method), calls=None))


def _styles(report: Report) -> dict[str, _Style]:
    """How each method is drawn, in both pictures alike."""
    styles = {}
    families = dict.fromkeys(map(_family, report.methods))
    for number, family in enumerate(family for family in families if family != "auto"):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        styles[family] = _Style(colour, marker, Spec.parse(family).name not in GRADIENTS)
    if "auto" in families:
        styles["auto"] = _Style(_OWN, "o", filled=True)
    return styles
