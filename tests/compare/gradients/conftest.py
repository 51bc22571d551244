"""A tiny Llama with large random weights in a folder, and trials for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.compare.contract import Trial
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Example

TEMPLATE = "Text: {text}\nIn one word, it is {label}"
GOOD = [
    "a fine film",
    "the story moves me",
    "so much warmth",
    "I laughed and cried with joy",
    "wow",
]
BAD = [
    "a dull film",
    "the plot goes nowhere",
    "far too long",
    "I fell asleep in the first half",
    "no",
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["it is great or terrible", "Text: In one word, it is good", *GOOD, *BAD]
    tokenizer.train_from_iterator(words * 8, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, as anyone's would be kept."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    tokenizer = _tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, **SIZES
    )
    model = transformers.LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(0.3 * noise if "norm" not in name else value + 0.1 * noise)
    place = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def make_trial(folder: Path) -> Callable[..., Trial]:
    """Trials of five examples a class; ``make_trial(words={"good": "bad", "bad": "good"})``."""

    def make(
        *,
        words: Mapping[str, str] | None = None,
        seed: int = 0,
        shots: int = 16,
        template: str = TEMPLATE,
        model: str | None = None,
    ) -> Trial:
        train = [
            Example(text, label=label)
            for pair in zip(GOOD, BAD, strict=True)
            for text, label in zip(pair, ("good", "bad"), strict=True)
        ]
        dev = [Example(f"{each.text} indeed", label=each.label) for each in train[:6]]
        test = [Example(f"well, {each.text}", label=each.label) for each in train[:4]]
        split = FewShotSplit(tuple(train), tuple(dev), tuple(test), shots, seed)
        words = words or {"good": "great", "bad": "terrible"}
        return Trial(
            split, model or str(folder), template, words, seed, FakeBackend(), Path("unused")
        )

    return make
