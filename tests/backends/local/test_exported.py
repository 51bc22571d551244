"""What tuned models hand on, loaded by the packages that it is for: the same answers there."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_the_book import TEXTS

from blackbox_delta.artifact import Artifact
from blackbox_delta.errors import ExportError
from blackbox_delta.exports import export_peft
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member
from blackbox_delta.problem import build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example

EXAMPLES = (Example("the film was great", None, "good"), Example("a dull plot", None, "bad"))
SPLIT = FewShotSplit(EXAMPLES, EXAMPLES, (), 0, 1)
#: A word of several tokens and one of one, in most tokenizers; labels in their order.
WORDS = {"bad": "terrible dull", "good": "great"}
AFTER = "{text}. It was {label}"
FRONT = "{soft:3} " + AFTER
DECODERS = "llama gpt2 qwen3 mistral gemma3 opt gpt_neox".split()  # noqa: SIM905


def tuned(backend: Any, delta: str, template: str, size: float = 1.0, **told: Any) -> TunedModel:
    """A model with a delta that moves it by much, as a search would leave it."""
    settings = Settings(
        recipe="search",
        delta=delta,
        template=template,
        dimension=20,
        label_words=WORDS,
        delta_settings=told,
    )
    problem = build_problem(backend, SPLIT, settings)
    [seen] = backend.score(problem.request(problem.train.prompts, None))
    head = make_head("plain").fit(seen, problem.train.labels, None)
    z = size * np.random.default_rng(0).standard_normal(20)
    member = Member("delta", problem.reader, head, frame=problem.frame, z=z)
    return TunedModel(Artifact.of(backend, [member]), backend)


def said(model: TunedModel, *, untuned: bool = False) -> np.ndarray:
    """Log-probabilities (n, c) of the label words."""
    [member] = model.members
    prompts = member.reader.prompts([Example(text) for text in TEXTS])
    request = member.request(prompts, 0, "test")
    if untuned:
        request = type(request)(request.prompts, request.choices)
    return model.backend.score(request).label_logprobs[0]


def with_peft(base: Any, folder: Path) -> Any:
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that it has given up.
        warnings.filterwarnings("ignore", r".*is_gradient_checkpointing", FutureWarning)
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


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
    given = tuned(tiny(model).wrap(), "soft-prompt", FRONT)
    expected = said(given)

    export_peft(given, tmp_path)

    # The end of an encoder's input; what opens a text is part of the prompt.
    closing = [tiny(model).tokenizer.eos_token_id] if model in {"t5", "bart"} else []
    wrapped = with_peft(tiny(model).model, tmp_path)
    theirs = scored(tiny(model), wrapped, " {}. It was", closing=closing)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)
    assert not np.allclose(expected, said(given, untuned=True), atol=1e-2)


@pytest.mark.parametrize("layers", ["0,1", "1"])
@pytest.mark.parametrize("model", DECODERS)
def test_peft_puts_a_prefix_in_front(model: str, layers: str, tiny: Any, tmp_path: Path) -> None:
    backend = tiny(model).wrap()
    given = tuned(backend, "prefix", AFTER, tokens=3, layers=layers)
    expected = said(given)

    export_peft(given, tmp_path)

    wrapped = with_peft(tiny(model).model, tmp_path)
    opening = backend.embedding_table.opening
    assert bool(opening) == (model in {"llama", "mistral"})
    theirs = scored(tiny(model), wrapped, "{}. It was", opening)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)
    assert not np.allclose(expected, said(given, untuned=True), atol=1e-2)


def test_an_adapter_says_what_it_is_and_whose(tiny: Any, tmp_path: Path) -> None:
    export_peft(tuned(tiny("llama").wrap(), "prefix", AFTER, tokens=3), tmp_path)

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
        export_peft(tuned(tiny(model).wrap(), delta, template), tmp_path)
    assert not list(tmp_path.iterdir())
