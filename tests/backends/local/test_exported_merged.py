"""Models with a delta in their weights, as transformers loads them: the same answers there."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_the_book import request_for
from exported import AFTER, ARCHITECTURES, FRONT, by_the_book, check_the_same, said
from kept import kept

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.errors import ExportError
from blackbox_delta.exports import export_merged
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import AnswerSlot, DeltaBatch, Words


def with_transformers(kind: str, folder: Path) -> Any:
    """The saved model, as anybody loads it; the report says what it lacks."""
    import transformers

    loader = {
        "causal": transformers.AutoModelForCausalLM,
        "masked": transformers.AutoModelForMaskedLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[kind]
    model, report = loader.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


MERGED = "lora ia3 tiny-lora selective last-layer sparse lora+ia3 ia3+tiny-lora+lora".split()  # noqa: SIM905


def check_merged(given: TunedModel, folder: Path) -> None:
    """The merged model on its own, evaluated plainly, answers as the delta makes the open one."""
    backend = given.backend
    before = said(given, untuned=True)
    weights = {name: value.clone() for name, value in backend._model.state_dict().items()}

    export_merged(given, folder)

    model = with_transformers(backend._loaded.kind, folder)
    check_the_same(given, by_the_book(given, model, transformers_tokenizer(folder)))
    assert np.array_equal(said(given, untuned=True), before)
    for name, value in backend._model.state_dict().items():
        assert value.equal(weights[name])


def transformers_tokenizer(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("delta", MERGED)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_transformers_loads_a_merged_model(
    model: str, delta: str, tiny: Any, tmp_path: Path
) -> None:
    check_merged(kept(tiny(model).wrap(), delta, AFTER), tmp_path)


@pytest.mark.parametrize("delta", ["selective", "lora+ia3"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "t5"])
def test_a_large_delta_is_merged_module_by_module(
    model: str, delta: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 0)
    check_merged(kept(tiny(model).wrap(), delta, AFTER), tmp_path)


def test_what_scales_both_inputs_and_outputs_is_merged(tiny_backend: Any, tmp_path: Path) -> None:
    """No delta of this package makes such candidates, but a request may."""
    backend, name = tiny_backend("llama"), "model.layers.0.mlp.down_proj"
    rng = np.random.default_rng(0)
    parts = {
        f"{name}.scale_in": rng.normal(0, 0.5, (1, 48)).astype(np.float32),
        f"{name}.scale_out": rng.normal(0, 0.5, (1, 32)).astype(np.float32),
    }
    delta = DeltaBatch("ia3", parts)
    backend.save_merged(delta, tmp_path)

    model = with_transformers("causal", tmp_path)
    merged = LocalBackend.from_objects(model, transformers_tokenizer(tmp_path), name="merged")
    request = request_for(lambda text: [Words(text), AnswerSlot()], None)
    np.testing.assert_allclose(
        merged.score(request).label_logprobs,
        backend.score(replace(request, delta=delta)).label_logprobs,
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.model
def test_a_real_model_is_merged_and_loaded(smollm2: LocalBackend, tmp_path: Path) -> None:
    check_merged(kept(smollm2, "lora+ia3", AFTER), tmp_path)


@pytest.mark.parametrize("model", ["gpt2", "opt", "bert"])
@pytest.mark.parametrize("delta", ["bitfit", "lora+bitfit", "bitfit+ia3"])
def test_offsets_are_merged_where_every_module_has_one(
    model: str, delta: str, tiny: Any, tmp_path: Path
) -> None:
    check_merged(kept(tiny(model).wrap(), delta, AFTER), tmp_path)


@pytest.mark.parametrize(
    ("model", "delta", "told", "message"),
    [
        ("llama", "adapter", {}, "can say what its adapter does"),
        (
            "llama",
            "prefix",
            {},
            "its prefix does; these kinds can be merged.*: bitfit, ia3, last-layer",
        ),
        ("llama", "soft-prompt", {}, "what its soft-prompt does"),
        ("llama", "lora+adapter", {}, "can say what its adapter does"),
        ("llama", "bitfit", {}, "layernorm is a LlamaRMSNorm, into which nothing can be merged"),
        ("llama", "bitfit", {"targets": "q_proj"}, "q_proj has no bias that an offset"),
    ],
)
def test_what_weights_cannot_say_is_refused(
    model: str, delta: str, told: dict[str, Any], message: str, tiny: Any, tmp_path: Path
) -> None:
    template = FRONT if delta.startswith("soft") else AFTER
    with pytest.raises(ExportError, match=message):
        export_merged(kept(tiny(model).wrap(), delta, template, **told), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_half_a_model_is_not_left_behind(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the weights are there, but not the tokenizer."""
    backend = tiny("llama").wrap()

    def full(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend._loaded.tokenizer, "save_pretrained", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export_merged(kept(backend, "lora", AFTER), tmp_path)
    assert not list(tmp_path.iterdir())


def test_modules_that_share_their_weights_are_not_merged(tiny: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny("llama").model)
    one, other = model.model.layers
    one.mlp.up_proj.weight = other.mlp.up_proj.weight
    backend = type(tiny("llama"))("causal", model, tiny("llama").tokenizer).wrap()

    with pytest.raises(ExportError, match=r"up_proj and .*up_proj share their weights"):
        export_merged(kept(backend, "lora", AFTER, targets="up_proj"), tmp_path)


def test_a_folder_with_something_in_it_is_left_alone(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ExportError, match=r"is not empty; name a new one"):
        export_merged(kept(tiny("llama").wrap(), "lora", AFTER), tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"


@pytest.mark.parametrize("delta", ["lora", "selective", "sparse"])
def test_linear_layers_of_a_model_s_own_class_are_merged_into(
    delta: str, tiny: Any, tmp_path: Path
) -> None:
    check_merged(kept(tiny("falcon").wrap(), delta, AFTER), tmp_path)


def test_a_linear_layer_that_does_more_is_left_alone(tiny: Any, tmp_path: Path) -> None:
    import torch

    class Doubled(torch.nn.Linear):
        def forward(self, states: Any) -> Any:
            return 2 * super().forward(states)

    model = copy.deepcopy(tiny("llama").model)
    model.model.layers[0].mlp.up_proj.__class__ = Doubled
    backend = type(tiny("llama"))("causal", model, tiny("llama").tokenizer).wrap()

    with pytest.raises(ExportError, match="up_proj is a Doubled, into which nothing"):
        export_merged(kept(backend, "lora", AFTER, targets="up_proj"), tmp_path / "model")


def test_settings_for_writing_that_contradict_each_other_are_no_hindrance(
    tiny: Any, tmp_path: Path
) -> None:
    """As some models are published."""
    model = copy.deepcopy(tiny("llama").model)
    model.generation_config.do_sample, model.generation_config.temperature = False, 0.6
    given = copy.deepcopy(model.generation_config)
    own = type(tiny("llama"))("causal", model, tiny("llama").tokenizer)

    check_merged(kept(own.wrap(), "lora", AFTER), tmp_path)

    assert model.generation_config == given
