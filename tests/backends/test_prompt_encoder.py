"""From prompts to token ids: what is cut, what is kept, what is told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.prompt_encoder import EncodedPrompt, PromptEncoder, fair_shares, length
from blackbox_delta.errors import TemplateError, UnsupportedError, VerbalizerError
from blackbox_delta.types import AnswerSlot, DecoderStart, Prompt, SoftSlot, Words

SLOTS = {"soft": 3}


@pytest.fixture(scope="module")
def encoder(tiny: Callable[[str], Any]) -> Callable[..., PromptEncoder]:
    """The encoder that a backend around the named tiny model would have."""

    def make(model: str, max_length: int = 30) -> PromptEncoder:
        kind = tiny(model).kind
        start = tiny(model).model.config.decoder_start_token_id if kind == "seq2seq" else None
        return PromptEncoder(tiny(model).tokenizer, kind, max_length, start)

    return make


def flat(pieces: Any) -> list[int | str]:
    """Token ids, a soft slot by its name."""
    return [
        code
        for piece in pieces
        for code in ([piece.name] if isinstance(piece, SoftSlot) else piece)
    ]


def test_what_opens_every_text_is_told(encoder: Callable[..., PromptEncoder]) -> None:
    for model, expected in {"llama": ["<s>"], "gpt2": [], "bert": ["[CLS]"], "t5": []}.items():
        made = encoder(model)
        assert [made._tokenizer.decode([token]) for token in made.opening] == expected


def around(text: str, pair: str = "") -> Prompt:
    return Prompt(
        (
            Words("Review: "),
            Words(text, True),
            Words(" "),
            Words(pair, True),
            SoftSlot("soft"),
            Words(" It was"),
            AnswerSlot(),
            Words("."),
        )
    )


def tokens_of(encoded: EncodedPrompt) -> int:
    return length(encoded.pieces, SLOTS)


# ------------------------------------------------------------------------- truncation


def test_a_long_text_is_cut_in_few_steps_without_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer written in Python tells no offsets; ESM's also decodes with spaces between."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *"ABCDEFGHIKLMNPQRSTVWXYZ", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    made = PromptEncoder(tokenizer, "masked", 30)
    called = 0

    def tokenize(text: str) -> list[int]:
        nonlocal called
        called += 1
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    monkeypatch.setattr(made, "tokenize", tokenize)
    encoded = made.encode(Prompt((Words("MKTAYI" * 300, True), AnswerSlot())), {}, answer_tokens=1)

    assert length(encoded.pieces, {}) == 29
    assert tokenizer.decode(encoded.before[1]) == " ".join("MKTAYI" * 4 + "MKT")
    assert called < 30


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("model", ["llama", "bert"])
def test_only_the_text_is_cut(
    model: str, encoder: Callable[..., PromptEncoder], tiny: Any, text: str, pair: str
) -> None:
    made = encoder(model)
    encoded = made.encode(around(text, pair), SLOTS, answer_tokens=2)
    tokenizer = tiny(model).tokenizer

    def ids(words: str) -> list[int]:
        return list(tokenizer(words, add_special_tokens=False)["input_ids"])

    assert tokens_of(encoded) + 2 <= 30
    before, after = flat(encoded.before), flat(encoded.after)
    opening = tokenizer("")["input_ids"][:1]
    template = ids("Review:")
    assert before[: 1 + len(template)] == opening + template
    assert before[before.index("soft") :] == ["soft", *ids(" It was")]
    assert after == ([*ids("."), *tokenizer("")["input_ids"][1:]] if model == "bert" else [])


@given(st.text(alphabet="abcdefgh ,.", min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_the_beginning_of_the_text(
    encoder: Callable[..., PromptEncoder], tiny: Any, text: str
) -> None:
    tokenizer = tiny("gpt2").tokenizer
    prompt = Prompt((Words(text, True), SoftSlot("soft"), Words(" It was"), AnswerSlot()))

    encoded = encoder("gpt2", max_length=20).encode(prompt, SLOTS, answer_tokens=1)

    before = flat(encoded.before)
    kept = tokenizer.decode(before[: before.index("soft")])
    assert text.startswith(kept)
    # As much as fits is kept: all of it, or not a token less than the room.
    whole = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    room = 20 - 1 - 3 - len(tokenizer(" It was", add_special_tokens=False)["input_ids"])
    assert (kept == text) == (whole <= room)


def test_a_text_without_an_end_is_cut_in_good_time(encoder: Callable[..., PromptEncoder]) -> None:
    encoded = encoder("gpt2").encode(around("so good " * 50_000), SLOTS, answer_tokens=1)

    assert tokens_of(encoded) == 29


@pytest.mark.parametrize(
    ("text", "pair"),
    [("good " * 100, "bad"), ("bad", "good " * 100), ("good " * 100, "bad " * 80)],
    ids=["text", "pair", "both"],
)
def test_the_longer_of_a_pair_is_cut(
    text: str, pair: str, encoder: Callable[..., PromptEncoder], tiny: Any
) -> None:
    tokenizer = tiny("gpt2").tokenizer
    good, bad = (
        tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" good", " bad")
    )

    encoded = encoder("gpt2", max_length=60).encode(around(text, pair), SLOTS, answer_tokens=1)

    before = flat(encoded.before)
    counts = (before.count(good), before.count(bad))
    assert tokens_of(encoded) in {58, 59}
    if "bad" in (text, pair):
        assert counts[1] == 1 or "bad" in tokenizer.decode([c for c in before if c != "soft"])
        assert counts[0] > 30
    else:
        # Neither is wiped out for the other's sake.
        assert abs(counts[0] - counts[1]) <= 3


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(-10, 200))
def test_fair_shares(lengths: list[int], room: int) -> None:
    kept = fair_shares(lengths, room)

    assert all(0 <= share <= own for share, own in zip(kept, lengths, strict=True))
    if sum(lengths) <= max(0, room):
        assert kept == lengths
        return
    # One level for all that are cut; the shorter ones stay whole; no room is left over.
    assert sum(kept) == max(0, room)
    cut = [share for share, own in zip(kept, lengths, strict=True) if share < own]
    assert max(cut) - min(cut) <= 1
    assert max(kept) <= max(cut) + 1


def test_a_template_that_is_too_long_is_refused(encoder: Callable[..., PromptEncoder]) -> None:
    with pytest.raises(TemplateError, match=r"\d+ tokens longer than the model's context of 30"):
        encoder("gpt2").encode(
            Prompt((Words("a long template " * 20), Words("text", True), AnswerSlot())), {}, 1
        )


def test_a_soft_prompt_that_is_too_long_is_refused(encoder: Callable[..., PromptEncoder]) -> None:
    with pytest.raises(TemplateError, match="the template, with its soft prompt or prefix, is"):
        encoder("gpt2").encode(around("fine"), {"soft": 40}, 1)


def test_encoder_and_decoder_texts_are_cut_where_they_are_too_long(
    encoder: Callable[..., PromptEncoder],
) -> None:
    """A longer text on the other side has nothing to do with it."""
    short, long = "good " * 6, "good " * 40
    prompt = Prompt(
        (
            Words("Review: " * 3),
            Words(short, True),
            DecoderStart(),
            Words(long, True),
            AnswerSlot(),
        )
    )
    made = encoder("bart", max_length=24)
    encoder_alone = len(flat(made._encode(prompt.segments).encoder))
    assert encoder_alone <= 24 < len(flat(made._encode(prompt.segments).before))

    encoded = made.encode(prompt, {}, 1)

    assert len(flat(encoded.encoder)) == encoder_alone
    assert len(flat(encoded.before)) == 23


# ------------------------------------------------------------- specials, continuations


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert", "roberta", "t5", "bart"])
def test_a_prompt_without_slots_is_what_the_tokenizer_makes_of_the_text(
    model: str, encoder: Callable[..., PromptEncoder], tiny: Any
) -> None:
    """Special tokens are kept where the model expects them; a causal prompt is left open."""
    tokenizer = tiny(model).tokenizer
    prompt = Prompt((Words("Review: "), Words("a film.", True), Words(" It was"), AnswerSlot()))

    encoded = encoder(model).encode(prompt, {}, 1)

    whole = tokenizer("Review: a film. It was")["input_ids"]
    if tiny(model).kind == "causal":
        assert flat(encoded.before) == whole
    elif tiny(model).kind == "masked":
        assert flat(encoded.before) + flat(encoded.after) == whole
        assert flat(encoded.after) == whole[-1:]
    else:
        assert flat(encoded.encoder) == whole
        assert flat(encoded.before) == [tiny(model).model.config.decoder_start_token_id]


def test_bart_opens_its_decoder_once(encoder: Callable[..., PromptEncoder], tiny: Any) -> None:
    prompt = Prompt((Words("a film", True), DecoderStart(), Words("It was"), AnswerSlot()))

    encoded = encoder("bart").encode(prompt, {}, 1)

    words = tiny("bart").tokenizer("It was", add_special_tokens=False)["input_ids"]
    assert flat(encoded.before) == [2, *words]


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_continuations_of_tokenizers_with_marked_spaces(
    scheme: str, marked_spaces: Callable[[str], Any]
) -> None:
    """What follows a slot is tokenized as inside a sentence, not as a sentence of its own."""
    tokenizer = marked_spaces(scheme)
    made = PromptEncoder(tokenizer, "causal", 100)

    whole = tokenizer("the film was great", add_special_tokens=False)["input_ids"]
    start = tokenizer("the film was", add_special_tokens=False)["input_ids"]

    assert start + made.continuation(" great") == whole


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize(
    "text",
    [
        " great",
        "great",
        " it was: bad.",
    ],
)
def test_text_of_tokenizers_with_marked_spaces(
    scheme: str, text: str, marked_spaces: Callable[[str], Any]
) -> None:
    """The space that opens a text is kept, and special tokens say nothing."""
    tokenizer = marked_spaces(scheme)
    made = PromptEncoder(tokenizer, "causal", 100)
    ids = tokenizer(f"the film was{text}", add_special_tokens=False)["input_ids"]
    before = made.text(ids[:3])

    assert made.text(made.continuation(text)) == text
    assert made.text([*ids, tokenizer.eos_token_id]) == made.text(ids)
    assert made.text(ids).startswith(before)
    assert made.text(ids).endswith(text)
    assert made.text([]) == ""


@given(st.text(alphabet="abcdefgh ,.'\n\u00e9", max_size=60))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_text_is_what_was_tokenized(
    model: str, encoder: Callable[..., PromptEncoder], text: str
) -> None:
    made = encoder(model)
    assert made.text(made.continuation(text)) == text


def test_a_causal_prompt_needs_something_before_the_answer(
    encoder: Callable[..., PromptEncoder],
) -> None:
    with pytest.raises(UnsupportedError, match="nothing precedes the answer"):
        encoder("gpt2").encode(Prompt((SoftSlot("soft"), AnswerSlot())), {}, 1)


@pytest.mark.parametrize("model", ["gpt2", "bert"])
def test_a_decoder_part_needs_a_decoder(model: str, encoder: Callable[..., PromptEncoder]) -> None:
    with pytest.raises(UnsupportedError, match="only sequence-to-sequence models read"):
        encoder(model).encode(Prompt((Words("a"), DecoderStart(), AnswerSlot())), {}, 1)


# ------------------------------------------------------------------------ label words


def test_label_words_that_the_tokenizer_cannot_tell_apart(
    encoder: Callable[..., PromptEncoder],
) -> None:
    with pytest.raises(VerbalizerError, match=r"cannot tell the label words \[' Good', ' good'\]"):
        encoder("bert").choices([" Good", " bad", " good"])
    assert len(encoder("gpt2").choices([" Good", " bad", " good"])) == 3


@pytest.mark.parametrize("empty", ["", "  "])
def test_label_words_without_tokens(empty: str, encoder: Callable[..., PromptEncoder]) -> None:
    with pytest.raises(VerbalizerError, match="has no tokens"):
        encoder("bert").choices([" good", empty])


def test_something_must_be_asked_about(encoder: Callable[..., PromptEncoder]) -> None:
    with pytest.raises(VerbalizerError, match="give at least one label word"):
        encoder("llama").choices([])
