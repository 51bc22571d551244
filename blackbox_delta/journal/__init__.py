"""Every paid reply is written down before it is used; what was written is never paid again."""

from __future__ import annotations

from blackbox_delta.journal.backend import JournaledBackend
from blackbox_delta.journal.file import Journal
from blackbox_delta.journal.pairs import check_reply
from blackbox_delta.journal.record import Record
from blackbox_delta.journal.report import Spending, Summary, export, summarise

__all__ = [
    "Journal",
    "JournaledBackend",
    "Record",
    "Spending",
    "Summary",
    "check_reply",
    "export",
    "summarise",
]
