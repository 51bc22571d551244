"""What is handed on, in a real vLLM server: it answers there as the tuned model does here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from asked import TEXTS
from kept import kept

from blackbox_delta.exports import export_peft, prompt_embeds
from blackbox_delta.types import Example

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend
    from blackbox_delta.tuned_model import TunedModel

# The time is for the server's start, which the first test waits for.
pytestmark = [pytest.mark.server, pytest.mark.model, pytest.mark.timeout(1200)]

#: Label words of one token, which a server gives the log-probabilities of.
ONE_TOKEN = {"bad": "terrible", "good": "great"}
#: What fp32 costs from one implementation to another.
CLOSE = 1e-4


def said(tuned: TunedModel, *, untuned: bool = False) -> np.ndarray:
    """Log-probabilities (n, c) of the label words, here."""
    [member] = tuned.members
    request = member.request(member.reader.prompts(list(map(Example, TEXTS))), 0, "test")
    if untuned:
        request = type(request)(request.prompts, request.choices)
    return tuned.backend.score(request).label_logprobs[0]


def asked(
    url: str, model: str, tuned: TunedModel, inputs: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """The same from the server, one request for each text."""
    table = tuned.backend.embedding_table
    assert table is not None
    ids = [table.tokenize(choice)[0] for choice in tuned.members[0].reader.choices]
    wanted = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "logprob_token_ids": ids}
    rows = []
    for given in inputs:
        body = {**wanted, **given, "model": model, "return_tokens_as_token_ids": True}
        reply = httpx.post(f"{url}/completions", json=body, timeout=60, trust_env=False)
        assert reply.is_success, reply.text
        found = reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]
        rows.append([found[f"token_id:{token}"] for token in ids])
    return np.array(rows)


@contextmanager
def adapter(url: str, name: str, folder: Path) -> Iterator[None]:
    """An adapter that the server holds for a while; other tests count on there being none."""
    given = {"lora_name": name, "lora_path": str(folder)}
    loaded = httpx.post(f"{url}/load_lora_adapter", json=given, timeout=60, trust_env=False)
    if loaded.status_code == 404:
        pytest.skip("the server takes no adapters: start it as servers/launch.py does")
    assert loaded.is_success, loaded.text
    try:
        yield
    finally:
        httpx.post(f"{url}/unload_lora_adapter", json={"lora_name": name}, trust_env=False)


@pytest.mark.parametrize(
    ("delta", "told"),
    [
        ("lora", {"targets": "all-linear"}),
        ("lora", {"targets": "q_proj,v_proj"}),
        ("lora", {"targets": "random:5"}),
        ("tiny-lora", {"targets": "all-linear"}),
        ("lora+tiny-lora", {"lora.targets": "random:5"}),
    ],
)
def test_an_exported_lora_answers_there_as_here(
    delta: str,
    told: dict[str, str],
    vllm: str,
    smollm2: LocalBackend,
    tmp_path: Path,
) -> None:
    """Also where modules that the server fuses, such as q, k and v, are tuned in part."""
    tuned = kept(smollm2, delta, "{text}. It was {label}", words=ONE_TOKEN, **told)
    export_peft(tuned, tmp_path)
    inputs = [{"prompt": f"{text}. It was"} for text in TEXTS]

    with adapter(vllm, "tuned", tmp_path):
        there = asked(vllm, "tuned", tuned, inputs)

    np.testing.assert_allclose(there, said(tuned), rtol=0, atol=CLOSE)
    moved = np.abs(said(tuned) - said(tuned, untuned=True)).max()
    assert moved > 10 * CLOSE, "otherwise the comparison could not fail"


@pytest.mark.parametrize(
    "template", ["{text}{soft:5}. It was {label}", "{soft:5} {text}. It was {label}"]
)
def test_prompt_embeds_answer_there_as_here(
    template: str, vllm: str, smollm2: LocalBackend
) -> None:
    tuned = kept(smollm2, "soft-prompt", template, words=ONE_TOKEN)
    sent = prompt_embeds(tuned, TEXTS, max_length=1023)

    there = asked(vllm, "smollm2", tuned, [{"prompt_embeds": each.field} for each in sent])

    np.testing.assert_allclose(there, said(tuned), rtol=0, atol=CLOSE)
    moved = np.abs(said(tuned) - said(tuned, untuned=True)).max()
    assert moved > 10 * CLOSE, "otherwise the comparison could not fail"
