"""Which engine evaluates which model, and the contract that both keep."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.errors import BackendError, ModelError, UnsupportedError
from blackbox_delta.testing import check_backend
from blackbox_delta.types import AnswerSlot, DeltaBatch, Prompt, ScoreRequest, SoftSlot, Words

PROMPT = Prompt((Words("the film", True), SoftSlot("soft"), Words(" It was"), AnswerSlot()))


@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "t5"])
def test_contract(model: str, tiny_backend: Any) -> None:
    check_backend(tiny_backend(model))


@pytest.mark.parametrize(
    "model",
    ["llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "opt", "gpt_neox"],
)
def test_prefixes_are_shared_where_the_attention_can_be_exchanged(
    model: str, tiny_backend: Any
) -> None:
    assert tiny_backend(model).identity["engine"] == "CausalEngine"


@pytest.mark.parametrize(
    "model", ["bert", "roberta", "distilbert", "t5", "bart", "switch", "nllb_moe"]
)
def test_other_kinds_are_evaluated_whole(
    model: str, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = tiny(model).wrap()

    assert backend.identity["engine"] == "PlainEngine"
    assert not caplog.records


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("bloom", "its attention is not transformers' exchangeable one"),
        ("qwen2_moe", "a window of 5 that only its mask knows of"),
    ],
)
def test_unusual_attention_falls_back_and_says_so(
    model: str, reason: str, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "blackbox_delta"):
        backend = tiny(model).wrap()

    assert backend.identity["engine"] == "PlainEngine"
    (record,) = [record for record in caplog.records if record.name.startswith("blackbox_delta")]
    assert "tiny cannot share prefixes between candidates" in record.getMessage()
    assert reason in record.getMessage()


def test_a_model_on_which_the_engines_disagree_is_evaluated_whole(
    tiny: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an attention would make them that adds something of its own to the scores."""
    from blackbox_delta.backends.local import attention

    honest = attention.Plan.attend

    def biased(self: Any, layer: int, query: Any, *others: Any) -> Any:
        return honest(self, layer, query * 1.5, *others)

    monkeypatch.setattr(attention.Plan, "attend", biased)
    backend = tiny("llama").wrap()

    assert backend.identity["engine"] == "PlainEngine"
    assert "log-probabilities differ by" in caplog.text


@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "t5"])
def test_weights_that_are_not_numbers_never_become_scores(model: str, tiny: Any) -> None:
    import torch

    broken = copy.deepcopy(tiny(model).model)
    with torch.no_grad():
        broken.get_output_embeddings().weight[7] = float("nan")
    backend = LocalBackend.from_objects(broken, tiny(model).tokenizer, name="broken")

    with pytest.raises(BackendError, match="NaN or infinity"):
        backend.score(ScoreRequest([PROMPT], [" great", " good"]))


def test_a_delta_that_is_not_a_number_never_becomes_a_score(tiny_backend: Any) -> None:
    tensors = {"soft": np.full((1, 2, 32), np.nan, np.float32)}

    with pytest.raises(BackendError, match="NaN or infinity"):
        tiny_backend("llama").score(
            ScoreRequest([PROMPT], [" great", " good"], DeltaBatch("soft-prompt", tensors))
        )


def test_a_soft_prompt_of_another_width_is_refused(tiny_backend: Any, soft_prompt: Any) -> None:
    request = ScoreRequest([PROMPT], [" great", " good"], soft_prompt(1, 48, soft=2))

    with pytest.raises(UnsupportedError, match=r"'soft' has shape \(1, 2, 48\).*tokens, 32\)"):
        tiny_backend("llama").score(request)


def test_top_k_beyond_the_vocabulary_is_refused(tiny_backend: Any) -> None:
    backend = tiny_backend("gpt2")
    too_many = backend.capabilities.max_top_k + 1

    with pytest.raises(UnsupportedError, match="more than the vocabulary"):
        backend.score(ScoreRequest([PROMPT], [" great", " good"], top_k=too_many))
    with pytest.raises(UnsupportedError, match="top_k=-1 is no number of tokens"):
        backend.score(ScoreRequest([PROMPT], [" great", " good"], top_k=-1))


def test_a_masked_model_without_a_mask_is_refused(tiny: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    model = tiny("bert")
    maskless = PreTrainedTokenizerFast(tokenizer_object=model.tokenizer.backend_tokenizer)

    with pytest.raises(ModelError, match="no mask token"):
        LocalBackend.from_objects(copy.deepcopy(model.model), maskless, name="maskless")


class TestClose:
    def test_hands_the_model_back_as_it_was(self, tiny: Any) -> None:
        import torch

        model = copy.deepcopy(tiny("mistral").model).train()
        model.model.layers[1].eval()  # a user may have frozen a part
        ids = torch.arange(20)[None] + 5
        modes = [part.training for part in model.modules()]
        attention = model.config._attn_implementation
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        outputs = model(ids).logits

        backend = LocalBackend.from_objects(model, tiny("mistral").tokenizer, name="mine")
        backend.score(ScoreRequest([PROMPT], [" great", " good"]))
        assert model.config._attn_implementation != attention
        backend.close()

        assert model.config._attn_implementation == attention
        assert [part.training for part in model.modules()] == modes
        after = model.state_dict()
        assert weights.keys() == after.keys()
        assert all(torch.equal(weights[name], after[name]) for name in weights)
        assert torch.equal(model(ids).logits, outputs)
        # Hooks that stayed would drop positions from the outputs of others.
        assert not any(part._forward_hooks for part in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_gradients_flow_again(self, tiny: Any) -> None:
        import torch

        model = copy.deepcopy(tiny("llama").model)
        backend = LocalBackend.from_objects(model, tiny("llama").tokenizer, name="mine")
        backend.close()

        model(torch.arange(9)[None]).logits.sum().backward()

        assert all(value.grad is not None for value in model.parameters())

    def test_twice_is_once_and_nothing_is_answered_afterwards(self, tiny: Any) -> None:
        backend = tiny("llama").wrap()
        backend.close()
        backend.close()

        with pytest.raises(ModelError, match="'tiny' has been closed"):
            backend.score(ScoreRequest([PROMPT], [" great", " good"]))


def test_an_architecture_that_lacks_what_others_have_is_refused(tiny: Any) -> None:
    """Not in the words of another library: its encoder does not tell where its embeddings are."""
    with pytest.raises(ModelError, match="'tiny' cannot be used: .*'FSMTEncoder' object has no"):
        tiny("fsmt").wrap()
