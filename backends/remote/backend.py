"""A model behind an inference API as a backend."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np

from blackbox_delta.backends._assigned import check_assignment
from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.backends.remote.asking import (
    WRITTEN_TOKENS,
    Asking,
    LabelTokens,
    asking,
    single_tokens,
)
from blackbox_delta.backends.remote.collecting import Collector
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.embeddings.table import TableFile, open_table
from blackbox_delta.backends.remote.endpoint import Access, Endpoint, plain
from blackbox_delta.backends.remote.http.exchange import Job
from blackbox_delta.backends.remote.inputs import EmbeddedInputs, IdInputs, Inputs, TextInputs
from blackbox_delta.backends.remote.jobs import PartReply, jobs
from blackbox_delta.backends.remote.keys import with_key_source
from blackbox_delta.backends.remote.neighbours import neighbours
from blackbox_delta.backends.remote.shortening import Shortening
from blackbox_delta.backends.remote.wires import open_wire
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.server_tokenizer import ServerTokenizer
from blackbox_delta.backends.remote.withheld import Withheld
from blackbox_delta.errors import ConfigError, ModelError, UnsupportedError, VerbalizerError
from blackbox_delta.types import (
    SOFT_PROMPT,
    Capabilities,
    IntArray,
    Json,
    ScoreRequest,
    Scores,
    Sink,
)

#: Label words' neighbours that are asked for at most.
_NEIGHBOURS = 100


class RemoteBackend:
    """A model that is called over HTTP; see :class:`blackbox_delta.types.Backend`.

    Making one sends nothing. :func:`blackbox_delta.backends.open_backend` asks the server first
    what it offers.

    Args:
        model: Its name on the server.
        endpoint: Where it is.
        access: How it is used.
        table: Its embedding table, if it is open already.
        saved: Whether a file names the server, and not the user. Then a key goes to hosts that
            the preset knows, to this machine, and wherever the endpoint itself says which key.

    Raises:
        ConfigError: The endpoint makes no sense, or the preset lacks what ``access`` names.
        ModelError: The embedding table cannot be read.
        AuthorisationError: The API key is not where it should be.
    """

    def __init__(
        self,
        model: str,
        endpoint: Endpoint,
        access: Access,
        table: TableFile | None = None,
        *,
        saved: bool = False,
    ) -> None:
        self._model, self._access = model, access
        if access.preset not in PRESETS:
            raise ConfigError(f"there is no preset '{access.preset}'")
        preset = PRESETS[access.preset]
        [offer] = endpoint.model_copy(update={"api": access.api}).offers(preset)
        if table is None and endpoint.embeddings is not None:
            table = open_table(endpoint.embeddings)
        self._table = table
        self._offer = adapted(offer, access, named=table is not None or access.tokenizes)
        self._wire = open_wire(self._offer)
        self._inputs = _inputs(access, self._offer, table)
        self._connection = Connection(endpoint, preset, saved=saved)
        self._withheld = Withheld(self._connection)
        self._shorten = Shortening(self._connection)
        self._endpoint = endpoint if saved else with_key_source(endpoint, preset.name)
        self._tokenizer = preset.tokenizer if access.tokenizes else None
        self._encoder: PromptEncoder | None = None
        self._tokens: dict[tuple[str, ...], LabelTokens | None] = {}
        self._closed = False

    # ------------------------------------------------------------------ the contract

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self._model

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything besides the request that determines a reply."""
        access = self._access
        # Only where there is something to tell: what was answered before stays known by its name.
        drawn = {} if access.temperature else {"temperature": "the server's own"}
        return {
            "endpoint": self._connection.base_url,
            "model": self._model,
            "preset": access.preset,
            "api": access.api,
            "tier": access.tier,
            "form": self._inputs.form,
            "context": str(access.max_length),
            "top_k": str(access.asks_top),
            "label_ids": str(access.asks_label_ids),
            "tokenizes": str(access.tokenizes),
            "neighbours": str(self._neighbours),
            "bias": str(access.asks_bias),
            "table": self._table.digest if self._table else "",
            **drawn,
        }

    @property
    def fingerprint(self) -> str:
        """Identifies the model as far as a caller can: its name, the access, its embedding table.

        The access belongs to it: a head has learnt which tokens it is told about, and by what ids.
        """
        access = self._access
        table = self._table.digest if access.tier == "embeddings" and self._table else ""
        known = json.dumps(
            ["remote", self._model, access.api, access.tier, self._neighbours, table]
        )
        return hashlib.sha256(known.encode()).hexdigest()[:32]

    @property
    def capabilities(self) -> Capabilities:
        """What the server was found to accept and return."""
        access = self._access
        written = WRITTEN_TOKENS if access.tier == "text" else 1
        return Capabilities(
            deltas=frozenset({SOFT_PROMPT} if access.tier == "embeddings" else ()),
            decoder_slot=False,
            text_after_answer=False,
            max_top_k=max(access.asks_top, self._neighbours),
            chat=access.api == "chat",
            exact_tokens=self._inputs.form != "text",
            output_tokens=max(written, self._offer.min_output),
            max_length=access.max_length,
        )

    @property
    def embedding_table(self) -> TableFile | None:
        """The input embeddings, where they can be sent."""
        return self._table if self._access.tier == "embeddings" else None

    @property
    def geometry(self) -> None:
        """Nothing inside it can be reached."""

    @property
    def address(self) -> Json:
        """The endpoint and the access; the key stays where it is.

        It says where that is, so whoever opens it again, in another process too, needs no telling.
        """
        return {"endpoint": plain(self._endpoint), "access": plain(self._access)}

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """Scores of shape (λ, n, c); see :class:`blackbox_delta.types.Backend`.

        Raises:
            UnsupportedError: The request asks for something outside ``capabilities``.
            RemoteError: The server cannot be reached, refuses, or goes on answering nonsense.
            SpentError: Replies were lost, and sending again would exceed ``request.max_sent``.
        """
        todo = self.jobs(request)
        collector = Collector(request, sink, time.perf_counter, self._withheld)
        try:
            self._connection.send(todo, collector.take, request.max_sent)
        finally:
            self._withheld.tell()
        return collector.scores()

    def jobs(self, request: ScoreRequest) -> Iterator[Job[PartReply]]:
        """The HTTP requests that a request becomes; nothing is sent.

        Raises:
            UnsupportedError: The request asks for something outside ``capabilities``.
        """
        self._check(request)
        question = self._asking(request.choices, request.top_k)
        batch, written = self._access.batch, self.capabilities.output_tokens
        return jobs(request, self._wire, question, self._inputs, self._shorten, batch, written)

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens (n,), soft tokens included; an estimate where only text can be sent.

        Raises:
            VerbalizerError: A label word cannot be read off the answer, as far as can be told
                without asking the server.
        """
        if not self._tokenizer_needed:
            # Else the server would be asked, which is left for when something is scored.
            self._asking(request.choices, request.top_k)
        counts = [self._inputs.count(request, prompt) for prompt in range(len(request.prompts))]
        return np.array(counts, dtype=np.int64)

    def close(self) -> None:
        """Closes the connections; the backend answers no further request."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a backend holds an open connection and is never copied or pickled; keep its name and "
            "address, and open it again"
        )

    def __repr__(self) -> str:
        # It may be looked at in a traceback before it is complete.
        connection = vars(self).get("_connection")
        where = "not open" if connection is None else connection.base_url
        return f"RemoteBackend({self._model!r}, {where!r}, {self._access.tier})"

    # ------------------------------------------------------------------ parts

    def _check(self, request: ScoreRequest) -> None:
        if self._closed:
            raise ModelError(f"the connection to {self.name!r} has been closed; open it again")
        able = self.capabilities
        check_assignment(request, self.name, able=able.assigns)
        if request.delta is not None and not able.deltas.issuperset(request.delta.kinds):
            raise UnsupportedError(
                f"{self.name} takes no {'+'.join(request.delta.kinds)} through this API: it is "
                f"given {self._inputs.form}"
            )
        for name, value in request.delta.tensors.items() if request.delta is not None else ():
            hidden = self._table.hidden_size if self._table else 0
            if value.ndim != 3 or value.shape[2] != hidden:
                raise UnsupportedError(
                    f"the soft prompt {name!r} has shape {value.shape}; this model takes "
                    f"(candidates, tokens, {hidden})"
                )
        if request.top_k > able.max_top_k:
            raise UnsupportedError(
                f"top_k={request.top_k} is more than the {able.max_top_k} tokens that "
                f"{self.name}'s server returns"
            )

    @property
    def _neighbours(self) -> int:
        """How many tokens may be asked for beside the label words."""
        if not self._access.asks_label_ids or self._table is None:
            return 0
        return min(_NEIGHBOURS, self._offer.max_label_ids)

    def _asking(self, choices: Sequence[str], top_k: int) -> Asking:
        key = tuple(choices)
        if not key:
            raise VerbalizerError("there are no label words to tell apart; name at least one")
        if key not in self._tokens:
            self._tokens[key] = self._find_tokens(key)
        question = asking(self._access, self._model, key, self._tokens[key], top_k)
        if top_k > max(question.ask.top_k, len(question.ask.label_ids or ())):
            raise UnsupportedError(
                f"{len(key)} label words and {top_k} more tokens are more than the server tells "
                f"at once; choose a head that needs none, such as 'calibrated'"
            )
        return question

    def _find_tokens(self, choices: tuple[str, ...]) -> LabelTokens | None:
        """The label words' tokens, from the table's tokenizer or else the server's."""
        if self._access.api == "chat" or self._access.tier == "text":
            return None
        if self._table is not None:
            ids = single_tokens(choices, self._table.tokenize)
            room = min(self._neighbours, self._offer.max_label_ids - len(ids))
            return LabelTokens(ids, neighbours(self._table, ids, room) if room > 0 else ())
        if self._tokenizer is None:
            return None
        if self._encoder is None:
            tokenizer = ServerTokenizer(self._connection, self._tokenizer, self._model)
            self._encoder = PromptEncoder(tokenizer, "causal", 1 << 30)
        return LabelTokens(single_tokens(choices, self._encoder.continuation))

    @property
    def _tokenizer_needed(self) -> bool:
        """Whether the server alone can say which tokens the label words are."""
        read_off_text = self._access.api == "chat" or self._access.tier == "text"
        return self._table is None and self._tokenizer is not None and not read_off_text


def adapted(offer: Offer, access: Access, *, named: bool) -> Offer:
    """A preset's offer with what the server really gives.

    Args:
        offer: The preset's.
        access: What was found.
        named: Whether the label words' token ids can be known. Otherwise tokens are asked for as
            text, of which two may look the same and count as one.
    """
    temperature = offer.temperature and access.temperature
    offer = replace(offer, max_top_k=access.max_top_k, batch=access.batch, temperature=temperature)
    return offer if named else replace(offer, ids_as_text=False, may_be_fewer=True)


def _inputs(access: Access, offer: Offer, table: TableFile | None) -> Inputs:
    if access.tier == "embeddings":
        if "embeds" not in offer.forms:
            raise ConfigError(
                f"the {offer.wire} API of {access.preset} takes no embeddings; choose another tier"
            )
        if table is None:
            raise ConfigError(
                "to send embeddings, say where the model's embedding table is: embeddings=FOLDER"
            )
        return EmbeddedInputs(table, access.max_length, rows=offer.wire == "sglang")
    if access.exact_tokens and table is not None and "ids" in offer.forms:
        return IdInputs(PromptEncoder(table.tokenizer, "causal", access.max_length or 1 << 30))
    return TextInputs(access.tokens_per_byte, access.overhead)
