"""Small tuning problems for the toy model behind a server, and what its replies must have been.

The toy model knows 50 words, each with the space before it. Its embedding table has a row for each
of them; whatever else a text holds is the last word to its tokenizer.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from faulty_server import Fault, FaultyServer
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from toy_api import WORDS, log_probs

from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.embeddings.table import TableFile, open_table
from blackbox_delta.backends.remote.endpoint import Access, Endpoint
from blackbox_delta.backends.remote.inputs import EmbeddedInputs, words_before_answer
from blackbox_delta.backends.remote.wires.wire import token_id
from blackbox_delta.journal import Journal, summarise
from blackbox_delta.journal.pairs import pair_keys
from blackbox_delta.journal.record import Record
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Example, Json, ScoreRequest, Scores, Sink

HIDDEN = 8
#: Tokens by the stand-ins for their ids that a server's words get.
_TOKENS = {token_id(word.encode()): token for token, word in enumerate(WORDS)}
CHOICES = (" great", " terrible")
LABEL_WORDS = {"a": "great", "b": "terrible"}
#: In $ per million tokens, so that costs can be checked.
PRICES = {"price_in": 1.0, "price_out": 3.0}


def write_table(folder: Path, seed: int = 0) -> Path:
    """The files that ``--embeddings`` takes, with random rows."""
    folder.mkdir()
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = rng.normal(0, 0.5, (len(WORDS), HIDDEN)).astype(np.float32)
    save_file({"model.embed_tokens.weight": rows}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    known = {word: token for token, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=WORDS[-1]))
    words = Regex(r" ?[^\s-]+|\s|-")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def split(shots: int = 4, test: int = 16, seed: int = 0) -> FewShotSplit:
    """Texts of the toy model's words, no two of them alike."""
    rng = np.random.Generator(np.random.PCG64(seed))
    texts: dict[str, None] = {}
    while len(texts) < 4 * shots + test:
        texts["It" + "".join(rng.choice(WORDS, 7))] = None
    examples = [Example(text, label="ab"[at % 2]) for at, text in enumerate(texts)]
    train, dev = 2 * shots, 4 * shots
    parts = examples[:train], examples[train:dev], examples[dev:]
    return FewShotSplit(*map(tuple, parts), shots, seed)


@dataclass(frozen=True)
class Scene:
    """A way to use the server, and a run that uses it so.

    Attributes:
        name: The tier.
        access: How the server is used.
        settings: Of the run.
        data: What it is given.
    """

    name: str
    access: Access
    settings: Json
    data: FewShotSplit

    def backend(self, server: FaultyServer, table: Path, **endpoint: Any) -> AskedBackend:
        """The model on a server."""
        # A busy machine may take its time: only tests of slow servers say how long is too long.
        where = Endpoint.of({"base_url": server.url, "timeout": 30.0, **endpoint})
        tier = self.access.tier
        return AskedBackend(
            server.model,
            where,
            self.access,
            open_table(str(table)) if tier in ("embeddings", "label-logprobs") else None,
        )


def access(tier: str, **values: Any) -> Access:
    """How a server like vLLM is used on a tier."""
    return Access.of(
        {"preset": "vllm", "api": "completions", "tier": tier, "max_top_k": 20, "batch": 4} | values
    )


_COMMON: Json = {"label_words": LABEL_WORDS, **PRICES}
_SOFT: Json = {"template": "{text} is{soft} {label}", "soft_tokens": 3, "dimension": 12}
_TEXT: Json = {"template": "{text} is {label}"}

EMBEDDINGS = Scene(
    "embeddings",
    access("embeddings", label_ids=True, max_length=2048, exact_tokens=True),
    {**_COMMON, **_SOFT, "recipe": "search", "head": "calibrated", "budget": "190 calls"},
    split(),
)
#: A budget that does not bind: lost replies count in it, and fewer views would be asked.
TOP_TOKENS = Scene(
    "top-tokens",
    access("top-tokens", preset="generic"),
    {**_COMMON, **_TEXT, "recipe": "auto", "max_queries_per_example": 2, "budget": "900 calls"},
    split(10, 80, 1),
)
TEXT = Scene(
    "text",
    access("text", api="chat", max_top_k=0, batch=1),
    {**_COMMON, **_TEXT, "recipe": "search", "head": "calibrated"},
    split(5, 20, 2),
)


class AskedBackend(RemoteBackend):
    """Remembers what it was asked."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.asked: list[ScoreRequest] = []

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.asked.append(request)
        return super().score(request, sink)


@dataclass
class Dealer:
    """A plan that deals faults in turn: four of five requests fail, none too often in a row.

    Attributes:
        kinds: Dealt one after another.
        at_once: Faults that take time: so many of each are dealt in a row, to whatever is in
            flight together.
        first: All requests before this one are answered.
        most_in_a_row: So often the same prompts fail at most.
    """

    kinds: list[Fault]
    at_once: dict[Fault, int] = field(default_factory=dict)
    first: int = 0
    most_in_a_row: int = 6

    def __post_init__(self) -> None:
        self._slow = [kind for kind, count in self.at_once.items() for _ in range(count)]
        self._dealt = 0
        self._failed: dict[tuple[str, ...], int] = {}

    def __call__(self, number: int, prompts: list[str]) -> Fault | None:
        key = tuple(prompts)
        failed = self._failed.get(key, 0)
        if number < self.first or failed >= self.most_in_a_row:
            fault = None
        elif self._slow:
            fault = self._slow.pop(0)
        else:
            fault = None if number % 5 == 4 else self._next()
        self._failed[key] = 0 if fault in (None, Fault.PERMUTED) else failed + 1
        return fault

    def _next(self) -> Fault:
        self._dealt += 1
        return self.kinds[self._dealt % len(self.kinds)]


# ------------------------------------------------------------------- what replies must say


def prompt_on_server(scene: Scene, table: TableFile | None, request: ScoreRequest) -> Any:
    """What the server calls the prompt of a pair (candidate, prompt)."""
    if scene.access.tier == "embeddings":
        assert table is not None
        inputs = EmbeddedInputs(table, None)

        def of_embeds(candidate: int, prompt: int) -> str:
            sent = base64.b64decode(str(inputs.input(request, candidate, prompt)))
            return hashlib.sha256(sent).hexdigest()

        return of_embeds
    turn = "user: " if scene.access.api == "chat" else ""
    return lambda _candidate, prompt: turn + words_before_answer(request.prompts[prompt])


def check_journal(path: Path, scene: Scene, backend: AskedBackend, table: Path) -> int:
    """Compares every reply in a journal with the toy model itself; returns how many there are."""
    opened = open_table(str(table))
    checked: set[bytes] = set()
    with Journal.open(path, create=False) as journal:
        for request in backend.asked:
            keys = pair_keys(backend.identity, request)
            name = prompt_on_server(scene, opened, request)
            for candidate, row in enumerate(keys):
                for prompt, key in enumerate(row):
                    record = journal.get([key])[key]
                    check_record(scene, record, log_probs(name(candidate, prompt)))
                    checked.add(key)
    # Whatever else is in it is no reply but what was lost.
    assert summarise(path).total.replies == len(checked)
    return len(checked)


def check_record(scene: Scene, record: Record, truth: NDArray[np.float64]) -> None:
    """That a record holds what the toy model says, to float32, or a bound that is one."""
    found = record.label_logprobs.astype(np.float64)
    labels = np.array([WORDS.index(choice) for choice in CHOICES])
    if scene.access.tier == "text":
        word = WORDS[int(truth.argmax())]
        named = [float(np.exp(value)) for value in found]
        expected = [0.5, 0.5]
        if word in CHOICES:
            expected = [0.98 if choice == word else 0.02 for choice in CHOICES]
        np.testing.assert_allclose(named, expected, rtol=1e-6)
        assert record.usage.unparsed == int(word not in CHOICES)
        return
    tokens = [_TOKENS.get(int(token), int(token)) for token in record.top_ids]
    np.testing.assert_allclose(record.top_logprobs, truth[tokens], rtol=1e-6)
    if scene.access.tier == "embeddings":
        np.testing.assert_allclose(found, truth[labels], rtol=1e-6)
        return
    seen = np.isin(labels, np.argsort(-truth, kind="stable")[: scene.access.max_top_k])
    np.testing.assert_allclose(found[seen], truth[labels][seen], rtol=1e-6)
    assert (found[~seen] >= truth[labels][~seen] - 1e-6).all()
    assert record.usage.bounded == (~seen).sum()
