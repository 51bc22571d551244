"""The toy server with an embedding table: text, token ids and embeddings mean the same to it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faulty_server import FaultyServer, Request
from numpy.typing import NDArray
from scenes import HIDDEN
from toy_api import Json

from blackbox_delta.backends.remote.embeddings.table import open_table


@dataclass
class TableServer(FaultyServer):
    """Reads every completion's prompt as the sequence of its tokens; soft tokens by their bytes.

    Attributes:
        folder: The files of its model.
    """

    folder: Path = Path()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._table = open_table(str(self.folder))
        ids = range(self._table.vocabulary_size)
        self._known = {
            row.tobytes(): token for token, row in zip(ids, self._table.rows(ids), strict=True)
        }

    async def _respond(self, peer: Any, request: Request) -> None:
        if request.path == "/tokenize" and self.key is None:
            tokens = self._ids(json.loads(request.body)["prompt"])
            await peer.send(200, {"count": len(tokens), "max_model_len": 2048, "tokens": tokens})
        else:
            await super()._respond(peer, request)

    async def _score(self, peer: Any, path: str, request: Json) -> None:
        if path.endswith("/completions") and "messages" not in request:
            embeds, prompt = request.pop("prompt_embeds", None), request.pop("prompt", None)
            if embeds is not None:
                listed = embeds if isinstance(embeds, list) else [embeds]
                words = [self._of_embeds(one) for one in listed]
            else:
                single = isinstance(prompt, str) or not isinstance(prompt[0], str | list)
                words = [self._of_prompt(one) for one in ([prompt] if single else prompt)]
            request["prompt"] = words
        await super()._score(peer, path, request)

    def _ids(self, text: str) -> list[int]:
        return list(self._table.tokenizer(text)["input_ids"])

    def _of_prompt(self, prompt: str | list[int]) -> str:
        return " ".join(map(str, self._ids(prompt) if isinstance(prompt, str) else prompt))

    def _of_embeds(self, field: str) -> str:
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(field))) as archive:
            rows = np.frombuffer(archive.read("archive/data/0"), "<f4").reshape(-1, HIDDEN)
        return " ".join(map(self._token, rows))

    def _token(self, row: NDArray[np.float32]) -> str:
        data = row.tobytes()
        return str(self._known.get(data, hashlib.sha256(data).hexdigest()))
