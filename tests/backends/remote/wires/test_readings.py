"""Label log-probabilities by each rule, against the exact distribution they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.readings import (
    FLOOR,
    Exact,
    Labels,
    TopTokens,
    Unbiased,
    nothing,
    top_arrays,
    unseen_bound,
)
from blackbox_delta.backends.remote.wires.wire import Answer, Token, token_id
from blackbox_delta.backends.remote.wires.written import DOUBT, Written
from blackbox_delta.errors import UnsupportedError, VerbalizerError
from blackbox_delta.types import Vector

VOCABULARY = 40
logits = hnp.arrays(np.float64, VOCABULARY, elements=st.floats(-12, 12, width=32))


def log_softmax(values: Vector) -> Vector:
    shifted = values - values.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def server(logprobs: Vector, top_k: int) -> Answer:
    """What a server answers that knows these log-probabilities: float32, the k likeliest."""
    order = np.argsort(-logprobs, kind="stable")[:top_k]
    rounded = logprobs.astype(np.float32)
    return Answer("", tuple(Token(int(i), b"t%d" % i, float(rounded[i])) for i in order))


def labels(*ids: int) -> Labels:
    return Labels([f"t{i}" for i in ids], ids, chat=False)


def texts(*pairs: tuple[str, float]) -> Answer:
    return Answer("", tuple(Token(None, text.encode(), math.log(p)) for text, p in pairs))


def test_exact_is_what_the_server_said() -> None:
    found = Exact()(Answer("", labels=(-0.5, -3.0)))
    assert found.label_logprobs.tolist() == [-0.5, -3.0]
    assert (found.top_ids.shape, found.bounded, found.unparsed) == ((0,), 0, 0)
    with pytest.raises(BrokenReply):
        Exact()(Answer("", (Token(1, b"a", -1.0),)))


@settings(deadline=None)
@given(logits=logits, top_k=st.integers(1, VOCABULARY), chosen=st.permutations(range(VOCABULARY)))
def test_top_tokens_are_exact_inside_and_bounded_outside(
    logits: Vector, top_k: int, chosen: list[int]
) -> None:
    truth = log_softmax(logits)
    answer = server(truth, top_k)
    ids = chosen[:3]
    found = TopTokens(labels(*ids), top_k=min(top_k, 5))(answer)
    seen = [i in {token.id for token in answer.top} for i in ids]
    assert found.bounded == seen.count(False)
    for value, i, inside in zip(found.label_logprobs, ids, seen, strict=True):
        if inside:
            assert value == pytest.approx(truth[i], abs=1e-5)
        else:
            assert value >= truth[i] - 1e-5 or value == FLOOR
            assert value <= answer.top[-1].logprob + 1e-5
    np.testing.assert_array_equal(found.top_ids, [t.id for t in answer.top[:5]])
    assert found.label_logprobs.dtype.name == "float32"
    assert found.top_ids.dtype.name == "int64"


def test_the_bound_is_the_smaller_of_the_last_and_what_is_left() -> None:
    half = (Token(1, b"a", math.log(0.6)), Token(2, b"b", math.log(0.3)))
    assert unseen_bound(half) == pytest.approx(math.log(0.1), abs=1e-4)
    flat = tuple(Token(i, b"", math.log(0.01)) for i in range(3))
    assert unseen_bound(flat) == math.log(0.01)
    assert unseen_bound((Token(1, b"a", 0.0),)) == pytest.approx(math.log(1e-6))
    assert unseen_bound((Token(1, b"a", 0.0), Token(2, b"b", -80.0))) == FLOOR


def test_completions_match_exact_bytes_or_ids() -> None:
    answer = texts((" great", 0.5), ("great", 0.2), (" Great", 0.1), (" gr", 0.05))
    found = TopTokens(Labels([" great", " bad"], None, chat=False))(answer)
    assert found.label_logprobs[0] == pytest.approx(math.log(0.5))
    assert found.bounded == 1
    # ids known to us but not told by the server: the text decides
    assert TopTokens(Labels([" great", " bad"], [7, 8], chat=False))(answer).bounded == 1
    by_id = Answer("", (Token(8, b" great", -1.0), Token(9, b"", -2.0)))
    found = TopTokens(Labels([" great", " bad"], [7, 8], chat=False))(by_id)
    assert found.label_logprobs[1] == -1.0
    with pytest.raises(BrokenReply):
        TopTokens(Labels([" great"], None, chat=False))(Answer("great"))


def test_tokens_without_text_need_label_ids() -> None:
    answer = Answer("", (Token(8, b"", -1.0), Token(9, b"", -2.0)))
    with pytest.raises(UnsupportedError, match="tokenizer"):
        TopTokens(Labels([" great"], None, chat=False))(answer)


def test_chats_sum_over_case_spaces_and_beginnings() -> None:
    rule = TopTokens(Labels([" Sports", " Sci/Tech", " World"], None, chat=True))
    found = rule(
        texts(
            ("Sports", 0.3), (" sports", 0.1), ("Sp", 0.05), ("S", 0.2), ("Sci", 0.1), ("\n", 0.1)
        )
    )
    assert found.label_logprobs[0] == pytest.approx(math.log(0.45))
    assert found.label_logprobs[1] == pytest.approx(math.log(0.1))
    assert found.bounded == 1
    assert found.label_logprobs[2] == pytest.approx(math.log(0.1), abs=1e-4)  # the last token's


def test_chats_prefer_the_whole_word_to_a_beginning() -> None:
    rule = TopTokens(Labels(["spam", "spam filter"], None, chat=True))
    found = rule(Answer("", (Token(None, b"spam", -0.1), Token(None, b"\xff", -3.0))))
    assert found.label_logprobs[0] == pytest.approx(-0.1)
    assert found.bounded == 1


@pytest.mark.parametrize("choices", [["Great", "great "], ["a", " "], [""]])
def test_labels_that_cannot_be_told_apart_are_refused(choices: list[str]) -> None:
    with pytest.raises(VerbalizerError, match="told apart"):
        Labels(choices, None, chat=True)
    with pytest.raises(VerbalizerError):
        Labels([" a", " b"], [7, 7], chat=False)


def test_fewer_tokens_are_filled_up_to_k() -> None:
    top = (Token(2**31 - 1, b"a", -0.5), Token(None, b"b", -1.5))
    ids, logprobs = top_arrays(top, 4)
    np.testing.assert_array_equal(ids, [2**31 - 1, token_id(b"b"), 2**31 - 2, 2**31 - 3])
    assert logprobs.tolist() == [-0.5, -1.5, -1.5, -1.5]
    ids, logprobs = top_arrays(top, 1)
    np.testing.assert_array_equal((ids, logprobs), [[2**31 - 1], [-0.5]])
    assert top_arrays(top, 0)[0].shape == (0,)


def test_of_no_answer_nothing_is_read() -> None:
    found = nothing(4, 3)
    np.testing.assert_allclose(np.exp(found.label_logprobs), 0.25, rtol=1e-6)
    assert sorted(found.top_ids) == [2**31 - 3, 2**31 - 2, 2**31 - 1]  # ids that stand for nothing
    assert len(set(found.top_logprobs)) == 1
    assert np.isfinite(found.top_logprobs).all()
    assert (found.bounded, found.unparsed) == (0, 1)
    dtypes = found.label_logprobs.dtype, found.top_ids.dtype, found.top_logprobs.dtype
    assert dtypes == (np.float32, np.int64, np.float32)
    assert nothing(2).top_ids.shape == (0,)


def biased(truth: Vector, ids: list[int], bias: float) -> Vector:
    lifted = truth.copy()
    lifted[ids] += bias
    return log_softmax(lifted)


@settings(deadline=None, max_examples=150)
@given(
    logits=logits,
    chosen=st.permutations(range(VOCABULARY)),
    count=st.integers(1, 4),
    bias=st.floats(0.5, 40),
    top_k=st.integers(1, 20),
)
def test_a_bias_is_taken_back_exactly_or_bounded(
    logits: Vector, chosen: list[int], count: int, bias: float, top_k: int
) -> None:
    truth, ids = log_softmax(logits), chosen[:count]
    answer = server(biased(truth, ids, bias), top_k)
    found = Unbiased(labels(*ids), bias)(answer)
    seen = {token.id for token in answer.top}
    for value, i in zip(found.label_logprobs, ids, strict=True):
        if found.bounded == 0 or (i in seen and found.bounded < count):
            assert value == pytest.approx(truth[i], abs=0.02)
        else:
            assert value >= truth[i] - 0.02
        assert value <= 0
    if seen.issuperset(ids) and found.bounded:
        share = math.fsum(math.exp(biased(truth, ids, bias)[i]) for i in ids)
        assert 1 - share < 3e-4  # the stated range in which the rest is lost in rounding


def test_a_bias_brings_a_hidden_label_into_sight() -> None:
    truth = log_softmax(np.linspace(10, 0, VOCABULARY))
    ids = [30, 39]  # far outside the top 5
    assert TopTokens(labels(*ids))(server(truth, 5)).bounded == 2
    found = Unbiased(labels(*ids), 10.0)(server(biased(truth, ids, 10.0), 5))
    np.testing.assert_allclose(found.label_logprobs, truth[ids], atol=1e-4)
    assert found.bounded == 0


def test_where_the_labels_take_everything_the_rest_is_lost() -> None:
    truth = np.log(np.array([0.5, 0.4999, 1e-4 / 2, 1e-4 / 2]))
    found = Unbiased(labels(0, 1), 20.0)(server(biased(truth, [0, 1], 20.0), 4))
    assert found.bounded == 2
    assert np.all(found.label_logprobs >= truth[:2] - 1e-5)


def test_an_impossible_bias_is_refused() -> None:
    for bias in (0.0, -1.0, 101.0, math.nan):
        with pytest.raises(ValueError):
            Unbiased(labels(1), bias)
    with pytest.raises(ValueError):
        Unbiased(Labels(["a"], None, chat=True), 1.0)
    with pytest.raises(BrokenReply):
        Unbiased(labels(1), 1.0)(Answer("t1"))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("spam", "spam"),
        (" Spam.", "spam"),
        ("**Spam**", "spam"),
        ("_spam_", "spam"),
        ("`\u201cSPAM\u201d`\n", "spam"),
        ("ｓｐａｍ", "spam"),  # full-width letters
        ("The answer is: spam. Spam!", "spam"),
        ("Not spam", "not spam"),
        ("not-spam, not spam", "not spam"),
        ("spam spam not spam", None),
        ("spammer", None),
        ("antispam", None),
        ("", None),
        ("I cannot tell.", None),
        ("sci/tech", "Sci/Tech"),
        ("Sci Tech", "Sci/Tech"),
        ("STRASSE", "Straße"),
    ],
)
def test_text_is_parsed_by_the_stated_rule(text: str, label: str | None) -> None:
    choices = [" spam", " not spam", " Sci/Tech", " Straße"]
    found = Written(choices)(Answer(text))
    if label is None:
        np.testing.assert_allclose(found.label_logprobs, math.log(1 / 4))
        assert found.unparsed == 1
    else:
        expected = np.full(4, math.log(DOUBT / 3))
        expected[choices.index(f" {label}")] = math.log(1 - DOUBT)
        np.testing.assert_allclose(found.label_logprobs, expected, rtol=1e-6)
        assert found.unparsed == 0
    assert np.exp(found.label_logprobs.astype(float)).sum() == pytest.approx(1)


@given(before=st.text(), after=st.text(), at=st.integers(0, 2))
def test_a_label_is_found_in_any_surroundings_that_name_no_other(
    before: str, after: str, at: int
) -> None:
    choices = ["qwörtx", "zwei wörter", "wörter"]
    rule = Written(choices)
    if rule.label(f"{before} {after}") is None and "zwei" not in f"{before} {after}".casefold():
        found = rule.label(f"{before} * {choices[at]} * {after}")
        others = any(word in f"{before} {after}".casefold() for word in ("wört", "wort"))
        assert found == at or others


@pytest.mark.parametrize("choices", [["a"], ["a", "A."], ["a", "?"], ["", "b"]])
def test_words_that_text_cannot_tell_apart_are_refused(choices: list[str]) -> None:
    with pytest.raises(VerbalizerError, match="told apart"):
        Written(choices)
