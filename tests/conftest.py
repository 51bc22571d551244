"""Settings that every test needs. They stand before any library that reads them is imported."""

from __future__ import annotations

import os

# A test that reaches for the hub is a mistake; let it fail at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tokenizers would warn about the processes that some tests start.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
