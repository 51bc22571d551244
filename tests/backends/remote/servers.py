"""A test server whose answers follow from embeddings, as a real model's do, and its model's files.

    folder = write_model(tmp_path)
    with ModelServer(TinyModel.read(folder), drops={"logprob_token_ids"}) as server:
        ...

It speaks vLLM's dialect of OpenAI's protocol, and can lack any part of it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faulty_server import FaultyServer, _Peer
from numpy.typing import NDArray
from toy_api import BadRequestError, Json

ROWS, HIDDEN = 2048, 6
WORDS = ["great", "terrible", "good", "bad", "fine"]
_DECAY = 0.8


def tokenizer(words: Sequence[str] = WORDS, bos: bool = False) -> Any:
    """Byte-level BPE whose only whole words are ``words``, each with the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = dict.fromkeys(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        begun = "Ġ"
        for letter in word:
            merges[begun, letter] = None
            begun += letter
            pieces[begun] = None
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return made


def write_model(
    folder: Path, *, seed: int = 0, hidden: int = HIDDEN, bos: bool = False, bf16: bool = False
) -> Path:
    """The files of a model that never was: config, tokenizer, and an embedding table."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((ROWS, hidden)).astype(np.float32)
    if bf16:
        from safetensors.torch import save_file as save_torch
        from torch import bfloat16, from_numpy

        tensor = from_numpy(rows).to(bfloat16)
        save_torch({"model.embed_tokens.weight": tensor}, folder / "model.safetensors")
    else:
        save_file({"model.embed_tokens.weight": rows}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer(bos=bos).save(str(folder / "tokenizer.json"))
    return folder


@dataclass(frozen=True)
class TinyModel:
    """A model of one layer: what it says depends on every embedding and on their order."""

    rows: NDArray[np.float32]
    tokenizer: Any

    @classmethod
    def read(cls, folder: Path) -> TinyModel:
        import torch  # noqa: F401 - for bfloat16
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
        return cls(table.float().numpy(), Tokenizer.from_file(str(folder / "tokenizer.json")))

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def logprobs(self, sequence: NDArray[Any]) -> NDArray[np.float64]:
        """Log-probabilities (ROWS,) after a sequence of embeddings (tokens, hidden)."""
        ages = np.arange(len(sequence))[::-1]
        state = (_DECAY ** ages[:, None] * np.asarray(sequence, np.float64)).sum(axis=0)
        logits = 2.0 * self.rows.astype(np.float64) @ np.tanh(state)
        return np.round(logits - np.logaddexp.reduce(logits), 9)


@dataclass
class ModelServer(FaultyServer):
    """Serves a :class:`TinyModel`.

    Attributes:
        tiny: The model.
        drops: Fields of requests that it ignores without a word.
        refuses: Fields that it answers with HTTP 400.
        max_logprobs: The most top tokens that may be asked for.
        owned_by: What kind of server it claims to be.
        listed: The models that it lists; ``None`` for no list.
        lifts: Whether log-probabilities are taken after ``logit_bias``.
        cached: Prompt tokens that it claims to have had in its cache.
        missing: Paths that it does not have.
        pages: Paths at which it answers with a web page.
        context: The longest prompt that it takes, in tokens.
        silent: Whether it writes nothing that a client gets to see.
        finish: Why it says that it stopped writing.
    """

    tiny: TinyModel = None  # type: ignore[assignment]
    drops: Collection[str] = ()
    refuses: Collection[str] = ()
    max_logprobs: int = 20
    owned_by: str = "vllm"
    listed: Sequence[str] | None = ("toy",)
    lifts: bool = False
    cached: int | None = None
    missing: Collection[str] = ()
    pages: Collection[str] = ()
    context: int | None = None
    silent: bool = False
    finish: str = "length"

    def bodies(self, path: str = "/v1/completions") -> list[Json]:
        """The JSON of all requests to a path so far."""
        return [json.loads(one.body) for one in self.requests if one.path == path]

    async def _respond(self, peer: _Peer, request: Any) -> None:
        path = request.path.split("?")[0]
        if path in self.pages:
            await peer.send_raw(200, b"<!doctype html><html><body>Welcome</body></html>")
        elif path in self.missing:
            await peer.send(404, {"detail": "Not Found"})
        elif path == "/tokenize":
            asked = json.loads(request.body)
            ids = self.tiny.encode(asked["prompt"], asked["add_special_tokens"])
            await peer.send(200, {"count": len(ids), "tokens": ids})
        else:
            await super()._respond(peer, request)

    async def _inform(self, peer: _Peer, path: str) -> None:
        if path == "/v1/models" and self.listed is not None:
            common = {"object": "model", "owned_by": self.owned_by, "max_model_len": 512}
            await peer.send(200, {"data": [{"id": name, **common} for name in self.listed]})
        else:
            await peer.send(404, {"detail": "Not Found"})

    async def _score(self, peer: _Peer, path: str, request: Json) -> None:
        try:
            if request["model"] != self.model:
                raise BadRequestError(f"The model `{request['model']}` does not exist.")
            for field in sorted(set(self.refuses) & set(request)):
                raise BadRequestError(f"{field} is not supported")
            request = {name: it for name, it in request.items() if name not in self.drops}
            sequences = self._sequences(path, request)
            if self.context is not None and max(map(len, sequences)) >= self.context:
                raise BadRequestError(f"the maximum context length is {self.context} tokens")
            reply = self._reply(path, request, sequences)
        except BadRequestError as error:
            await peer.send(400, {"error": {"message": str(error), "code": 400}})
            return
        names = [sequence.tobytes().hex() for sequence in sequences]
        fault = self.plan(self._number, names)
        self._number += 1
        await self._deliver(peer, reply, names, fault)

    def _sequences(self, path: str, request: Json) -> list[NDArray[np.float32]]:
        if path.endswith("chat/completions"):
            turns = "".join(f"{turn['role']}: {turn['content']}\n" for turn in request["messages"])
            return [self._embedded(self.tiny.encode(turns))]
        if (embeds := request.get("prompt_embeds")) is not None:
            return [
                self._decoded(one) for one in (embeds if isinstance(embeds, list) else [embeds])
            ]
        prompt = request.get("prompt")
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            prompt = [prompt]
        if not prompt:
            raise BadRequestError("prompt is missing")
        return [
            self._embedded(self.tiny.encode(one) if isinstance(one, str) else one) for one in prompt
        ]

    def _embedded(self, ids: list[int]) -> NDArray[np.float32]:
        return self.tiny.rows[ids]

    def _decoded(self, embeds: str) -> NDArray[np.float32]:
        sequence = unpacked(embeds)
        if sequence.shape[1] != self.tiny.rows.shape[1]:
            raise BadRequestError("prompt_embeds hidden_size does not match")
        return sequence

    def _reply(self, path: str, request: Json, sequences: list[NDArray[np.float32]]) -> Json:
        chat = path.endswith("chat/completions")
        choices = []
        for index, sequence in enumerate(sequences):
            values = self.tiny.logprobs(sequence)
            bias = {int(token): by for token, by in (request.get("logit_bias") or {}).items()}
            lifted = values.copy()
            for token, by in bias.items():
                lifted[token] += by
            lifted -= np.logaddexp.reduce(lifted)
            best = int(lifted.argmax())
            values = lifted if self.lifts else values
            choice = {"index": index, "finish_reason": self.finish}
            text = "" if self.silent else self._name(best, {})
            choice |= {"message": {"content": text}} if chat else {"text": text}
            choice["logprobs"] = self._logprobs(values, best, request, chat)
            choices.append(choice)
        tokens = sum(map(len, sequences))
        details = None if self.cached is None else {"cached_tokens": self.cached}
        usage = {"prompt_tokens": tokens, "completion_tokens": len(sequences)}
        return {"choices": choices, "usage": {**usage, "prompt_tokens_details": details}}

    def _logprobs(self, values: Any, best: int, request: Json, chat: bool) -> Json | None:
        asked = request.get("logprobs")
        if asked is None or asked is False:
            return None
        count = request.get("top_logprobs") or 0 if chat else asked
        shown = [int(token) for token in np.argsort(-values, kind="stable")[:count]]
        if (ids := request.get("logprob_token_ids")) is not None:
            if not all(0 <= token < ROWS for token in ids):
                raise BadRequestError("logprob_token_ids are out of range")
            shown = list(dict.fromkeys([best, *ids]))
        elif count > self.max_logprobs:
            raise BadRequestError(f"logprobs of {count} are more than {self.max_logprobs}")
        named = [(self._name(token, request), float(values[token])) for token in reversed(shown)]
        if not chat:  # of tokens that look the same, the mapping holds one
            name = self._name(best, request)
            return {
                "tokens": [name],
                "token_logprobs": [values[best]],
                "top_logprobs": [dict(named)],
            }
        listed = [{"token": name, "logprob": value} for name, value in named]
        return {"content": [{"token": "", "logprob": values[best], "top_logprobs": listed}]}

    def _name(self, token: int, request: Mapping[str, Any]) -> str:
        if request.get("return_tokens_as_token_ids"):
            return f"token_id:{token}"
        return str(self.tiny.tokenizer.decode([token], skip_special_tokens=False)) or f"<{token}>"


def unpacked(embeds: str) -> NDArray[np.float32]:
    """The sequence in one value of ``prompt_embeds``, as torch reads it."""
    import torch

    raw = io.BytesIO(base64.b64decode(embeds, validate=True))
    return np.asarray(torch.load(raw, weights_only=True).float().numpy())
