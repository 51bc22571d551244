"""What goes over the wire, against what a local model would be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.backends.remote import inputs as module
from blackbox_delta.backends.remote.embeddings.table import TableFile, open_table
from blackbox_delta.backends.remote.inputs import (
    EmbeddedInputs,
    IdInputs,
    TextInputs,
    words_before_answer,
)
from blackbox_delta.errors import TemplateError, UnsupportedError
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    DeltaBatch,
    Prompt,
    ScoreRequest,
    SoftSlot,
    Words,
)
from servers import HIDDEN, TinyModel, unpacked, write_model

CHOICES = (" great", " terrible")
LONG = "a dull film with a dull plot " * 30


@pytest.fixture(scope="module", params=["f32", "bf16", "bos"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    kind = request.param
    return write_model(tmp_path_factory.mktemp(kind), bf16=kind == "bf16", bos=kind == "bos")


@pytest.fixture(scope="module")
def table(folder: Path) -> TableFile:
    return open_table(str(folder))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> TinyModel:
    return TinyModel.read(folder)


def prompt(text: str, *tail: Any) -> Prompt:
    return Prompt((Words(text, truncatable=True), *tail, Words(" It was"), AnswerSlot()))


def soft(candidates: int, seed: int = 0, **lengths: int) -> DeltaBatch:
    rng = np.random.default_rng(seed)
    shapes = {name: (candidates, tokens, HIDDEN) for name, tokens in lengths.items()}
    tensors = {name: rng.standard_normal(it).astype(np.float32) for name, it in shapes.items()}
    return DeltaBatch("soft-prompt", tensors)


def rounded(array: Any, dtype: str) -> Any:
    import torch

    return torch.from_numpy(np.asarray(array)).to(getattr(torch, dtype)).float().numpy()


def expected(table: TableFile, tiny: TinyModel, request: ScoreRequest, at: tuple[int, int]) -> Any:
    """The sequence as the local encoder orders it, from the tensors in the file."""
    candidate, prompt = at
    tensors = {} if request.delta is None else request.delta.tensors
    encoder = PromptEncoder(table.tokenizer, "causal", 64)
    slots = {name: value.shape[1] for name, value in tensors.items()}
    pieces = encoder.encode(request.prompts[prompt], slots, 1).before
    parts = [np.empty((0, HIDDEN), np.float32)]
    for piece in pieces:
        if not isinstance(piece, SoftSlot):
            parts.append(tiny.rows[list(piece)])
        elif piece.name in tensors:
            parts.append(rounded(tensors[piece.name][candidate], table.dtype))
    return np.concatenate(parts)


TAILS = [
    (),
    (SoftSlot("soft"),),
    (SoftSlot("a"), Words(" and"), SoftSlot("b")),
    (SoftSlot("b"), SoftSlot("absent"), SoftSlot("a")),
]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("text", ["a great film", LONG, ""])
def test_embeddings_are_the_words_and_the_soft_tokens_in_reading_order(
    table: TableFile, tiny: TinyModel, tail: tuple[Any, ...], text: str
) -> None:
    inputs = EmbeddedInputs(table, 64)
    for delta in (None, soft(3, soft=4, a=2, b=3), soft(2, soft=1, a=5, b=1)):
        request = ScoreRequest([prompt("one"), prompt(text, *tail)], CHOICES, delta)
        for at in ((0, 1), (request.candidates - 1, 1), (0, 0)):
            sent = inputs.input(request, *at)
            assert isinstance(sent, str)
            sequence = unpacked(sent)
            np.testing.assert_array_equal(sequence, expected(table, tiny, request, at))
            assert inputs.count(request, at[1]) == len(sequence) < 64
            rows = EmbeddedInputs(table, 64, rows=True).input(request, *at)
            np.testing.assert_allclose(rounded(np.float32(rows), table.dtype), sequence)


def test_a_long_text_is_cut_and_the_template_never(table: TableFile) -> None:
    inputs = EmbeddedInputs(table, 40)
    delta = soft(1, soft=10)
    request = ScoreRequest([prompt(LONG, SoftSlot("soft"))], CHOICES, delta)
    assert inputs.count(request, 0) == 39  # and the answer
    sent = unpacked(str(inputs.input(request, 0, 0)))
    after = table.rows(PromptEncoder(table.tokenizer, "causal", 40).continuation(" It was"))
    np.testing.assert_array_equal(sent[-len(after) :], after)
    tight = ScoreRequest([prompt("a", SoftSlot("soft"))], CHOICES, soft(1, soft=40))
    with pytest.raises(TemplateError, match="longer than the model's context of 40"):
        inputs.input(tight, 0, 0)
    with pytest.raises(TemplateError, match="context of 40"):
        inputs.count(tight, 0)


def test_without_a_context_nothing_is_cut(table: TableFile) -> None:
    request = ScoreRequest([prompt(LONG)], CHOICES)
    whole = len(table.tokenizer(LONG + " It was")["input_ids"])
    assert EmbeddedInputs(table, None).count(request, 0) == whole


def test_what_was_kept_of_one_prompt_is_not_used_for_another(
    table: TableFile, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 2)
    inputs = EmbeddedInputs(table, 64)
    prompts = [prompt(text, SoftSlot("soft")) for text in ("one", "two", LONG, "three")]
    for tokens in (2, 30, 2):  # longer slots cut the text shorter
        request = ScoreRequest(prompts, CHOICES, soft(2, seed=tokens, soft=tokens))
        for at in ((0, 0), (1, 2), (0, 3), (1, 0), (0, 1), (0, 2)):
            np.testing.assert_array_equal(
                unpacked(str(inputs.input(request, *at))), expected(table, tiny, request, at)
            )


def test_ids_are_those_of_the_whole_text(table: TableFile) -> None:
    encoder = PromptEncoder(table.tokenizer, "causal", 64)
    inputs = IdInputs(encoder)
    request = ScoreRequest([prompt("a great film", SoftSlot("soft")), prompt(LONG)], CHOICES)
    ids = inputs.input(request, 0, 0)
    text = "a great film" + " It was"
    assert ids == table.tokenizer(text)["input_ids"]
    assert inputs.count(request, 0) == len(ids)
    assert inputs.count(request, 1) == len(inputs.input(request, 0, 1)) == 63


@given(text=st.text(), rate=st.floats(0.01, 4), overhead=st.floats(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_tokens_of_a_text_are_estimated_from_its_bytes(
    text: str, rate: float, overhead: float
) -> None:
    text = text.encode("utf-8", "ignore").decode()
    inputs = TextInputs(rate, overhead)
    request = ScoreRequest([prompt(text, SoftSlot("soft"))], CHOICES)
    assert inputs.input(request, 0, 0) == text + " It was"
    size = len(text.encode()) + 7
    assert abs(inputs.count(request, 0) - (rate * size + overhead)) <= 1
    assert inputs.count(request, 0) >= 1


def test_words_after_the_answer_are_not_sent() -> None:
    tail = Prompt((Words("a"), AnswerSlot(), Words(" b")))
    assert words_before_answer(tail) == "a"


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ((Words("a"), DecoderStart(), AnswerSlot()), "decoder"),
        ((AnswerSlot(), Words("a")), "precedes the answer"),
        ((SoftSlot("soft"), AnswerSlot()), "precedes the answer"),
    ],
)
def test_prompts_that_no_server_takes_are_refused(
    table: TableFile, segments: tuple[Any, ...], said: str
) -> None:
    request = ScoreRequest([Prompt(segments)], CHOICES)
    ids = IdInputs(PromptEncoder(table.tokenizer, "causal", 64))
    has_start = len(table.tokenizer("")["input_ids"]) > 0
    for inputs in (TextInputs(0.25, 8.0), ids, EmbeddedInputs(table, 64)):
        if has_start and said == "precedes the answer" and inputs.form != "text":
            continue  # a beginning of sequence precedes it
        with pytest.raises(UnsupportedError, match=said):
            inputs.input(request, 0, 0)
        with pytest.raises(UnsupportedError, match=said):
            inputs.count(request, 0)
