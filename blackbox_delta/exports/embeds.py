"""Texts and a tuned soft prompt for servers that take embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.deltas import SoftPrompt
from blackbox_delta.errors import ExportError
from blackbox_delta.exports.tuned_delta import tuned_delta
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Backend, EmbeddingTable, Example, FloatArray, ScoreRequest

if TYPE_CHECKING:
    from blackbox_delta.backends.remote.embeddings.table import TableFile


#: Texts whose tokens are compared with the tuned model's own.
_COMPARED = 8
#: How far the rows may be from the model's own, for the table may be rounded or quantised.
_APART = 0.1


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
        ExportError: The delta is no soft prompt, the model is not causal, or the table or the
            tokenizer is not the one that it was tuned with.
        DataError: A text is empty, or pairs are missing.
        ModelError: The table cannot be read.
    """
    from blackbox_delta.backends.remote.embeddings.table import open_table
    from blackbox_delta.backends.remote.embeddings.torch_file import embeds_field
    from blackbox_delta.backends.remote.inputs import EmbeddedInputs

    found = tuned_delta(tuned)
    if not isinstance(found.delta, SoftPrompt):
        raise ExportError(
            f"a {found.delta.kind} is not among the embeddings of a text, or not alone; what acts "
            "inside a model is exported as an adapter, or merged, where these take its kind"
        )
    examples = tuned.examples(texts)
    table = open_table(embeddings or tuned.backend.name)
    _check_table(table, tuned.backend, [example.text for example in examples])
    inputs, reader = EmbeddedInputs(table, max_length), found.member.reader
    request = ScoreRequest(reader.prompts(examples), reader.choices, found.batch)
    arrays = [inputs.sequence(request, 0, prompt) for prompt in range(len(request.prompts))]
    return [PromptEmbeds(array, embeds_field(array, table.dtype)) for array in arrays]


def _check_table(table: TableFile, backend: Backend, texts: Sequence[str]) -> None:
    """Makes sure that a table makes of words what the tuned model makes of them."""
    own, offered = backend.embedding_table, backend.capabilities
    if own is None or offered.text_after_answer or offered.decoder_slot:
        raise ExportError(
            f"servers take embeddings for causal models alone, and {backend.name} is none"
        )
    tokens, theirs = _tokens(own, texts), _tokens(table, texts)
    what = f"the table of {table.vocabulary_size:,} × {table.hidden_size:,} numbers"
    if (table.hidden_size, theirs) != (own.hidden_size, tokens):
        raise ExportError(
            f"{what} or the tokenizer beside it is not that of {backend.name}, on which this was "
            "tuned; name its own files with embeddings="
        )
    rows = own.rows(tokens)
    if tokens and np.linalg.norm(table.rows(tokens) - rows) > _APART * np.linalg.norm(rows):
        raise ExportError(
            f"{what} holds other embeddings than {backend.name} had when this was tuned: it is "
            "another model's, or the model makes something else of its table, which a server does "
            "not do with embeddings that it is sent"
        )


def _tokens(table: EmbeddingTable, texts: Sequence[str]) -> list[int]:
    """What opens a text, and what the first of these consist of."""
    return [
        *table.opening,
        *(token for text in texts[:_COMPARED] for token in table.tokenize(text)),
    ]
