"""What a comparison leaves in its folder: CSV, Markdown and pictures."""

from __future__ import annotations

from pathlib import Path

from blackbox_delta.artifact import write_whole
from blackbox_delta.compare.plots import accuracy_figure, convergence_figure, png
from blackbox_delta.compare.report import Report
from blackbox_delta.compare.tables import csv_text, markdown
from blackbox_delta.errors import RunError

CSV_NAME = "cells.csv"
REPORT_NAME = "report.md"
ACCURACY_NAME = "accuracy.png"
CONVERGENCE_NAME = "convergence.png"


def publish(report: Report, heading: str, out: Path) -> tuple[Path, ...]:
    """Writes everything, each file at once; their paths, the report first.

    Args:
        report: The figures.
        heading: What was compared, in a line.
        out: The comparison's folder.

    Raises:
        RunError: They cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    pictures = {ACCURACY_NAME: accuracy_figure(report)}
    course = convergence_figure(report)
    if course is not None:
        pictures[CONVERGENCE_NAME] = course
    files = {
        REPORT_NAME: markdown(report, heading, pictures).encode(),
        CSV_NAME: csv_text(report).encode(),
        **{name: png(figure) for name, figure in pictures.items()},
    }
    for name, content in files.items():
        try:
            write_whole({out / name: content})
        except OSError as error:
            raise RunError(f"{out / name} cannot be written: {error.strerror}") from error
    return tuple(out / name for name in files)
