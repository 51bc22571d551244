"""Models that may answer differently have different fingerprints, and a model has one alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from by_the_book import batch
from tokenizers import Tokenizer

from blackbox_delta.backends.local.fingerprints import _sums, fingerprint
from blackbox_delta.backends.local.merging import merged
from blackbox_delta.backends.local.terms import Factors


def changed_backend(tokenizer: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """A fast tokenizer, one part of it changed."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    change(state)
    names = ("bos_token", "eos_token", "pad_token", "mask_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        **{name: getattr(tokenizer, name) for name in names},
    )


def without_start(state: dict[str, Any]) -> None:
    state["post_processor"] = None


def half_of_the_merges(state: dict[str, Any]) -> None:
    state["model"]["merges"] = state["model"]["merges"][: len(state["model"]["merges"]) // 2]


@pytest.mark.parametrize("change", [without_start, half_of_the_merges])
def test_tokenizers_of_one_vocabulary_are_told_apart(
    change: Callable[[dict[str, Any]], None], tiny: Any
) -> None:
    model, tokenizer = tiny("llama").model, tiny("llama").tokenizer
    other = changed_backend(tokenizer, change)

    assert other.get_vocab() == tokenizer.get_vocab()
    same = changed_backend(tokenizer, lambda _: None)
    assert fingerprint(model, same) == fingerprint(model, tokenizer) != fingerprint(model, other)


def test_another_mask_is_another_tokenizer(tiny: Any) -> None:
    masked = tiny("roberta")
    other = copy.deepcopy(masked.tokenizer)
    other.mask_token = "<pad>"

    assert fingerprint(masked.model, other) != fingerprint(masked.model, masked.tokenizer)


def test_tokenizers_without_a_backend_are_told_apart(tiny: Any) -> None:
    made = [transformers.ByT5Tokenizer(extra_ids=count) for count in (3, 3, 4)]
    first, again, other = (fingerprint(tiny("t5").model, tokenizer) for tokenizer in made)

    assert not made[0].is_fast
    assert first == again != other


def test_how_a_tokenizer_was_used_before_is_no_part_of_it(tiny: Any) -> None:
    model, tokenizer = tiny("llama").model, copy.deepcopy(tiny("llama").tokenizer)
    tokenizer(["a film", "the plot is long"], truncation=True, max_length=3, padding=True)

    assert fingerprint(model, tokenizer) == fingerprint(model, tiny("llama").tokenizer)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}, False),
        ({"rms_norm_eps": 1e-5}, False),
        ({"use_cache": False}, True),
        ({"_name_or_path": "elsewhere"}, True),
        ({"architectures": ["LlamaForCausalLM"]}, True),
        ({"dtype": "bfloat16"}, True),
        ({"_attn_implementation": "eager"}, True),
    ],
)
def test_configurations_are_told_apart_by_what_changes_answers(
    change: dict[str, Any], same: bool, tiny: Any
) -> None:
    model, tokenizer = tiny("llama").model, tiny("llama").tokenizer
    other = copy.deepcopy(model)
    for name, value in change.items():
        setattr(other.config, name, value)

    assert (fingerprint(other, tokenizer) == fingerprint(model, tokenizer)) is same


def test_what_only_later_versions_know_of_a_kind_changes_nothing(tiny: Any) -> None:
    """A new setting, at its default."""
    model, tokenizer = tiny("llama").model, tiny("llama").tokenizer
    other = copy.deepcopy(model)

    class Later(type(model.config)):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.invented_later = 7

    other.config = Later(**model.config.to_dict())

    assert fingerprint(other, tokenizer) == fingerprint(model, tokenizer)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "bert", "bart"])
def test_a_model_that_was_saved_and_loaded_is_the_same(
    architecture: str, tiny: Any, tmp_path: Path
) -> None:
    """Tied weights too, in either precision."""
    model, tokenizer = tiny(architecture).model, tiny(architecture).tokenizer
    model.save_pretrained(tmp_path)
    loaded = [
        type(model).from_pretrained(tmp_path, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    ]

    prints = {fingerprint(each, tokenizer) for each in (model, *loaded)}

    assert len(prints) == 1


def test_every_number_counts(tiny: Any) -> None:
    tokenizer, prints = tiny("llama").tokenizer, set()
    with torch.no_grad():
        for place in range(0, 1536, 97):
            model = copy.deepcopy(tiny("llama").model)
            model.model.layers[0].mlp.up_proj.weight.view(-1)[place] *= 1.1
            prints.add(fingerprint(model, tokenizer))
        swapped = copy.deepcopy(tiny("llama").model)
        swapped.model.layers[0].mlp.up_proj.weight[[3, 4]] = (
            swapped.model.layers[0].mlp.up_proj.weight[[4, 3]].clone()
        )
        prints.add(fingerprint(swapped, tokenizer))

    assert len(prints) == 17


def test_a_sparse_delta_in_the_weights_makes_another_model(tiny: Any, tiny_backend: Any) -> None:
    model, tokenizer = copy.deepcopy(tiny("llama").model), tiny("llama").tokenizer
    delta = batch("sparse", tiny_backend("llama"), 1)
    model.load_state_dict({**model.state_dict(), **merged(model, [delta], Factors(torch.float32))})

    assert fingerprint(model, tokenizer) != fingerprint(tiny("llama").model, tokenizer)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 600_000])
def test_sums_are_those_of_whole_numbers(size: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 1e3

    sums = np.frombuffer(b"".join(_sums(values)), "<i8").reshape(-1, 2)

    bits = values.to(torch.bfloat16).view(torch.int16).numpy().astype(np.int64)
    rows = np.pad(bits, (0, -size % 4096)).reshape(-1, 4096)
    expected = np.stack([rows.sum(axis=1), rows @ np.arange(1, 4097)], axis=1)
    np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_what_is_no_real_number_counts_byte_by_byte(dtype: torch.dtype) -> None:
    values = torch.arange(5000).to(dtype)
    other = values.clone()
    other[4999] = 0

    assert list(_sums(values)) == list(_sums(values.clone())) != list(_sums(other))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA")
def test_it_is_the_same_on_a_gpu(tiny: Any) -> None:
    model, tokenizer = tiny("gpt2").model, tiny("gpt2").tokenizer

    assert fingerprint(copy.deepcopy(model).cuda(), tokenizer) == fingerprint(model, tokenizer)
