from __future__ import annotations

import warnings
from typing import Any

import pytest
from comparing import made
from matplotlib.container import ErrorbarContainer

from blackbox_delta.compare.contract import Point
from blackbox_delta.compare.outcome import publish
from blackbox_delta.compare.plots import accuracy_figure, convergence_figure, png
from blackbox_delta.compare.report import Report

FALLING = (Point(20, 0.9), Point(40, 0.5), Point(60, 0.4))


def answers(right: int) -> list[int]:
    return [0] * right + [1] * (10 - right)


def report(tasks: tuple[str, ...]) -> Report:
    found = []
    for task in tasks:
        for seed, luck in ((13, 0), (21, 2)):
            found += [
                made(task, "untuned", seed, answers(4), calls=0),
                made(task, "calibrated", seed, answers(5)),
                made(task, "dect", seed, answers(6)),
                made(task, "auto:16", seed, answers(7 + luck), calls=16),
                made(task, "auto:1", seed, answers(6 + luck), calls=1),
                made(task, "lora@64", seed, answers(8), calls=54, curve=FALLING[: 3 - luck]),
                made(task, "bbt:60", seed, answers(5), calls=60, curve=FALLING),
            ]
    return Report(found)


ONE = report(("films",))


def bars(axes: Any) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """x, y and half-lengths of what is drawn, by label."""
    found = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, [lengths] = container.lines
        spans = [float(segment[1, 1] - segment[0, 1]) / 2 for segment in lengths.get_segments()]
        found[str(container.get_label())] = (
            list(map(float, line.get_xdata())),
            list(map(float, line.get_ydata())),
            spans,
        )
    return found


def test_accuracies_stand_where_they_belong() -> None:
    panel = accuracy_figure(ONE).axes[0]
    drawn = bars(panel)
    x, y, spans = drawn["auto"]
    assert y == pytest.approx([70, 80])  # of 1 and of 16 calls, in order
    assert x[1] == 16
    # Accuracies .6 and .8, .7 and .9.
    assert spans == pytest.approx([10 * 2**0.5, 10 * 2**0.5])
    assert drawn["lora@64"] == ([54], pytest.approx([80]), pytest.approx([0]))
    assert drawn["untuned"][0] == [0]
    assert panel.get_xscale() == "symlog"
    low, high = panel.get_xlim()
    assert low < 0
    assert high > 60


def test_points_of_the_same_cost_stand_side_by_side() -> None:
    drawn = bars(accuracy_figure(ONE).axes[0])
    ones = [drawn["calibrated"][0][0], drawn["dect"][0][0], drawn["auto"][0][0]]
    assert len(set(ones)) == 3
    assert all(0.85 < x < 1.25 for x in ones)


def test_there_is_a_panel_for_each_task_and_their_mean() -> None:
    figure = accuracy_figure(report(("films", "$5 n_ws")))
    assert [axes.get_title() for axes in figure.axes] == ["films", "$5 n_ws", "mean of 2 tasks"]
    assert [axes.get_title() for axes in accuracy_figure(ONE).axes] == ["films"]
    # A title is text, even if it looks like mathematics.
    assert png(figure).startswith(b"\x89PNG")


def test_the_legend_names_every_method_once_and_stands_outside() -> None:
    figure = accuracy_figure(ONE)
    figure.draw_without_rendering()
    [legend] = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["untuned", "calibrated", "dect", "lora@64", "bbt", "auto"]
    box = legend.get_window_extent()
    assert all(not box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_a_recipe_without_a_part_is_no_further_budget_of_the_whole() -> None:
    methods = ("auto:4", "auto:16", "auto:16-words", "auto:4-words", "auto:16-demonstrations")
    found = [made("films", each, 13, answers(5)) for each in methods]
    panel = accuracy_figure(Report(found)).axes[0]
    points = {each.get_label(): len(each.lines[0].get_xdata()) for each in panel.containers}
    assert points == {"auto": 2, "auto-words": 2, "auto-demonstrations": 1}


def test_a_long_legend_has_room() -> None:
    found = [made("films", f"auto:2@{k}", 13, answers(5)) for k in range(1, 31)]
    figure = accuracy_figure(Report(found))
    figure.draw_without_rendering()
    [legend] = figure.legends
    assert legend.get_window_extent().y0 >= 0


def test_methods_with_gradients_are_hollow_and_all_look_different() -> None:
    panel = accuracy_figure(ONE).axes[0]
    looks = {}
    for container in panel.containers:
        line = container.lines[0]
        looks[container.get_label()] = (line.get_color(), line.get_marker())
        hollow = line.get_markerfacecolor() == "white"
        assert hollow == (container.get_label() == "lora@64")
    assert len(set(looks.values())) == len(looks)


def test_curves_are_the_methods_own() -> None:
    figure = convergence_figure(ONE)
    assert figure is not None
    panel = figure.axes[0]
    lines = [
        (line.get_color(), list(line.get_xdata()), list(line.get_ydata()))
        for line in panel.get_lines()
    ]
    assert len(lines) == 4
    courses = [course[1:] for course in lines]
    assert courses.count(([20, 40, 60], [0.9, 0.5, 0.4])) == 3
    assert ([20], [0.9]) in courses
    assert len({colour for colour, *_ in lines}) == 2
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["lora@64", "bbt:60"]


def test_without_curves_there_is_no_picture_of_them() -> None:
    assert convergence_figure(Report([made("films", "untuned", 13, answers(4), calls=0)])) is None


def test_what_is_published_can_be_opened(tmp_path: Any) -> None:
    import matplotlib.image

    paths = publish(ONE, "a heading", tmp_path)
    assert [path.name for path in paths] == [
        "report.md",
        "cells.csv",
        "accuracy.png",
        "convergence.png",
    ]
    for path in paths[2:]:
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[0] > 300
        assert pixels.std() > 0.05
    assert "convergence.png" in paths[0].read_text()


def test_nothing_but_refusals_is_an_empty_picture() -> None:
    from blackbox_delta.compare.cells import Finding

    empty = Report([Finding("films", 13, "shy", 16, refusal="no")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png(accuracy_figure(empty)).startswith(b"\x89PNG")
