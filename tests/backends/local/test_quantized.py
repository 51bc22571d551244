"""Quantised models: deltas act at them as at the plain models that they stand for."""

from __future__ import annotations

import copy
import importlib.util
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from by_the_book import CHOICES, Reference, batch, request_for
from changed_models import SLOT, expected, prefix_batch, with_peft
from coded_models import Coded, Mixing, Packed, dequantized, packed, quantized

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.backends.local.fingerprints import fingerprint
from blackbox_delta.backends.local.matrices import matrix_of
from blackbox_delta.deltas import MODULE_DELTAS
from blackbox_delta.deltas.targets import select
from blackbox_delta.errors import ExportError, ModelError
from blackbox_delta.exports import write_adapter
from blackbox_delta.types import DeltaBatch

ARCHITECTURES = ("llama", "bert", "bart")


@pytest.fixture(scope="module")
def coded(tiny: Any) -> Any:
    """Quantised tiny models by architecture, each wrapped once."""
    models = {name: quantized(tiny(name)) for name in ARCHITECTURES}
    backends = {name: model.wrap() for name, model in models.items()}
    return lambda name: (models[name], backends[name])


@pytest.mark.parametrize("kind", MODULE_DELTAS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_deltas_act_as_at_the_plain_model(architecture: str, kind: str, coded: Any) -> None:
    model, backend = coded(architecture)
    request = request_for(SLOT, batch(kind, backend, 3))

    scores = backend.score(request).label_logprobs

    assert scores.std(axis=0).mean() > 0.05  # otherwise the comparison could not fail
    plain = expected(dequantized(model), request)
    np.testing.assert_allclose(scores, plain, rtol=0, atol=1e-4)


def test_prefixes_and_soft_prompts(coded: Any, soft_prompt: Any) -> None:
    _, backend = coded("llama")
    plain = dequantized(coded("llama")[0]).wrap()
    for delta in (prefix_batch(backend, 2), soft_prompt(2, 32, a=2)):
        request = request_for(SLOT, delta)
        np.testing.assert_allclose(
            backend.score(request).label_logprobs,
            plain.score(request).label_logprobs,
            rtol=0,
            atol=1e-4,
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_have_the_geometry_of_the_plain_model(architecture: str, coded: Any) -> None:
    model, backend = coded(architecture)
    plain = dequantized(model).wrap().geometry
    assert backend.geometry.modules == plain.modules
    name = next(each.name for each in plain.modules if each.linear)
    assert backend.geometry.salient(name, 9) == plain.salient(name, 9)


def test_one_whose_texts_change_each_other_is_refused(tiny: Any) -> None:
    with pytest.raises(ModelError, match=r"quantisation may let the texts .* llm_int8_threshold"):
        quantized(tiny("llama"), Mixing).wrap()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_unpacked_at_the_first_call_is_unpacked_when_it_is_opened(
    architecture: str, tiny: Any, coded: Any
) -> None:
    model = packed(tiny(architecture))
    backend = model.wrap()
    plain = dequantized(coded(architecture)[0]).wrap()
    assert backend.fingerprint == plain.fingerprint
    request = request_for(SLOT, batch("lora", backend, 2))
    np.testing.assert_allclose(
        backend.score(request).label_logprobs,
        plain.score(request).label_logprobs,
        rtol=0,
        atol=1e-4,
    )
    # Whoever gets the model back may train it.
    assert not any(weight.is_inference() for weight in model.model.parameters())


def test_one_that_cannot_be_called_is_refused(tiny: Any) -> None:
    with pytest.raises(ModelError, match=r"cannot be called .*: these codes are packed"):
        quantized(tiny("llama"), Packed).wrap()


def test_nothing_is_merged_into_codes(coded: Any, tmp_path: Path) -> None:
    backend = coded("llama")[1]
    with pytest.raises(ExportError, match=r"is quantised: .*model that it was quantised from"):
        backend.save_merged(batch("lora", backend, 1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_merged_into_what_was_unpacked(tiny: Any, tmp_path: Path) -> None:
    """Its configuration says that it is quantised: whoever loads it would look for codes."""
    model = packed(tiny("llama"))
    model.model.config.quantization_config = {"quant_method": "compressed-tensors"}
    backend = model.wrap()
    with pytest.raises(ExportError, match="is quantised"):
        backend.save_merged(batch("lora", backend, 1), tmp_path)


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_the_fingerprint_goes_by_codes_and_scales(part: str, coded: Any) -> None:
    model, backend = coded("llama")
    other = copy.deepcopy(model.model)
    assert fingerprint(other, model.tokenizer) == backend.fingerprint
    first = next(module for module in other.modules() if isinstance(module, Coded))
    getattr(first, part)[0, 0] += 1
    assert fingerprint(other, model.tokenizer) != backend.fingerprint


# ------------------------------------------------------------------ as libraries quantise

#: Multiples of what a group of 32 has, the least that they take.
_WIDTHS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def _configuration(library: str) -> Any:
    bits = transformers.BitsAndBytesConfig
    if library == "nf4":
        return bits(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    if library == "int8":
        return bits(load_in_8bit=True, llm_int8_threshold=0.0)
    from torchao.quantization import Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig())


@pytest.fixture(scope="module")
def saved(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of a small model, quantised by a library and saved by transformers."""
    folder = tmp_path_factory.mktemp("plain")
    tokenizer = tiny("llama").tokenizer
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, **_WIDTHS)
    model = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    model.save_pretrained(folder)
    made: dict[str, Path] = {}

    def get(library: str) -> Path:
        if library not in made:
            into = tmp_path_factory.mktemp(library)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, quantization_config=_configuration(library)
            )
            model.save_pretrained(into)
            tokenizer.save_pretrained(into)
            made[library] = into
        return made[library]

    return get


def _dequantized(module: Any) -> torch.Tensor:
    """A module's matrix, as its library says."""
    if type(module).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(module.weight.data, module.weight.quant_state)  # type: ignore[no-any-return]
    if type(module).__name__ == "Linear8bitLt":
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(module.weight.data, module.weight.SCB)  # type: ignore[no-any-return]
    return module.weight.dequantize()  # type: ignore[no-any-return]


_MISSING = importlib.util.find_spec("torchao") is None
LIBRARIES = (
    "nf4",
    "int8",
    pytest.param("torchao", marks=pytest.mark.skipif(_MISSING, reason="torchao is not installed")),
)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_saved_one_opens_by_its_folder_and_takes_every_delta(library: str, saved: Any) -> None:
    backend = LocalBackend(str(saved(library)))
    whole = [prefix_batch(backend, 3), *(batch(kind, backend, 3) for kind in MODULE_DELTAS)]
    for delta in whole:
        scores = backend.score(request_for(SLOT, delta)).label_logprobs
        alone = [
            backend.score(request_for(SLOT, delta.select([number]))).label_logprobs[0]
            for number in range(3)
        ]
        assert scores.std(axis=0).mean() > 0.01, delta.kind
        # These libraries compute in half precision, or round what goes in.
        np.testing.assert_allclose(scores, alone, rtol=0, atol=0.1, err_msg=delta.kind)


@pytest.mark.parametrize("library", LIBRARIES)
@torch.no_grad()
def test_matrices_are_those_of_the_library(library: str, saved: Any) -> None:
    name = "model.layers.1.mlp.down_proj"
    # Some pack their codes anew when they are first used, and can no longer tell.
    unused = transformers.AutoModelForCausalLM.from_pretrained(saved(library))
    told = _dequantized(unused.get_submodule(name)).float()
    backend = LocalBackend(str(saved(library)))
    found = matrix_of(backend._model.get_submodule(name), torch.float32)
    assert found.shape == told.shape == (64, 128)
    torch.testing.assert_close(found, told, rtol=1e-2, atol=1e-2 * float(told.abs().max()))


def test_fingerprints_tell_ways_of_quantising_apart(saved: Any) -> None:
    found = {name: LocalBackend(str(saved(name))).fingerprint for name in ("nf4", "int8")}
    assert found["nf4"] != found["int8"]


@pytest.mark.parametrize("library", LIBRARIES)
@torch.no_grad()
def test_opening_one_that_was_used_leaves_it_as_it_was(library: str, saved: Any) -> None:
    """Asking some of them for a state dict after use would change what they say."""
    place = saved(library)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
    tokens = torch.tensor([[1, 5, 9, 7]])
    before = model(tokens).logits
    with closing(LocalBackend.from_objects(model, tokenizer, name="used")) as backend:
        told = backend.fingerprint
    assert told == LocalBackend(str(place)).fingerprint
    assert model(tokens).logits.equal(before)


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_is_merged_into_them(library: str, saved: Any, tmp_path: Path) -> None:
    backend = LocalBackend(str(saved(library)))
    delta: DeltaBatch = batch("lora", backend, 1)
    with pytest.raises(ExportError, match="is quantised"):
        backend.save_merged(delta, tmp_path)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("library", ["nf4", "int8"])
def test_peft_puts_the_exported_adapter_on_the_quantised_model(
    library: str, kind: str, saved: Any, tmp_path: Path
) -> None:
    place = saved(library)
    backend = LocalBackend(str(place))
    made = MODULE_DELTAS[kind](select(backend.geometry, MODULE_DELTAS[kind].targets))
    rng = np.random.default_rng(3)
    delta = made.unpack(rng.normal(0, 2.0, (1, made.size)).astype(np.float32))
    adapter = made.peft({name: value[0] for name, value in delta.tensors.items()})
    write_adapter(adapter, str(place), tmp_path)
    request = request_for(SLOT, delta)

    plain = transformers.AutoModelForCausalLM.from_pretrained(place)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    reference = Reference("causal", with_peft(plain, tmp_path).get_base_model(), tokenizer)
    with torch.no_grad():
        theirs = [[reference.score(p, c, {}) for c in CHOICES] for p in request.prompts]
    ours = backend.score(request).label_logprobs[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.1)
    untuned = backend.score(request_for(SLOT, None)).label_logprobs[0]
    assert np.abs(ours - untuned).max() > 0.5
