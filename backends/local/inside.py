"""What candidates do inside the model: terms beside its modules, a whole population in one pass.

The rows of a batch are grouped by candidate, so a module's input (λ·R, m, inputs) is (λ, R·m,
inputs) to a term, and one batched product gives each candidate its own low-rank term. The
module's own matrix product stays the one that all candidates share; no weight is ever copied or
changed, for the terms are hooks that are there for the time of one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from blackbox_delta.backends.local.steps import Step, at_modules, step_at
from blackbox_delta.backends.local.terms import TERMS, Factors
from blackbox_delta.types import DeltaBatch


@dataclass(frozen=True)
class Inside:
    """The terms of λ candidates.

    Attributes:
        steps: In the order in which they act at a module; none for the untuned model.
        count: λ.
    """

    steps: tuple[Step, ...] = ()
    count: int = 1

    @classmethod
    def of(
        cls,
        model: Any,
        parts: Sequence[DeltaBatch],
        like: torch.Tensor,
        count: int,
        factors: Factors,
    ) -> Inside:
        """From the parts of a delta that act at modules.

        Args:
            model: Whose modules they name.
            parts: Batches of the kinds in :data:`TERMS`, which fit it.
            like: A tensor of the model's precision and device.
            count: λ.
            factors: Keeps the singular vectors of its modules.
        """
        return cls(
            tuple(
                step_at(own, TERMS[part.kind], like, count)
                for part in parts
                for own in at_modules(model, part, factors)
            ),
            count,
        )

    def __bool__(self) -> bool:
        return bool(self.steps)

    def touches(self, modules: Set[torch.nn.Module]) -> bool:
        """Whether there is a term at any of these modules."""
        return any(step.module in modules for step in self.steps)

    @property
    def deferred(self) -> bool:
        """Whether tensors are made in every pass, which takes longer than a little padding."""
        return any(step.deferred for step in self.steps)

    @property
    def bytes_each(self) -> int:
        """Memory that one more row under a candidate takes."""
        return sum(step.bytes_each for step in self.steps)

    def select(self, chunk: slice | list[int]) -> Inside:
        """Some of the candidates."""
        count = len(range(self.count)[chunk]) if isinstance(chunk, slice) else len(chunk)
        return Inside(tuple(step.select(chunk) for step in self.steps), count)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """For the time of a forward pass whose rows are grouped by candidate."""
        by_module: dict[torch.nn.Module, list[Step]] = {}
        for step in self.steps:
            by_module.setdefault(step.module, []).append(step)
        handles = []
        try:
            for module, steps in by_module.items():
                if any(step.scales_input for step in steps):
                    handles.append(module.register_forward_pre_hook(self._before(steps)))
                handles.append(module.register_forward_hook(self._after(steps)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, steps: Sequence[Step]) -> Callable[[Any, Any], Any]:
        def scale(_module: torch.nn.Module, inputs: Any) -> Any:
            x, *others = inputs
            grouped = self._grouped(x)
            for step in steps:
                if step.scales_input:
                    grouped = step.before(grouped)
            return (grouped.view(x.shape), *others)

        return scale

    def _after(self, steps: Sequence[Step]) -> Callable[[Any, Any, Any], Any]:
        def add(_module: torch.nn.Module, inputs: Any, y: Any) -> Any:
            x, changed = self._grouped(inputs[0]), self._grouped(y)
            for step in steps:
                changed = step.after(x, changed)
            return changed.view(y.shape)

        return add

    def _grouped(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(self.count, -1, rows.shape[-1])
