"""Terms of several deltas as one LoRA: together they add what each adds by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.deltas.peft import LinearTerm, LinearTerms, PeftAdapter, low_rank_adapter

SIZES = {"a": (3, 5), "b": (4, 2), "c": (1, 1)}
X = {name: np.arange(1.0, inputs + 1) for name, (inputs, _) in SIZES.items()}


def term(name: str, rank: int, seed: int, *, offset: bool) -> LinearTerm:
    inputs, outputs = SIZES[name]
    rng = np.random.default_rng(seed)
    down, up = rng.normal(size=(rank, inputs)), rng.normal(size=(outputs, rank))
    b = rng.normal(size=outputs).astype("f4") if offset else None
    return LinearTerm(down.astype("f4"), up.astype("f4"), b)


@st.composite
def deltas(draw: st.DrawFn) -> LinearTerms:
    modules = draw(st.sets(st.sampled_from(sorted(SIZES)), min_size=1))
    return {
        name: term(
            name, draw(st.integers(0, 3)), draw(st.integers(0, 99)), offset=draw(st.booleans())
        )
        for name in sorted(modules)
    }


def added(adapter: PeftAdapter, name: str) -> np.ndarray:
    """What PEFT adds at a module: B A x with α / r, and B's own offset."""
    if name not in adapter.config["target_modules"]:
        return np.zeros(SIZES[name][1])
    tensors, prefix = adapter.tensors, f"base_model.model.{name}"
    low = tensors[f"{prefix}.lora_A.weight"] @ X[name]
    assert len(low) == adapter.config["r"]
    bias = tensors[f"{prefix}.lora_B.bias"] if adapter.config.get("lora_bias") else 0.0
    scale = adapter.config["lora_alpha"] / adapter.config["r"]
    return scale * (tensors[f"{prefix}.lora_B.weight"] @ low + bias)


@given(st.lists(deltas(), max_size=2))
def test_together_they_add_what_each_adds_alone(parts: list[LinearTerms]) -> None:
    parts = [*parts, {"a": term("a", 1, 7, offset=False)}]

    adapter = low_rank_adapter(parts)

    for name in SIZES:
        alone = np.zeros(SIZES[name][1])
        for part in parts:
            if name in part:
                own = part[name]
                alone += own.up @ (own.down @ X[name]) + (0 if own.offset is None else own.offset)
        np.testing.assert_allclose(added(adapter, name), alone, rtol=1e-5, atol=1e-5)
