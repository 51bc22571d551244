"""What was tuned, for other packages: PEFT's adapters, or whole models with the delta merged in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blackbox_delta.artifact import write_json, write_whole
from blackbox_delta.deltas import IA3, LoRA, Prefix, SoftPrompt
from blackbox_delta.deltas.peft import CAUSAL_LM, SEQ_2_SEQ_LM, PeftAdapter
from blackbox_delta.errors import ExportError, UnsupportedError
from blackbox_delta.members import Member
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import (
    Backend,
    Delta,
    DeltaBatch,
    Example,
    FloatArray,
    OpenModel,
    ScoreRequest,
    SoftSlot,
)

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PEFT_KINDS = (LoRA.kind, IA3.kind, SoftPrompt.kind, Prefix.kind)


def export_peft(tuned: TunedModel, folder: str | Path) -> Path:
    """Writes the tuned delta as a PEFT adapter: ``adapter_config.json`` and safetensors.

    Under it the model says what it says under the delta; template, label words and the head stay
    in the run. A soft prompt holds the special tokens that open a text, so that what follows it is
    tokenized without them; a prefix stands before them.

    Args:
        tuned: A tuned model whose delta PEFT has a type for: LoRA, IA3, a prefix, or a soft prompt
            that the template begins with.
        folder: Where; it is made if it is not there.

    Raises:
        ExportError: Nothing was tuned that PEFT has a type for, or the folder cannot be written.
    """
    found = _tuned_delta(tuned)
    adapter = _adapter(found, tuned.backend)
    into = Path(folder)
    write_adapter(adapter, tuned.backend.name, into)
    return into


def export_merged(tuned: TunedModel, folder: str | Path) -> Path:
    """Writes the whole model with the tuned delta in its weights, as transformers loads it.

    Weights are safetensors in the precision in which the model is open, which stays as it is. The
    tokenizer goes with them; template, label words and the head stay in the run.

    Args:
        tuned: A tuned local model whose delta, or each of several, changes weights alone: LoRA,
            tiny LoRA, IA3, matrices of chosen modules or of the last layer, sparse entries, offsets
            where there are some.
        folder: Where; it is made if it is not there, and must be empty.

    Raises:
        ExportError: The delta cannot be merged, or the folder is not empty or cannot be written.
    """
    found, backend, into = _tuned_delta(tuned), tuned.backend, Path(folder)
    if not isinstance(backend, OpenModel):
        raise ExportError(
            f"the weights of {backend.name!r} are not at hand; load the run with the model itself, "
            "on this machine"
        )
    with _new_folder(into):
        backend.save_merged(found.batch, into)
    return into


@dataclass(frozen=True)
class PromptEmbeds:
    """A text behind its template and soft prompt, for servers that take embeddings.

    Attributes:
        array: (tokens, hidden) float32: all that precedes the answer.
        field: The same as a value of the JSON field ``prompt_embeds``, as vLLM takes it: what
            ``torch.save`` writes of it in base64, in the precision of the model's own table.
    """

    array: FloatArray
    field: str


def prompt_embeds(
    tuned: TunedModel,
    texts: Sequence[str | Example],
    *,
    embeddings: str | None = None,
    max_length: int | None = None,
) -> list[PromptEmbeds]:
    """What a server that takes embeddings must be sent for it to answer as the tuned model.

    Send each with ``"max_tokens": 1`` and ask for the log-probabilities of the label words'
    tokens; the head stays in the run.

    Args:
        tuned: A tuned model whose delta is a soft prompt.
        texts: n texts; :class:`Example` for pairs.
        embeddings: Where the model's embedding table and tokenizer are: a folder, a ``.gguf`` file
            or ``pkg:NAME``. By default the model's name is taken for it.
        max_length: The server's context in tokens; longer texts are cut to it. ``None`` cuts none.

    Raises:
        ExportError: The delta is no soft prompt.
        DataError: A text is empty, or pairs are missing.
        ModelError: The table cannot be read.
    """
    from blackbox_delta.backends.remote.embeddings.table import open_table
    from blackbox_delta.backends.remote.embeddings.torch_file import embeds_field
    from blackbox_delta.backends.remote.inputs import EmbeddedInputs

    found = _tuned_delta(tuned)
    if not isinstance(found.delta, SoftPrompt):
        raise ExportError(
            f"a {found.delta.kind} is not among the embeddings of a text; export it as an adapter"
        )
    table = open_table(embeddings or tuned.backend.name)
    inputs, reader = EmbeddedInputs(table, max_length), found.member.reader
    request = ScoreRequest(reader.prompts(tuned.examples(texts)), reader.choices, found.batch)
    arrays = [inputs.sequence(request, 0, prompt) for prompt in range(len(request.prompts))]
    return [PromptEmbeds(array, embeds_field(array, table.dtype)) for array in arrays]


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
        write_whole(into / WEIGHTS_NAME, save(tensors, {"format": "pt"}))
        write_json(into / CONFIG_NAME, config)
    except OSError as error:
        raise ExportError(f"the adapter cannot be written into {into}: {error.strerror}") from error


@contextmanager
def _new_folder(into: Path) -> Iterator[None]:
    """An empty folder to be filled; what fails leaves neither half a model nor a new folder."""
    new = not into.exists()
    try:
        into.mkdir(parents=True, exist_ok=True)
        # Else the folder of another model, or of this one, would be overwritten in part.
        occupied = any(into.iterdir())
    except OSError as error:
        raise ExportError(f"no model can be written into {into}: {error.strerror}") from error
    if occupied:
        raise ExportError(f"the folder {into} is not empty; name a new one for the merged model")
    try:
        yield
    except BaseException:
        for path in into.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new:
            into.rmdir()
        raise


class _Tuned(NamedTuple):
    """The one delta of a tuned model, and the only candidate of it that was kept."""

    member: Member
    delta: Delta
    batch: DeltaBatch

    @property
    def tensors(self) -> Mapping[str, FloatArray]:
        """Without the leading λ."""
        return {name: value[0] for name, value in self.batch.tensors.items()}


def _tuned_delta(tuned: TunedModel) -> _Tuned:
    found = [
        _Tuned(member, member.frame.delta, batch)
        for member in tuned.members
        if member.frame is not None and (batch := member.delta) is not None
    ]
    if len(found) != 1:
        what = "no delta was kept" if not found else f"{len(found)} views have deltas of their own"
        raise ExportError(
            f"{what} in this run, and one is exported; tune with --recipe search --delta lora, and "
            "see that the delta was kept"
        )
    return found[0]


def _adapter(found: _Tuned, backend: Backend) -> PeftAdapter:
    delta = found.delta
    if isinstance(delta, LoRA | IA3):
        return delta.peft(found.tensors)
    if isinstance(delta, SoftPrompt):
        return _prompt_tuning(found.member, delta, found.tensors, backend)
    if isinstance(delta, Prefix):
        if not isinstance(backend, OpenModel):
            raise ExportError(
                f"the keys and values of {backend.name!r} are not at hand; load the run with the "
                "model itself, on this machine"
            )
        try:
            words = backend.keys_and_values(delta.token_ids)
        except UnsupportedError as error:
            raise ExportError(f"the prefix cannot be exported: {error}") from error
        return delta.peft(found.tensors, words, _task(backend))
    raise ExportError(
        f"PEFT has no type for a {delta.kind} found in this way; it has for "
        f"{', '.join(PEFT_KINDS)}, each alone. Others may be merged into the model: --format "
        "merged"
    )


def _prompt_tuning(
    member: Member, delta: SoftPrompt, tensors: Mapping[str, FloatArray], backend: Backend
) -> PeftAdapter:
    template, able, table = member.reader.template, backend.capabilities, backend.embedding_table
    if table is None or able.text_after_answer:
        raise ExportError(
            "PEFT puts soft prompts before what causal and sequence-to-sequence models read; "
            f"{backend.name} is neither"
        )
    second = "text" if template.uses_pair else None
    first, *others = member.reader.prompts([Example("text", second)])[0].segments
    if not isinstance(first, SoftSlot) or any(isinstance(each, SoftSlot) for each in others):
        raise ExportError(
            "PEFT puts a soft prompt before everything that the model reads, but the template is "
            f"{template.source!r}; tune with one that begins with its only {{soft}}, such as "
            "'{soft} {text} It was {label}'"
        )
    opening = table.rows(table.opening) if table.opening else np.zeros((0, table.hidden_size), "f4")
    return delta.peft(tensors, opening, _task(backend))


def _task(backend: Backend) -> str:
    """PEFT's name for what a model does that is no masked one."""
    return SEQ_2_SEQ_LM if backend.capabilities.decoder_slot else CAUSAL_LM
