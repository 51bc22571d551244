"""A task put to a model: how it is read and asked about, and in what space a delta is searched."""

from __future__ import annotations

from blackbox_delta.problem.asking import ask, ask_within
from blackbox_delta.problem.earlier import EarlierDelta
from blackbox_delta.problem.frame import DIMENSION, Frame
from blackbox_delta.problem.problem import Part, Problem, build_problem, labels_of
from blackbox_delta.problem.reader import Reader
from blackbox_delta.problem.starts import starts_in_words

__all__ = [
    "DIMENSION",
    "EarlierDelta",
    "Frame",
    "Part",
    "Problem",
    "Reader",
    "ask",
    "ask_within",
    "build_problem",
    "labels_of",
    "starts_in_words",
]
