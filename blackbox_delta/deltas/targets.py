"""Which modules a delta acts on: names and patterns, read as PEFT reads ``target_modules``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry, Module

#: Every linear layer but the head, as PEFT calls it.
ALL_LINEAR = "all-linear"
#: Every linear layer but the head, and every norm.
ALL = "all"

#: Names of the layers that make keys or values, in the families of models that transformers has.
KEYS_AND_VALUES = (
    "k_proj", "v_proj", "key", "value", "k", "v", "k_lin", "v_lin",
    "c_attn", "query_key_value", "qkv_proj", "Wqkv",
)  # fmt: skip
#: Names of the layers that end a feed-forward block.
FEED_FORWARD = (
    "down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "output.dense", "wo", "ffn.lin2", "w2",
)  # fmt: skip
#: What ends like a feed-forward block in some families, and is none.
_NOT_FEED_FORWARD = ("attention.output.dense",)


def select(geometry: Geometry, pattern: str | Sequence[str]) -> tuple[Module, ...]:
    """The modules that a pattern names, in the model's order.

    Args:
        geometry: The model's modules.
        pattern: ``"all-linear"``; ``"all"``, norms included; another text is a regular expression
            that must match a module's whole name; a list holds names or their ends
            (``["q_proj", "v_proj"]``). A text of several names with commas is such a list.

    Raises:
        ConfigError: The pattern is no regular expression, or nothing is named so.
    """
    found = tuple(module for module in geometry.modules if _Matcher(pattern)(module))
    if not found:
        raise ConfigError(
            f"no module of this model is named by {_written(pattern)}; its modules are called "
            f"{', '.join(_last_names(geometry)) or 'nothing that a delta could act on'}"
        )
    return found


def ends_feed_forward(module: Module) -> bool:
    """Whether it is the layer that ends a feed-forward block, by its name."""
    return _ends(module.name, FEED_FORWARD) and not _ends(module.name, _NOT_FEED_FORWARD)


class _Matcher:
    """Whether a module is meant."""

    def __init__(self, pattern: str | Sequence[str]) -> None:
        self._pattern = pattern
        self._ends: tuple[str, ...] | None = None
        if not isinstance(pattern, str):
            self._ends = tuple(pattern)
        elif re.fullmatch(r"[\w.,\s]+", pattern):
            self._ends = tuple(name.strip() for name in pattern.split(","))
        else:
            try:
                self._expression = re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"{pattern!r} is no regular expression: {error}") from None

    def __call__(self, module: Module) -> bool:
        if self._pattern == ALL:
            return True
        if self._pattern == ALL_LINEAR:
            return module.linear
        if self._ends is not None:
            return _ends(module.name, self._ends)
        return self._expression.fullmatch(module.name) is not None


def _ends(name: str, ends: Sequence[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _written(pattern: str | Sequence[str]) -> str:
    return repr(pattern) if isinstance(pattern, str) else ", ".join(map(repr, pattern))


def _last_names(geometry: Geometry) -> list[str]:
    return sorted({module.name.rpartition(".")[2] for module in geometry.modules})
