"""What is searched: a delta, and the subspace in which z moves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blackbox_delta.deltas import Composition, SoftPrompt
from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import OF_PARTS, EggRoll
from blackbox_delta.problem.deltas import make_delta
from blackbox_delta.problem.earlier import EarlierDelta, basis_of
from blackbox_delta.settings import Settings
from blackbox_delta.slices import consecutive
from blackbox_delta.subspaces import (
    MAX_DIMENSION,
    MOST_DENSE,
    BlockSubspace,
    LearnedSubspace,
    LowRankSubspace,
    Subspace,
    make_subspace,
)
from blackbox_delta.tasks import Template
from blackbox_delta.types import Backend, Delta, DeltaBatch, Json, Vector, is_deferred

#: d unless something else is asked for, as in Black-Box Tuning; a smaller delta takes its own D.
DIMENSION = 500
#: α unless something else is asked for.
SCALE = 0.3
#: Settings that only the search of a delta listens to.
_OF_SEARCHES = (
    "soft_tokens",
    "dimension",
    "subspace",
    "subspace_from",
    "scale",
    "optimizer",
    "population",
)
#: The subspaces that optimizers are made for.
_MADE_FOR = {
    **dict.fromkeys(OF_PARTS, BlockSubspace.kind),
    EggRoll.name: LowRankSubspace.kind,
}


@dataclass(frozen=True)
class Frame:
    """The delta and the subspace in which it is searched: z to candidates.

    Attributes:
        delta: What is tuned.
        subspace: Where it is searched.
        stages: How many numbers of z each stage of a search moves; none given is one stage.
    """

    delta: Delta
    subspace: Subspace
    stages: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[slice, ...]:
        """The numbers of z of each stage."""
        return tuple(consecutive(self.stages or (self.subspace.dimension,)))

    def described(self) -> Json:
        """What reports say of it."""
        return {
            "kind": self.delta.kind,
            "size": self.delta.size,
            "dimension": self.subspace.dimension,
            "subspace": self.subspace.kind,
        }

    def candidates(self, z: Vector) -> DeltaBatch:
        """z (λ, d) to λ candidates, by way of θ (λ, D), which is never whole where it is large."""
        if is_deferred(self.delta):
            return self.delta.deferred(self.subspace.theta(z))
        return self.delta.unpack(self.subspace.project(z, self.delta.origin))


def build_frames(
    backend: Backend,
    starts: Sequence[tuple[Template, str | None]],
    settings: Settings,
    earlier: Sequence[EarlierDelta] = (),
) -> list[Frame | None]:
    """One frame for each template and init, all of the same search dimension.

    ``None`` where only the output side is tuned.

    Raises:
        ConfigError: A setting makes no sense for the delta, or is about a search where none is.
        UnsupportedError: The backend does not take it.
    """
    deltas = [make_delta(backend, template, settings, init) for template, init in starts]
    found = [delta for delta in deltas if delta is not None]
    if not found:
        _check_unheard(backend, settings)
        return [None for _ in starts]
    make = _maker(found, settings, earlier)
    return [None if delta is None else make(delta) for delta in deltas]


def _check_unheard(backend: Backend, settings: Settings) -> None:
    """What is said of a search is refused, not left unheard, where only the output side is tuned.

    Raises:
        ConfigError: A setting is about the search of a delta.
    """
    defaults = Settings()
    told = [name for name in _OF_SEARCHES if getattr(settings, name) != getattr(defaults, name)]
    if not told:
        return
    if SoftPrompt.kind in backend.capabilities.deltas:
        why, advice = "the template has no {soft} slot", "write {soft} into the template, or "
    else:
        why, advice = f"{backend.name} takes no soft prompts", ""
    names = ", ".join(told)
    raise ConfigError(
        f"{names} {'is' if len(told) == 1 else 'are'} about the search of a delta, and none is "
        f"tuned here, for {why}; {advice}leave {names} out"
    )


def _maker(
    deltas: Sequence[Delta], settings: Settings, earlier: Sequence[EarlierDelta]
) -> Callable[[Delta], Frame]:
    """What makes the frame of each of them."""
    if len(settings.delta_stages) > 1:
        return _in_stages(deltas, settings)
    return _spanned(earlier, deltas, settings) if earlier else _random(deltas, settings)


def _in_stages(deltas: Sequence[Delta], settings: Settings) -> Callable[[Delta], Frame]:
    """Makes frames in which each stage has numbers of z, and a random subspace, of its own."""
    if settings.subspace is not None or settings.subspace_from is not None:
        raise ConfigError("stages have a subspace each; leave subspace and subspace_from out")
    if wanted := _MADE_FOR.get(settings.optimizer):
        raise ConfigError(
            f"the optimizer {settings.optimizer!r} is made for the subspace {wanted!r}, and stages "
            "have random ones of their own; take another optimizer, or deltas at the same time: "
            f"{settings.delta.replace(',', '+')}"
        )
    sizes = zip(*(_stage_lengths(delta, settings) for delta in deltas), strict=True)
    stages = tuple(
        _dimension(min(each), settings, "+".join(kinds))
        for each, kinds in zip(sizes, settings.delta_stages, strict=True)
    )
    if sum(stages) > MAX_DIMENSION:
        raise ConfigError(
            f"{len(stages)} stages of dimension {', '.join(map(str, stages))} are more than "
            f"{MAX_DIMENSION} together; give at most {MAX_DIMENSION // len(stages)}"
        )

    def make(delta: Delta) -> Frame:
        groups, scale = _stage_lengths(delta, settings), _scale(delta, settings)
        subspace = BlockSubspace.with_shares(stages, groups, settings.seed, scale)
        return Frame(delta, subspace, stages)

    return make


def _spanned(
    earlier: Sequence[EarlierDelta], deltas: Sequence[Delta], settings: Settings
) -> Callable[[Delta], Frame]:
    """Makes frames in the span of earlier deltas."""
    basis = basis_of(earlier, deltas)
    dimension = settings.dimension or len(basis)

    def make(delta: Delta) -> Frame:
        scale = _scale(delta, settings)
        return Frame(
            delta, LearnedSubspace.spanned(dimension, basis, settings.seed, scale, MOST_DENSE)
        )

    return make


def _random(deltas: Sequence[Delta], settings: Settings) -> Callable[[Delta], Frame]:
    """Makes frames in subspaces drawn from the seed."""
    dimension = _dimension(min(delta.size for delta in deltas), settings, settings.delta)
    name = settings.subspace or _MADE_FOR.get(settings.optimizer)

    def make(delta: Delta) -> Frame:
        size, seed, scale = delta.size, settings.seed, _scale(delta, settings)
        parts = delta.groups, delta.shapes
        return Frame(delta, make_subspace(name, dimension, size, seed, scale, *parts))

    return make


def _stage_lengths(delta: Delta, settings: Settings) -> list[int]:
    """How many numbers of θ belong to each stage."""
    parts = delta.deltas if isinstance(delta, Composition) else (delta,)
    sizes = iter([part.size for part in parts])
    return [sum(next(sizes) for _ in kinds) for kinds in settings.delta_stages]


def _dimension(size: int, settings: Settings, kinds: str) -> int:
    """d for at least ``size`` numbers of θ, which are those of these kinds of delta."""
    dimension = settings.dimension or min(DIMENSION, size)
    if dimension > size:
        raise ConfigError(
            f"dimension = {dimension} is more than the {size} numbers of the {kinds}; give at "
            f"most {size}"
        )
    return dimension


def _scale(delta: Delta, settings: Settings) -> float:
    return (settings.scale or SCALE) * delta.scale
