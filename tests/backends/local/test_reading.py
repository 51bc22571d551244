"""Log-probabilities at the positions that are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from blackbox_delta.backends.local.reading import (
    Readings,
    Targets,
    logits_at,
    read_logits,
    trunk_of,
)
from blackbox_delta.errors import BackendError

LOGITS = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0)) * 5


def test_scores_are_sums_over_a_choice() -> None:
    entries = [(0, 7, 0), (0, 9, 1), (1, 4, 1)]
    targets = Targets.build(entries, 2, torch.device("cpu"))

    scores, _, _ = read_logits(LOGITS, targets, 0)

    logprobs = LOGITS.log_softmax(dim=-1)
    expected = torch.stack([logprobs[:, 0, 7], logprobs[:, 0, 9] + logprobs[:, 1, 4]], dim=1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_top_tokens_are_those_of_the_first_position_likeliest_first() -> None:
    targets = Targets.build([(0, 7, 0)], 1, torch.device("cpu"))

    _, ids, logprobs = read_logits(LOGITS, targets, 5)

    expected = torch.topk(LOGITS[:, 0].log_softmax(dim=-1), 5)
    assert ids.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(logprobs, expected.values, atol=1e-5)
    assert (np.diff(logprobs, axis=-1) <= 0).all()


def test_low_precision_is_normalised_in_float32() -> None:
    targets = Targets.build([(0, 7, 0)], 1, torch.device("cpu"))
    low = LOGITS.to(torch.bfloat16)

    scores, _, _ = read_logits(low, targets, 0)

    expected = low.double().log_softmax(dim=-1)[:, 0, 7]
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["label_logprobs", "top_logprobs"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_an_error(name: str, value: float) -> None:
    readings = Readings.empty(2, 3, 2, 1)
    readings.label_logprobs[:] = readings.top_logprobs[:] = -1
    readings.check()
    getattr(readings, name)[1, 2, 0] = value

    with pytest.raises(BackendError, match=rf"answered 1 of \d+ {name} with NaN or infinity"):
        readings.check()


def test_what_was_never_read_is_an_error() -> None:
    with pytest.raises(BackendError, match="12 of 12 label_logprobs"):
        Readings.empty(2, 3, 2, 0).check()


@pytest.mark.parametrize(
    "model", ["llama", "gpt2", "opt", "bloom", "gemma3", "bert", "roberta", "distilbert"]
)
def test_only_the_positions_asked_for_reach_the_head(model: str, tiny: Any) -> None:
    """The vocabulary is the widest layer of all: its logits are the dearest."""
    whole = tiny(model).model
    embeddings = whole.get_input_embeddings()(torch.arange(5, 35).view(2, 15)).detach()
    positions = torch.tensor([[3, 9], [0, 14]])
    seen = []
    hook = whole.get_output_embeddings().register_forward_hook(
        lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape[:2]))
    )
    with torch.no_grad():
        full = whole(inputs_embeds=embeddings).logits
        found = logits_at(whole, trunk_of(whole), positions, {"inputs_embeds": embeddings})
    hook.remove()

    torch.testing.assert_close(found, full[torch.arange(2)[:, None], positions])
    assert seen == [(2, 15), (2, 2)]


def test_a_trunk_that_is_never_called_costs_logits_but_no_sense(tiny: Any) -> None:
    """OPT calls the decoder inside its base model: a hook on the whole would never run."""
    whole = tiny("opt").model
    embeddings = whole.get_input_embeddings()(torch.arange(5, 35).view(2, 15)).detach()
    positions = torch.tensor([[3, 9], [0, 14]])

    with torch.no_grad():
        full = whole(inputs_embeds=embeddings).logits
        found = logits_at(whole, whole.base_model, positions, {"inputs_embeds": embeddings})

    torch.testing.assert_close(found, full[torch.arange(2)[:, None], positions])
    assert not any(part._forward_hooks for part in whole.modules())


def test_a_head_that_reads_what_else_a_trunk_puts_out(tiny: Any) -> None:
    """ProphetNet's reads states for the tokens after the next, of all positions."""
    whole = tiny("prophetnet").model
    inputs = {
        "input_ids": torch.arange(5, 20)[None],
        "decoder_input_ids": torch.arange(9, 16)[None],
    }
    positions = torch.tensor([[3, 5]])

    with torch.no_grad():
        full = whole(**inputs).logits
        found = logits_at(whole, trunk_of(whole), positions, inputs)

    torch.testing.assert_close(found, full[:, positions[0]])
