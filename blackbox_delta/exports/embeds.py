"""Texts and a tuned soft prompt for servers that take embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blackbox_delta.deltas import SoftPrompt
from blackbox_delta.errors import ExportError
from blackbox_delta.exports.tuned_delta import tuned_delta
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example, FloatArray, ScoreRequest


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

    found = tuned_delta(tuned)
    if not isinstance(found.delta, SoftPrompt):
        raise ExportError(
            f"a {found.delta.kind} is not among the embeddings of a text, or not alone; what acts "
            "inside a model is exported as an adapter, or merged, where these take its kind"
        )
    table = open_table(embeddings or tuned.backend.name)
    inputs, reader = EmbeddedInputs(table, max_length), found.member.reader
    request = ScoreRequest(reader.prompts(tuned.examples(texts)), reader.choices, found.batch)
    arrays = [inputs.sequence(request, 0, prompt) for prompt in range(len(request.prompts))]
    return [PromptEmbeds(array, embeds_field(array, table.dtype)) for array in arrays]
