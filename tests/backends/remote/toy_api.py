"""What the test server says when it is well: a deterministic toy model in the replies' shapes.

The prompt's hash seeds log-probabilities over 50 words. Shapes follow vLLM's OpenAI-compatible
server: legacy log-probabilities for completions, the chat form for chat.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]

_STEMS = (
    "great terrible good bad yes no positive negative world sports business science fine awful "
    "maybe true false red green blue one two three four five up down left right north south east "
    "west hot cold new old big small fast slow high low open closed light dark the a of"
)
#: The vocabulary: a token's id is its place. Every word comes with the space before it.
WORDS = tuple(f" {stem}" for stem in _STEMS.split())
MAX_LOGPROBS = 100
MAX_TOKEN_IDS = 128


class BadRequestError(ValueError):
    """The server answers HTTP 400 with this message."""


def log_probs(prompt: str) -> NDArray[np.float64]:
    """Log-probabilities (50,) of the next word, the same for the same text on every machine."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "little")
    logits = 2.0 * np.random.Generator(np.random.PCG64(seed)).standard_normal(len(WORDS))
    return np.asarray(np.round(logits - np.logaddexp.reduce(logits), 6))


def tokenize(text: str) -> list[int]:
    """Ids of the words in ``text``; those outside the vocabulary get larger ones."""
    return [_token_id(word) for word in text.split()]


def prompts_of(path: str, request: Json) -> list[str]:
    """The texts that a request asks about, one for each choice of its reply."""
    if path.endswith("chat/completions"):
        turns = request.get("messages")
        if not isinstance(turns, list) or not turns:
            raise BadRequestError("messages must be a list of turns")
        return ["\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)]
    embeds = request.get("prompt_embeds")
    if embeds is not None:
        return [_digest(one) for one in (embeds if isinstance(embeds, list) else [embeds])]
    prompt = request.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    texts = [one for one in prompts if isinstance(one, str)]
    if not texts or len(texts) < len(prompts):
        raise BadRequestError("prompt must be a text or a list of texts")
    return texts


def answer(path: str, request: Json, prompts: list[str]) -> Json:
    """The whole reply to a request."""
    chat = path.endswith("chat/completions")
    make = _chat_choice if chat else _choice
    tokens = sum(len(prompt.split()) for prompt in prompts)
    return {
        "id": "toy",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": request.get("model"),
        "choices": [make(index, prompt, request) for index, prompt in enumerate(prompts)],
        "usage": {
            "prompt_tokens": tokens,
            "completion_tokens": len(prompts),
            "total_tokens": tokens + len(prompts),
            "prompt_tokens_details": None,
        },
    }


def _choice(index: int, prompt: str, request: Json) -> Json:
    values = log_probs(prompt)
    best = int(values.argmax())
    logprobs = None
    if (count := request.get("logprobs")) is not None:
        shown = _shown(values, count, request)
        logprobs = {
            "text_offset": [0],
            "tokens": [_name(best, request)],
            "token_logprobs": [float(values[best])],
            "top_logprobs": [{_name(token, request): float(values[token]) for token in shown}],
        }
    return {"index": index, "text": WORDS[best], "logprobs": logprobs, "finish_reason": "length"}


def _chat_choice(index: int, prompt: str, request: Json) -> Json:
    values = log_probs(prompt)
    best = int(values.argmax())
    logprobs = None
    if request.get("logprobs"):
        shown = _shown(values, request.get("top_logprobs") or 0, request)
        entries = [_entry(token, values, request) for token in shown]
        logprobs = {"content": [{**_entry(best, values, request), "top_logprobs": entries}]}
    return {
        "index": index,
        "message": {"role": "assistant", "content": WORDS[best].strip()},
        "logprobs": logprobs,
        "finish_reason": "length",
    }


def _entry(token: int, values: NDArray[np.float64], request: Json) -> Json:
    name = _name(token, request)
    return {"token": name, "logprob": float(values[token]), "bytes": list(name.encode())}


def _shown(values: NDArray[np.float64], count: int, request: Json) -> list[int]:
    """Tokens whose log-probability is returned: those asked for, else the likeliest."""
    if count > MAX_LOGPROBS:
        raise BadRequestError(
            f"Requested sample logprobs of {count}, which is greater than max allowed: "
            f"{MAX_LOGPROBS}"
        )
    order = [int(token) for token in np.argsort(-values, kind="stable")]
    asked = request.get("logprob_token_ids")
    if asked is None:
        return order[:count]
    if len(asked) > MAX_TOKEN_IDS or not all(0 <= token < len(WORDS) for token in asked):
        raise BadRequestError("logprob_token_ids holds too many ids, or unknown ones")
    return list(dict.fromkeys([order[0], *asked]))


def _name(token: int, request: Json) -> str:
    return f"token_id:{token}" if request.get("return_tokens_as_token_ids") else WORDS[token]


def _token_id(word: str) -> int:
    spaced = f" {word}"
    if spaced in WORDS:
        return WORDS.index(spaced)
    digest = hashlib.sha256(word.encode()).digest()
    return len(WORDS) + int.from_bytes(digest[:4], "little") % 10_000


def _digest(embeds: str) -> str:
    return hashlib.sha256(base64.b64decode(embeds, validate=True)).hexdigest()
