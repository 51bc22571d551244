"""What is searched: a delta, and the subspace in which z moves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from blackbox_delta._problem_deltas import make_delta
from blackbox_delta.deltas import Composition
from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import DivideAndConquer
from blackbox_delta.settings import Settings
from blackbox_delta.subspaces import BlockSubspace, Subspace, make_subspace
from blackbox_delta.tasks import Template
from blackbox_delta.types import Backend, Delta, DeltaBatch, Json, Vector

#: d unless something else is asked for, as in Black-Box Tuning; a smaller delta takes its own D.
DIMENSION = 500
#: α unless something else is asked for.
SCALE = 0.3


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
        ends = accumulate(self.stages or (self.subspace.dimension,), initial=0)
        return tuple(slice(*pair) for pair in pairwise(ends))

    def described(self) -> Json:
        """What reports say of it."""
        return {
            "kind": self.delta.kind,
            "size": self.delta.size,
            "dimension": self.subspace.dimension,
            "subspace": self.subspace.kind,
        }

    def candidates(self, z: Vector) -> DeltaBatch:
        """z (λ, d) to λ candidates, by way of θ (λ, D)."""
        return self.delta.unpack(self.subspace.project(z, self.delta.origin))


def build_frames(
    backend: Backend, starts: Sequence[tuple[Template, str | None]], settings: Settings
) -> list[Frame | None]:
    """One frame for each template and init, all of the same search dimension.

    ``None`` where only the output side is tuned.

    Raises:
        ConfigError: A setting makes no sense for the delta.
        UnsupportedError: The backend does not take it.
    """
    deltas = [make_delta(backend, template, settings, init) for template, init in starts]
    lengths = [_stage_lengths(delta, settings) for delta in deltas if delta is not None]
    if not lengths:
        return [None for _ in starts]
    stages = tuple(_dimension(min(sizes), settings) for sizes in zip(*lengths, strict=True))
    return [
        None if delta is None else Frame(delta, _subspace(delta, stages, settings), stages)
        for delta in deltas
    ]


def _stage_lengths(delta: Delta, settings: Settings) -> list[int]:
    """How many numbers of θ belong to each stage."""
    if len(settings.delta_stages) == 1 or not isinstance(delta, Composition):
        return [delta.size]
    sizes = iter([each.size for each in delta.deltas])
    return [sum(next(sizes) for _ in kinds) for kinds in settings.delta_stages]


def _dimension(size: int, settings: Settings) -> int:
    """d of a stage that has at least ``size`` numbers of θ."""
    dimension = settings.dimension or min(DIMENSION, size)
    if dimension > size:
        raise ConfigError(
            f"dimension = {dimension} is more than the {size} numbers of the "
            f"{settings.delta}; give at most {size}"
        )
    return dimension


def _subspace(delta: Delta, stages: tuple[int, ...], settings: Settings) -> Subspace:
    scale = (settings.scale or SCALE) * delta.scale
    if len(stages) > 1:
        if settings.subspace is not None:
            raise ConfigError(
                f"subspace = '{settings.subspace}': stages have a subspace each; leave it open"
            )
        groups = _stage_lengths(delta, settings)
        return BlockSubspace.with_shares(stages, groups, settings.seed, scale)
    name = settings.subspace
    if name is None and settings.optimizer == DivideAndConquer.name:
        name = BlockSubspace.kind
    return make_subspace(name, stages[0], delta.size, settings.seed, scale, delta.groups)
