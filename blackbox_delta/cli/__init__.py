"""The command line: ``blackbox-delta``."""

from __future__ import annotations

from blackbox_delta.cli.program import app, main

__all__ = ["app", "main"]
