"""The table of servers and tiers in the documentation.

``python -m blackbox_delta.backends.remote.wires.server_table docs/servers.md`` renews it there.
"""

from __future__ import annotations

import re
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from blackbox_delta.backends.remote.wires.offers import Preset
from blackbox_delta.backends.remote.wires.presets import PRESETS

_COLUMNS = (
    "server (`--preset`)",
    "embeddings in",
    "label words' log-probabilities",
    "top tokens",
    "APIs (`--api`)",
    "checked",
    "against",
)
_PLACE = re.compile(r"(<!-- servers -->).*(<!-- end of servers -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One line of the table of servers and tiers; ``no`` where a tier is not documented.

    Attributes:
        server: The preset's name.
        embeddings: Whether embeddings go in.
        labels: How the label words' log-probabilities are had.
        top_tokens: How many top tokens at most, as documented.
        text: The wires on which text goes in and comes out.
        checked: ``tried`` or ``documented``.
        source: What says so.
    """

    server: str
    embeddings: str
    labels: str
    top_tokens: str
    text: str
    checked: str
    source: str


def table() -> list[Row]:
    """Servers × tiers, for the documentation."""
    return [_row(preset) for preset in PRESETS.values()]


def markdown() -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "| --- " * len(_COLUMNS) + "|"]
    lines += ["| " + " | ".join(astuple(row)) + " |" for row in table()]
    return "\n".join(lines)


def renewed(page: str) -> str:
    """A page with the present table between its two marks.

    Raises:
        ValueError: It has no such marks.
    """
    text, count = _PLACE.subn(lambda marks: f"{marks[1]}\n{markdown()}\n{marks[2]}", page)
    if count != 1:
        raise ValueError("the page must have one <!-- servers --> … <!-- end of servers -->")
    return text


def main(arguments: list[str]) -> None:
    """Renews the table in each page that is named."""
    for name in arguments:
        page = Path(name)
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


def _row(preset: Preset) -> Row:
    label_ids = max(offer.max_label_ids for offer in preset.offers)
    top_k = max(offer.max_top_k for offer in preset.offers)
    embeds = any("embeds" in offer.forms for offer in preset.offers)
    return Row(
        server=preset.name,
        embeddings="yes" if embeds else "no",
        labels=f"exact, up to {label_ids}" if label_ids else "from top tokens" if top_k else "no",
        top_tokens=str(top_k) if top_k else "no",
        text=", ".join(offer.wire for offer in preset.offers),
        checked="tried" if preset.tried else "documented",
        source=preset.source,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
