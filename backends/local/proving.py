"""A made-up request, answered by the model as its makers run it: what an engine must say of it.

Its words are given as token ids, sequences by themselves, and whole: no embeddings, no padding,
nothing shared. So an engine is found out that feeds or packs a model in a way that changes its
answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.answer_forms import continuations, maskings
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.feeding import Entrance
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.backends.local.matrices import is_quantized
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids, Piece
from blackbox_delta.errors import ModelError
from blackbox_delta.types import FloatArray, SoftSlot

#: Largest difference in log-probability between two ways of evaluating that rounding explains.
AGREEMENT = {torch.float32: 5e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


def agreement(model: Any) -> float:
    """Largest difference between two ways of evaluating a model that rounding explains.

    Quantised layers round what goes into them, or what they compute, more than the model's own
    precision says.
    """
    own = AGREEMENT.get(model.get_input_embeddings().weight.dtype, AGREEMENT[torch.float32])
    return max(own, AGREEMENT[torch.bfloat16]) if is_quantized(model) else own


def advice(model: Any) -> str:
    """What to do about a model that answers in no two ways alike."""
    if not is_quantized(model):
        return "choose another model"
    return (
        "its quantisation may let the texts of a batch change each other's answers: load it with "
        "another (for bitsandbytes' 8 bits with llm_int8_threshold=0.0), or without"
    )


#: One slot each for what an encoder and a decoder read: their tables may differ.
_FIRST, _OWN = SoftSlot("first"), SoftSlot("own")
_SOFT_TOKENS = 2


class Trial:
    """A request with a text longer than the other, soft slots and label words of several tokens.

    Two candidates have embeddings of tokens in the slots, for which the model's own answers are
    known. The slots of a third hold what no token has: it is asked about, but not compared.

    Args:
        loaded: The model, with the attention that it came with.
        mask: Id of the mask (masked models).
        slots: Whether there is anything in the slots.

    Attributes:
        prompts: What is asked.
        choices: The label words.
    """

    def __init__(self, loaded: LoadedModel, mask: int | None = None, *, slots: bool = True) -> None:
        self._loaded, self._mask = loaded, mask
        self._soft_tokens = _SOFT_TOKENS if slots else 0
        self._rng, self._pool = np.random.default_rng(0), _plain_tokens(loaded)
        # Near enough to each other to stand in one batch.
        self.prompts = [self._prompt(size) for size in (9, 4)]
        self.choices = [self._draw(1), self._draw(3), self._draw(2)]
        self._fillings = [
            {slot: self._draw(self._soft_tokens) for slot in (_FIRST, _OWN)} for _ in range(2)
        ]
        self._expected = self._by_the_book()

    def difference(self, engine: Any) -> float:
        """How far an engine's answers are from the model's own."""
        scores = engine.score(self.prompts, self.choices, self._candidates, 0).label_logprobs[:2]
        # Where the model itself answers with no number, so must the engine.
        same = np.isnan(scores) & np.isnan(self._expected)
        return float(np.where(same, 0, np.abs(scores - self._expected)).max())

    @property
    def tolerance(self) -> float:
        """The most that rounding explains."""
        return agreement(self._loaded.model)

    def _draw(self, count: int) -> Ids:
        return tuple(int(token) for token in self._rng.choice(self._pool, count))

    def _prompt(self, size: int) -> EncodedPrompt:
        if self._loaded.kind == "seq2seq":
            # The decoder's texts are of nearly the same length: together they are little padding.
            own = (self._draw(2 + size // 5), _OWN, self._draw(1))
            return EncodedPrompt((self._draw(size), _FIRST, self._draw(2)), own, ())
        after = (self._draw(2),) if self._loaded.kind == "masked" else ()
        return EncodedPrompt((), (self._draw(size), _OWN, self._draw(2)), after)

    @cached_property
    def _candidates(self) -> Candidates:
        model = self._loaded.model
        seq2seq = self._loaded.kind == "seq2seq"
        entrances = {_OWN: Entrance.of_decoder(model) if seq2seq else Entrance.of(model)}
        if seq2seq:
            entrances[_FIRST] = Entrance.of(model)
        vectors = [self._vectors(slot, each.table) for slot, each in entrances.items()]
        names = [slot.name for slot in entrances]
        starts = [self._soft_tokens * number for number in range(len(names))]
        return Candidates(
            SoftTokens(
                torch.cat(vectors, dim=1),
                dict(zip(names, starts, strict=True)),
                dict.fromkeys(names, self._soft_tokens),
            )
        )

    def _vectors(self, slot: SoftSlot, table: Any) -> torch.Tensor:
        """What three candidates have in a slot."""
        rows = [each[slot] for each in self._fillings]
        ids = torch.tensor(rows, dtype=torch.long, device=table.weight.device)
        words = table(ids).to(table.weight.dtype)
        return torch.cat([words, words.mean(dim=0, keepdim=True)])

    # -------------------------------------------------------------- the model's own answers

    def _by_the_book(self) -> FloatArray:
        """Log-probabilities (2, n, c) of the choices."""
        try:
            return np.stack([self._answers(prompt) for prompt in self.prompts], axis=1)
        except ModelError:
            raise
        except Exception as error:  # an unknown architecture may fail in any way
            raise ModelError(
                f"{self._loaded.name!r} cannot be evaluated ({type(error).__name__}: {error}); "
                "choose another model"
            ) from error

    def _answers(self, prompt: EncodedPrompt) -> FloatArray:
        """Log-probabilities (2, c) of the choices behind one prompt."""
        if self._mask is None:
            forms, leads = continuations(self.choices), False
        else:
            forms, leads = maskings(self.choices, self._mask), True
        scores = np.zeros((len(self._fillings), len(self.choices)), np.float32)
        first = self._rows(prompt.before).shape[1] - (not leads)
        heads = []
        for form in forms:
            pieces = (*prompt.before, form.filling, *prompt.after)
            logprobs = self._logprobs(self._rows(prompt.encoder), self._rows(pieces))
            heads.append(logprobs[:, : first + 1])
            for position, token, choice in form.entries:
                scores[:, choice] += logprobs[:, first + position, token]
        if self._loaded.kind == "causal":
            self._check_reads_forward(heads)
        return scores

    def _check_reads_forward(self, heads: Sequence[FloatArray]) -> None:
        """Whether what the model says of a prompt is the same whatever is written behind it."""
        gap = max((np.nanmax(np.abs(each - heads[0]), initial=0) for each in heads), default=0)
        if gap <= self.tolerance:
            return
        model, name = self._loaded.model, self._loaded.name
        if is_quantized(model):
            raise ModelError(
                f"what comes later changes what {name!r} says of a text by {gap:.2g}, in "
                f"log-probability; {advice(model)}"
            )
        raise ModelError(
            f"{name!r} is no causal model, though its class is called one: what comes later "
            "changes what it says of a text. Choose one that reads from left to right, or a "
            "masked or sequence-to-sequence model"
        )

    def _rows(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Token ids (2, m), of either candidate."""
        rows = [
            [
                token
                for each in pieces
                for token in (own[each] if isinstance(each, SoftSlot) else each)
            ]
            for own in self._fillings
        ]
        return torch.tensor(rows, device=self._loaded.model.get_input_embeddings().weight.device)

    def _logprobs(self, encoder: torch.Tensor, own: torch.Tensor) -> FloatArray:
        """Of the whole vocabulary, at every position of ``own``."""
        inputs: dict[str, Any] = {"input_ids": own, "attention_mask": torch.ones_like(own)}
        if self._loaded.kind == "seq2seq":
            inputs = {
                "input_ids": encoder,
                "attention_mask": torch.ones_like(encoder),
                "decoder_input_ids": own,
            }
        if self._loaded.kind != "masked":
            inputs["use_cache"] = False
        logits: torch.Tensor = self._loaded.model(**inputs).logits
        logprobs: FloatArray = logits.float().log_softmax(dim=-1).cpu().numpy()
        return logprobs


def _plain_tokens(loaded: LoadedModel) -> list[int]:
    """Tokens that mean nothing but themselves: neither padding nor any other special one."""
    top = min(len(loaded.model.get_input_embeddings().weight), 1000)
    special = {
        *loaded.tokenizer.all_special_ids,
        loaded.model.config.get_text_config().pad_token_id,
    }
    return [token for token in range(3, top) if token not in special]
