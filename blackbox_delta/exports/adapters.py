"""PEFT's adapters of what was tuned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path

import numpy as np

from blackbox_delta.artifact import json_bytes, write_whole
from blackbox_delta.deltas import (
    IA3,
    BitFit,
    Composition,
    DeepPrompt,
    LoRA,
    ModuleDelta,
    Prefix,
    SoftPrompt,
    Sparse,
    TinyLoRA,
)
from blackbox_delta.deltas.peft import (
    CAUSAL_LM,
    SEQ_2_SEQ_LM,
    LinearTerms,
    PeftAdapter,
    low_rank_adapter,
    prefix_adapter,
)
from blackbox_delta.errors import ExportError, UnsupportedError
from blackbox_delta.exports.folders import new_folder
from blackbox_delta.exports.tuned_delta import (
    Tensors,
    TunedDelta,
    merging_advice,
    open_model,
    tuned_delta,
)
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import (
    Backend,
    Delta,
    DeltaBatch,
    EmbeddingTable,
    Example,
    FloatArray,
    OpenModel,
    SoftSlot,
)

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
#: Kinds that add B A x + b to what linear layers put out.
_AS_LORA = (LoRA, TinyLoRA, BitFit)
#: Kinds that PEFT has a type for, each alone.
_ALONE = (SoftPrompt, DeepPrompt, Prefix, *_AS_LORA, IA3, Sparse)


def export_peft(tuned: TunedModel, folder: str | Path) -> Path:
    """Writes the tuned delta as a PEFT adapter: ``adapter_config.json`` and safetensors.

    Under it the model says what it says under the delta; template, label words and the head stay
    in the run. A soft or deep prompt holds the special tokens that open a text, so that what
    follows it is tokenized without them; a prefix stands before them.

    Args:
        tuned: A tuned model whose delta PEFT has a type for: LoRA, tiny LoRA, IA3, offsets of
            linear layers, sparse entries, a prefix, or a soft or deep prompt that the template
            begins with. Of several kinds at once those that are one LoRA together: LoRA, tiny LoRA
            and offsets.
        folder: Where; it is made if it is not there, and must be empty.

    Raises:
        ExportError: Nothing was tuned that PEFT has a type for, or the folder is not empty or
            cannot be written.
    """
    found, backend, into = tuned_delta(tuned), tuned.backend, Path(folder)
    with new_folder(into, "adapter"):
        adapter = _adapter(found.delta, found, backend)
        # PEFT goes by it where it opens the model itself; for masked ones it has no name.
        task = None if backend.capabilities.text_after_answer else _task(backend)
        told = PeftAdapter({"task_type": task, **adapter.config}, adapter.tensors)
        write_adapter(told, backend.name, into)
    return into


def write_adapter(adapter: PeftAdapter, model: str, into: Path) -> None:
    """Writes an adapter's two files.

    Args:
        adapter: The adapter.
        model: The name of the model that it is for.
        into: The folder.

    Raises:
        ExportError: They cannot be written.
    """
    from safetensors.numpy import save

    config = {
        "task_type": None,
        **adapter.config,
        "base_model_name_or_path": model,
        "inference_mode": True,
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in adapter.tensors.items()}
    try:
        into.mkdir(parents=True, exist_ok=True)
        weights = save(tensors, {"format": "pt"})
        write_whole({into / WEIGHTS_NAME: weights, into / CONFIG_NAME: json_bytes(config)})
    except OSError as error:
        raise ExportError(f"the adapter cannot be written into {into}: {error.strerror}") from error


@singledispatch
def _adapter(delta: Delta, found: TunedDelta, backend: Backend) -> PeftAdapter:
    """The adapter of what was tuned, by its kind.

    Args:
        delta: That of ``found``.
        found: What was tuned.
        backend: Its model.
    """
    del found, backend
    raise ExportError(
        f"PEFT has no type for a {delta.kind}; it has for "
        f"{', '.join(each.kind for each in _ALONE)}{merging_advice(delta.kind)}"
    )


# -------------------------------------------------------------- beside linear layers


@_adapter.register(LoRA)
@_adapter.register(TinyLoRA)
@_adapter.register(Composition)
def _low_rank(_delta: Delta, found: TunedDelta, backend: Backend) -> PeftAdapter:
    adapter = low_rank_adapter([_terms(found, *part, backend) for part in found.parts])
    objection = open_model(backend, "modules").lora_objection(adapter.config["target_modules"])
    if objection is not None:
        raise ExportError(
            f"{objection}; tune with --set delta.targets=… that leaves it out, such as those of "
            f"attention, or merge the delta into the model: --format merged"
        )
    return adapter


def _terms(found: TunedDelta, delta: Delta, tensors: Tensors, backend: Backend) -> LinearTerms:
    """What one kind adds to linear layers."""
    if isinstance(delta, TinyLoRA):
        return delta.terms(tensors, open_model(backend, "weights").singular_factors)
    if isinstance(delta, LoRA):
        return delta.terms(tensors)
    if not isinstance(delta, BitFit):
        raise ExportError(
            f"PEFT has no type for a {found.delta.kind}: of several kinds at once it takes "
            f"{', '.join(each.kind for each in _AS_LORA)}, which are one LoRA"
            f"{merging_advice(found.delta.kind)}"
        )
    if norms := [module.name for module in delta.modules if not module.linear]:
        raise ExportError(
            f"PEFT has no type for offsets behind norms, such as {norms[0]}; tune with --set "
            "bitfit.targets=all-linear"
        )
    return delta.terms(tensors)


@_adapter.register
def _ia3(delta: IA3, found: TunedDelta, _backend: Backend) -> PeftAdapter:
    return delta.peft(found.tensors)


@_adapter.register
def _offsets(delta: BitFit, found: TunedDelta, backend: Backend) -> PeftAdapter:
    _check_torch_linear(delta, "BEFT", backend)
    return delta.peft(found.tensors)


@_adapter.register
def _entries(delta: Sparse, found: TunedDelta, backend: Backend) -> PeftAdapter:
    _check_torch_linear(delta, "SHiRA", backend)
    return delta.peft(found.tensors)


def _check_torch_linear(delta: ModuleDelta, name: str, backend: Backend) -> None:
    """Some of PEFT's types know torch's linear layers alone: no norms, and none of GPT-2's."""
    model = open_model(backend, "modules")
    where = ", if all that it acts at have biases" if isinstance(delta, BitFit) else ""
    for module in delta.modules:
        if not model.is_torch_linear(module.name):
            raise ExportError(
                f"PEFT's {name} acts on torch's own linear layers, and {module.name} is none; tune "
                "with --set delta.targets=… that names such alone (all-linear has no norms), or "
                f"merge the delta into the model{where}: --format merged"
            )


# ------------------------------------------------------------------- before the words


@_adapter.register
def _prompt_tuning(delta: SoftPrompt, found: TunedDelta, backend: Backend) -> PeftAdapter:
    opening = _opening(found, backend)
    if isinstance(backend, OpenModel) and not backend.takes_embeddings:
        raise ExportError(
            f"PEFT puts a text's embeddings behind a soft prompt, of which {backend.name} makes "
            "something else than of its tokens; tune another delta for PEFT, such as lora"
        )
    return delta.peft(found.tensors, _embeddings(backend, opening), _task(backend))


@_adapter.register
def _deep_prompt(_delta: DeepPrompt, found: TunedDelta, backend: Backend) -> PeftAdapter:
    """In front, soft tokens are seen by way of their keys and values alone: they are a prefix."""
    opening = _opening(found, backend)
    return prefix_adapter(_kept(found, backend, opening, found.batch), _task(backend))


@_adapter.register
def _prefix(delta: Prefix, found: TunedDelta, backend: Backend) -> PeftAdapter:
    words = _kept(found, backend, delta.token_ids)
    return delta.peft(found.tensors, words, _task(backend))


def _kept(
    found: TunedDelta, backend: Backend, words: Sequence[int], slot: DeltaBatch | None = None
) -> FloatArray:
    """Keys and values of what stands in front, in every layer."""
    try:
        return open_model(backend, "keys and values").keys_and_values(words, slot)
    except UnsupportedError as error:
        raise ExportError(f"the {found.delta.kind} cannot be exported: {error}") from error


def _embeddings(backend: Backend, token_ids: Sequence[int]) -> FloatArray:
    """(tokens, hidden); no rows where there are none."""
    table = _table(backend)
    return table.rows(token_ids) if token_ids else np.zeros((0, table.hidden_size), np.float32)


def _opening(found: TunedDelta, backend: Backend) -> list[int]:
    """The special tokens before a slot in front of everything.

    Raises:
        ExportError: The slot stands elsewhere, or the model reads in both directions.
    """
    table = _table(backend)
    template = found.member.reader.template
    second = "text" if template.uses_pair else None
    first, *others = found.member.reader.prompts([Example("text", second)])[0].segments
    if not isinstance(first, SoftSlot) or any(isinstance(each, SoftSlot) for each in others):
        raise ExportError(
            "PEFT puts a soft prompt before everything that the model reads, but the template is "
            f"{template.source!r}; tune with one that begins with its only {{soft}}, such as "
            "'{soft} {text} It was {label}'"
        )
    return table.opening


def _table(backend: Backend) -> EmbeddingTable:
    """The input embeddings of a model that reads in one direction."""
    table = backend.embedding_table
    if table is None or backend.capabilities.text_after_answer:
        raise ExportError(
            "PEFT puts soft prompts before what causal and sequence-to-sequence models read; "
            f"{backend.name} is neither"
        )
    return table


def _task(backend: Backend) -> str:
    """PEFT's name for what a model does that is no masked one."""
    return SEQ_2_SEQ_LM if backend.capabilities.decoder_slot else CAUSAL_LM
