"""How a method is asked for in words: ``auto:16-search``, ``search-lora:300``, ``lora@64``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from blackbox_delta.errors import ConfigError

#: What the search of a delta begins with, as in ``search-lora+bitfit``.
SEARCH = "search-"
#: What stands between its stages, for commas separate methods: ``search-soft-prompt-then-lora``.
THEN = "-then-"

_FORM = re.compile(
    r"(?P<name>[a-z][a-z0-9+-]*)(:(?P<calls>[0-9]+)(?P<without>(-[a-z]+)*))?(@(?P<shots>[0-9]+))?"
)


@dataclass(frozen=True)
class Spec:
    """A method as it is asked for.

    Attributes:
        name: Of the method.
        calls: What it may spend, in passes over the training examples; ``None`` for its own
            default.
        shots: Training examples per class; ``None`` for as many as the comparison has.
        without: Parts that ``auto`` is to leave out.
    """

    name: str
    calls: int | None = None
    shots: int | None = None
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        calls = "" if self.calls is None else f":{self.calls}"
        parts = "".join(f"-{part}" for part in self.without)
        return f"{self.name}{calls}{parts}" + ("" if self.shots is None else f"@{self.shots}")

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Reads ``NAME[:CALLS[-PART…]][@SHOTS]``.

        Raises:
            ConfigError: It is written otherwise, or a number is 0.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"cannot read the method {text!r}: write NAME, NAME:CALLS, auto:CALLS-PART or "
                "NAME@SHOTS, such as calibrated, bbt:500, auto:16-search or lora@64"
            )
        calls, shots = _number(match["calls"]), _number(match["shots"])
        if 0 in (calls, shots):
            raise ConfigError(f"the method {text!r}: calls and shots must be at least 1")
        return cls(match["name"], calls, shots, tuple((match["without"] or "").split("-")[1:]))


def parse_specs(texts: Iterable[str]) -> tuple[Spec, ...]:
    """Reads methods, each text one of them or several between commas; repeated ones count once.

    Raises:
        ConfigError: One cannot be read, or there are none.
    """
    parts = [part for text in texts for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError("there is no method to compare; name at least one")
    return tuple(dict.fromkeys(Spec.parse(part) for part in parts))


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
