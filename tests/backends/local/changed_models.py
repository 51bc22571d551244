"""Deltas by the book: one model per candidate whose weights were changed by hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_the_book import Reference

from blackbox_delta.deltas import Prefix
from blackbox_delta.types import AnswerSlot, DeltaBatch, ScoreRequest, SoftSlot, Words

SLOT = lambda text: [Words(text, True), SoftSlot("a"), Words(" It was"), AnswerSlot()]  # noqa: E731


def prefix_batch(backend: Any, candidates: int, layers: list[int] | None = None) -> DeltaBatch:
    delta = Prefix(backend.geometry, [7, 8, 9], layers)
    rng = np.random.default_rng(1)
    return delta.unpack(rng.normal(0, 1.0, (candidates, delta.size)).astype(np.float32))


def columns_first(module: Any) -> bool:
    """GPT-2 keeps its matrices the other way round."""
    return type(module).__name__ == "Conv1D"


def _lora(module: Any, own: dict[str, Any]) -> None:
    term = own["lora_B"] @ own["lora_A"]
    module.weight += term.T if columns_first(module) else term


def _ia3(module: Any, own: dict[str, Any]) -> None:
    if "scale_in" in own:
        module.weight *= own["scale_in"][:, None] if columns_first(module) else own["scale_in"]
        return
    module.weight *= own["scale_out"] if columns_first(module) else own["scale_out"][:, None]
    if module.bias is not None:
        module.bias *= own["scale_out"]


def _bitfit(module: Any, own: dict[str, Any]) -> None:
    if getattr(module, "bias", None) is not None:
        module.bias += own["offset"]
    else:
        module.register_forward_hook(lambda _module, _inputs, y: y + own["offset"])


def _adapter(module: Any, own: dict[str, Any]) -> None:
    import torch

    def behind(_module: Any, _inputs: Any, y: Any) -> Any:
        return y + torch.nn.functional.gelu(y @ own["down"].T) @ own["up"].T

    module.register_forward_hook(behind)


def _tiny_lora(module: Any, own: dict[str, Any]) -> None:
    """With numpy's singular vectors, the largest entry of each left one positive."""
    import torch

    matrix = module.weight.numpy().T if columns_first(module) else module.weight.numpy()
    u, sizes, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    rank = len(own["core"])
    u, v = u[:, :rank], v[:rank]
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(rank)])
    core = own["core"].numpy()
    term = torch.from_numpy(((u * signs * sizes[:rank]) @ core @ (v * signs[:, None])).astype("f4"))
    module.weight += term.T if columns_first(module) else term


def _matrix(module: Any, own: dict[str, Any]) -> None:
    module.weight += own["weight"].T if columns_first(module) else own["weight"]


def _sparse(module: Any, own: dict[str, Any]) -> None:
    rows, columns = own["rows"].int(), own["columns"].int()
    matrix = module.weight.T if columns_first(module) else module.weight
    for row, column, value in zip(rows, columns, own["values"], strict=True):
        matrix[row, column] += value


BOOK: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "lora": _lora,
    "last-layer": _matrix,
    "selective": _matrix,
    "sparse": _sparse,
    "tiny-lora": _tiny_lora,
    "ia3": _ia3,
    "bitfit": _bitfit,
    "adapter": _adapter,
}


def changed(tiny: Any, delta: DeltaBatch, candidate: int) -> Any:
    """A copy of the model whose weights hold one candidate."""
    import torch

    model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        for part in delta.parts:
            by_module: dict[str, dict[str, Any]] = {}
            for name, value in part.tensors.items() if part.kind in BOOK else ():
                module, _, tensor = name.rpartition(".")
                by_module.setdefault(module, {})[tensor] = torch.from_numpy(value[candidate].copy())
            for module, own in by_module.items():
                BOOK[part.kind](model.get_submodule(module), own)
    return model


def expected(tiny: Any, request: ScoreRequest) -> np.ndarray:
    import torch

    delta = request.delta
    assert delta is not None
    scores = np.empty((request.candidates, len(request.prompts), len(request.choices)))
    soft = next((part.tensors for part in delta.parts if part.kind == "soft-prompt"), {})
    with torch.no_grad():
        for row in range(request.candidates):
            reference = Reference(tiny.kind, changed(tiny, delta, row), tiny.tokenizer)
            own = {name: value[row] for name, value in soft.items()}
            for column, prompt in enumerate(request.prompts):
                for place, choice in enumerate(request.choices):
                    scores[row, column, place] = reference.score(prompt, choice, own)
    return scores


def prefixed_scores(tiny: Any, request: ScoreRequest) -> np.ndarray:
    """Through transformers' own cache, which is how PEFT applies a prefix."""
    import torch
    from transformers import DynamicCache

    delta = request.delta
    assert delta is not None
    prefix = next(part for part in delta.parts if part.kind == "prefix")
    scores = np.empty((request.candidates, len(request.prompts), len(request.choices)))

    def score(row: int, prompt: Any, choice: str) -> float:
        model = changed(tiny, delta, row)
        words = torch.tensor([list(prefix.token_ids)])
        own = tiny.model(input_ids=words, use_cache=True).past_key_values
        cache = DynamicCache()
        for number, layer in enumerate(own.layers):
            keys, values = layer.keys, layer.values
            if f"{number}.keys" in prefix.tensors:
                keys = keys + torch.from_numpy(prefix.tensors[f"{number}.keys"][row])
                values = values + torch.from_numpy(prefix.tensors[f"{number}.values"][row])
            cache.update(keys, values, number)
        text = "".join(part.text for part in prompt.segments if isinstance(part, Words))
        ids = tiny.tokenizer(text)["input_ids"]
        answer = tiny.tokenizer(choice, add_special_tokens=False)["input_ids"]
        out = model(input_ids=torch.tensor([ids + answer[:-1]]), past_key_values=cache)
        read = out.logits[0].log_softmax(dim=-1)[len(ids) - 1 :]
        return sum(float(read[place, token]) for place, token in enumerate(answer))

    with torch.no_grad():
        for row in range(request.candidates):
            for column, prompt in enumerate(request.prompts):
                for place, choice in enumerate(request.choices):
                    scores[row, column, place] = score(row, prompt, choice)
    return scores


def with_peft(base: Any, folder: Path) -> Any:
    """A copy of a model with an adapter that was exported, as PEFT loads it."""
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that it has given up.
        warnings.filterwarnings("ignore", r".*is_gradient_checkpointing", FutureWarning)
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


def encoder_rows(backend: Any) -> list[int]:
    """Receives how many rows the encoder reads in each pass."""
    read: list[int] = []
    backend._model.get_encoder().register_forward_pre_hook(
        lambda _module, _inputs, named: read.append(len(named["inputs_embeds"])), with_kwargs=True
    )
    return read
