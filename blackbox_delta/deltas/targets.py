"""Which modules a delta acts on: names and patterns, read as PEFT reads ``target_modules``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry, Module

#: Every linear layer but the head, as PEFT calls it.
ALL_LINEAR = "all-linear"
#: Every linear layer but the head, and every norm.
ALL = "all"
#: The linear layers of the last layer; a decoder's where an encoder comes before it.
LAST_LAYER = "last-layer"
#: And a number: so many linear layers, drawn from a seed.
RANDOM = "random:"

#: Names of the layers that make keys or values, in the families of models that transformers has.
KEYS_AND_VALUES = (
    "k_proj", "v_proj", "key", "value", "k", "v", "k_lin", "v_lin", "key_proj", "value_proj",
    "Wk", "Wv", "c_attn", "query_key_value", "qkv_proj", "Wqkv",
)  # fmt: skip
#: Before a name in a list that is not meant, though another one is its end.
NOT = "!"
#: Names of the layers that end a feed-forward block.
FEED_FORWARD = (
    "down_proj", "fc2", "fc_out", "mlp.c_proj", "mlp.Wo", "dense_4h_to_h", "wo", "w2", "ffn.2",
    "ffn.lin2", "ffn_output", "feed_forward.output", "output.dense", NOT + "attention.output.dense",
)  # fmt: skip


def select(
    geometry: Geometry, pattern: str | Sequence[str], seed: int = 0, *, matrices: bool = False
) -> tuple[Module, ...]:
    """The modules that a pattern names, in the model's order.

    Args:
        geometry: The model's modules.
        pattern: ``"all-linear"``; ``"all"``, norms included; ``"last-layer"``; ``"random:4"``, four
            linear layers by chance; another text is a regular expression that must match a
            module's whole name; a list holds names or their ends (``["q_proj", "v_proj"]``), with
            ``!`` before those that are not meant. A text of several names with commas is such a
            list.
        seed: Determines who is drawn.
        matrices: Whether to leave out what multiplies with none, such as norms.

    Raises:
        ConfigError: The pattern is no regular expression, or nothing is named so.
    """
    named = _named(geometry, pattern, seed)
    found = tuple(module for module in named if module.linear or not matrices)
    if named and not found:
        raise ConfigError(
            f"no linear layer of this model is named by {_written(pattern)}, only "
            f"{', '.join(_last_names(named))}, and this delta needs a matrix; the linear layers "
            f"are called {_called(module for module in geometry.modules if module.linear)}"
        )
    if not found:
        raise _nothing(geometry, pattern)
    return found


def _named(geometry: Geometry, pattern: str | Sequence[str], seed: int) -> tuple[Module, ...]:
    linear = [module for module in geometry.modules if module.linear]
    if pattern == LAST_LAYER:
        layers = [place for module in linear if (place := _layer(module)) is not None]
        return tuple(module for module in linear if layers and _layer(module) == layers[-1])
    if isinstance(pattern, str) and pattern.startswith(RANDOM):
        return _drawn(linear, pattern, seed)
    if isinstance(pattern, str) and _is_list(pattern):
        for name in _names(pattern):
            if not any(_ends(module.name, [name.strip(NOT)]) for module in geometry.modules):
                raise _nothing(geometry, name)
    matches = _Matcher(pattern)
    return tuple(module for module in geometry.modules if matches(module))


def _is_list(pattern: str) -> bool:
    """Whether it is names with commas between them, or one, and no word for many modules."""
    return pattern not in (ALL, ALL_LINEAR) and bool(re.fullmatch(r"[\w.,\s!]+", pattern))


def _names(pattern: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in pattern.split(","))


def _nothing(geometry: Geometry, pattern: str | Sequence[str]) -> ConfigError:
    return ConfigError(
        f"no module of this model is named by {_written(pattern)}; its modules are called "
        f"{_called(geometry.modules)}"
    )


def ends_feed_forward(module: Module) -> bool:
    """Whether it is the layer that ends a feed-forward block, by its name."""
    return _ends(module.name, FEED_FORWARD)


def _layer(module: Module) -> str | None:
    """The name of its layer, up to the first number in it; ``None`` outside all of them."""
    parts = module.name.split(".")
    ends = [place for place, part in enumerate(parts, 1) if part.isdecimal()]
    return ".".join(parts[: ends[0]]) if ends else None


def _drawn(linear: Sequence[Module], pattern: str, seed: int) -> tuple[Module, ...]:
    count = pattern.removeprefix(RANDOM)
    if not (count.isdecimal() and 1 <= int(count) <= len(linear)):
        raise ConfigError(
            f"{pattern!r} draws no modules; write {RANDOM} and a number up to the {len(linear)} "
            "linear layers of this model"
        )
    # The smallest raw numbers: the same choice on every machine.
    drawn = np.argsort(np.random.PCG64([seed, 4]).random_raw(len(linear)), kind="stable")
    return tuple(linear[place] for place in sorted(drawn[: int(count)].tolist()))


class _Matcher:
    """Whether a module is meant."""

    def __init__(self, pattern: str | Sequence[str]) -> None:
        self._pattern = pattern
        self._ends: tuple[str, ...] | None = None
        if not isinstance(pattern, str):
            self._ends = tuple(pattern)
        elif _is_list(pattern):
            self._ends = _names(pattern)
        elif pattern not in (ALL, ALL_LINEAR):
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
    meant = [not end.startswith(NOT) for end in ends if f".{name}".endswith("." + end.strip(NOT))]
    return bool(meant) and all(meant)


def _written(pattern: str | Sequence[str]) -> str:
    return repr(pattern) if isinstance(pattern, str) else ", ".join(map(repr, pattern))


def _called(modules: Iterable[Module]) -> str:
    return ", ".join(_last_names(modules)) or "nothing that a delta could act on"


def _last_names(modules: Iterable[Module]) -> list[str]:
    return sorted({module.name.rpartition(".")[2] for module in modules})
