"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from blackbox_delta.compare.contract import Method
from blackbox_delta.compare.specs import SEARCH, THEN, Spec
from blackbox_delta.errors import ConfigError, MissingExtraError
from blackbox_delta.heads import make_head
from blackbox_delta.settings import PARTS, Settings

#: What everything else is compared with.
BASELINE = "calibrated"
#: One query an example, for tuning and for an answer.
PLAIN = ("untuned", BASELINE, "in-context", "dect")
#: What a head alone begins with, as in ``head-ridge``.
HEAD = "head-"
#: The same where the words before the answer are chosen too, as in ``start-ridge``.
START = "start-"
#: Those that take a budget in calls, which stands for the number of passes over the examples; the
#: search of a delta takes one too.
BUDGETED = ("auto", "bbt", "bbtv2-style")
#: Those that are trained, with a learning rate that is chosen on the first seed.
GRADIENTS = ("full", "lora", "prefix", "prompt", "bitfit")
#: No gradients, and quick.
DEFAULTS = (*PLAIN, "auto:1", "auto:4", "auto:16")

#: Learning rates to choose among; ``None`` for the method's own grid.
Rates = tuple[float, ...] | None

_PUBLISHED_CALLS = 8000  # of BBT and BBTv2
_OWN_CALLS = 300


@dataclass(frozen=True)
class Contender:
    """A method in a comparison.

    Attributes:
        spec: As it was asked for.
        make: The method, told the learning rates that it may choose among.
        takes_rate: Whether a learning rate is chosen on the first seed and kept for the others.
        needs_weights: Whether it opens the model itself, so that a server will not do.
    """

    spec: Spec
    make: Callable[[Rates], Method]
    takes_rate: bool = False
    needs_weights: bool = False

    @classmethod
    def of(cls, spec: Spec) -> Contender:
        """The method that is asked for; making it loads what it needs.

        Raises:
            ConfigError: There is no such method, it takes no budget in calls, or it lacks a part.
        """
        if spec.name in BUDGETED or spec.name.startswith(SEARCH):
            _check_parts(spec)
            own = spec.name == "bbtv2-style"
            return cls(spec, lambda _rates: _budgeted(spec), needs_weights=own)
        if spec.name.startswith((HEAD, START)):
            make_head(_head_of(spec.name))
        elif spec.name not in (*PLAIN, *GRADIENTS):
            raise ConfigError(
                f"there is no method called {spec.name!r}; the methods are "
                f"{', '.join(method_names())}"
            )
        if spec.calls is not None:
            raise ConfigError(
                f"{spec}: a budget in calls is for {', '.join(BUDGETED)}; write {spec.name}"
            )
        if spec.name in GRADIENTS:
            make = _gradient_maker(spec.name)
            return cls(spec, make, takes_rate=True, needs_weights=True)
        return cls(spec, lambda _rates: _plain(spec.name))


def method_names() -> tuple[str, ...]:
    """All names, with ``:CALLS`` those that take a budget."""
    return (
        *PLAIN,
        f"{HEAD}NAME",
        f"{START}NAME",
        *(f"{name}:CALLS" for name in (*BUDGETED, f"{SEARCH}DELTA")),
        *GRADIENTS,
    )


def _check_parts(spec: Spec) -> None:
    """Raises ``ConfigError`` where a method lacks parts, or a search has no such delta."""
    if spec.name.startswith(SEARCH):
        Settings.of({"recipe": "search", "delta": _searched(spec)})
    unknown = sorted(set(spec.without) - set(PARTS if spec.name == "auto" else ()))
    if unknown:
        known = f"; it has {', '.join(PARTS)}" if spec.name == "auto" else ""
        raise ConfigError(f"{spec}: {spec.name} has no part {unknown[0]!r} to leave out{known}")


def _searched(spec: Spec) -> str:
    """What is tuned, as the settings say it."""
    return spec.name.removeprefix(SEARCH).replace(THEN, ",")


def _head_of(name: str) -> str:
    return name.removeprefix(HEAD).removeprefix(START)


def _plain(name: str) -> Method:
    from blackbox_delta.compare.in_context import InContext
    from blackbox_delta.compare.output_side import OutputSide, Untuned

    if name == "untuned":
        return Untuned()
    if name == "in-context":
        return InContext()
    if name.startswith((HEAD, START)):
        return OutputSide(name, _head_of(name), starts=name.startswith(START))
    return OutputSide(name, "prototypes" if name == "dect" else BASELINE)


def _budgeted(spec: Spec) -> Method:
    from blackbox_delta.compare.auto import Auto
    from blackbox_delta.compare.bbt import Bbt
    from blackbox_delta.compare.search import Search

    if spec.name == "auto":
        return Auto(spec.calls or _OWN_CALLS, spec.without)
    if spec.name.startswith(SEARCH):
        return Search(_searched(spec), spec.calls or _OWN_CALLS)
    calls = spec.calls or _PUBLISHED_CALLS
    method: Method = Bbt(calls) if spec.name == "bbt" else _gradients().BBTv2Style(calls)
    return method


def _gradient_maker(name: str) -> Callable[[Rates], Method]:
    def make(rates: Rates) -> Method:
        gradients = _gradients()
        method: Method = gradients.GradientMethod(name, rates or gradients.GRIDS[name])
        return method

    return make


def _gradients() -> ModuleType:
    """The methods that open the model themselves.

    Raises:
        MissingExtraError: What they are made with is not installed.
    """
    try:
        from blackbox_delta.compare import gradients
    except ModuleNotFoundError as error:
        package = error.name or "peft"
        extra = "local" if package in ("torch", "transformers") else "compare"
        raise MissingExtraError(package, extra, "tuning with gradients") from None
    return gradients
