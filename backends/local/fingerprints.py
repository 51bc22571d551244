"""What tells one model from another: all of its weights, its configuration and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch

from blackbox_delta.backends.local.matrices import answer_to_nothing, is_coded, matrix_of

#: Numbers of a tensor that are summed up together, and how many such rows are worked on at a time:
#: 2 MB of float64.
_ROW, _ROWS = 2**12, 2**6

#: What a configuration says of how a model is held, or of what it puts out beside its logits.
_IMMATERIAL = frozenset(
    {
        "architectures",
        "attn_implementation",
        "dtype",
        "experts_implementation",
        "id2label",
        "label2id",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)

#: Texts that tokenizers have met with different answers: spaces, case, digits, accents, signs.
_TEXTS = ("It was great", " it  WAS\n1234.5", "Ça va, naïve œuvre? 你好 🙂")

_Json: TypeAlias = Mapping[str, Any]


def fingerprint(model: Any, tokenizer: Any) -> str:
    """Identifies weights, configuration and tokenizer, the same on every device.

    Weights count with the bits that bfloat16 has: loaded in fp32 and in bf16, a model is the same.
    In fp16 its numbers may be rounded twice, and then it is another one; so it is where a device
    computes its quantised modules otherwise.
    """
    state = hashlib.sha256()
    # Tied weights are the same numbers under several names.
    known: dict[int, bytes] = {}
    dtype = model.get_input_embeddings().weight.dtype
    for name, held in sorted(_held(model).items()):
        if id(held) not in known:
            known[id(held)] = b"".join(_told_by(held, dtype))
        state.update(name.encode())
        state.update(known[id(held)])
    state.update(_canonical([type(model).__name__, _told(model.config)]))
    state.update(_canonical(_habits(tokenizer)))
    return state.hexdigest()[:32]


def _held(model: torch.nn.Module) -> dict[str, torch.Tensor | torch.nn.Module]:
    """What a model would be saved with, by name: tensors, and whole modules that are quantised.

    Its state dict is not asked for: libraries pack codes anew when a module is first used, and some
    do not find back from that without changing what it says.
    """
    found: dict[str, torch.Tensor | torch.nn.Module] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if is_coded(module):
            found[path] = module
            continue
        passing = module._non_persistent_buffers_set
        saved = {name: each for name, each in module._buffers.items() if name not in passing}
        for name, value in {**module._parameters, **saved}.items():
            if value is not None:
                found[f"{path}.{name}" if path else name] = value
    return found


def _told_by(held: torch.Tensor | torch.nn.Module, dtype: torch.dtype) -> Iterator[bytes]:
    """Shapes and sums; of a quantised module those of what it does, whatever it keeps."""
    if isinstance(held, torch.nn.Module):
        values = [matrix_of(held, dtype), answer_to_nothing(held, dtype)]
    else:
        values = [held]
    for value in values:
        yield str(tuple(value.shape)).encode()
        yield from _sums(value)


def _sums(value: torch.Tensor) -> Iterator[bytes]:
    """Two sums for each row of a tensor's numbers, plain and weighted by their places.

    They are sums of whole numbers below 2^53 in float64, so nothing is rounded, and they are the
    same in whatever order a device adds.
    """
    flat = value.detach().reshape(-1)
    ones = torch.ones(_ROW, dtype=torch.float64, device=flat.device)
    weights = torch.stack([ones, ones.cumsum(0)], dim=1)
    for part in torch.split(flat, _ROW * _ROWS):
        numbers = _whole_numbers(part)
        missing = -len(numbers) % _ROW
        rows = torch.nn.functional.pad(numbers, (0, missing)).view(-1, _ROW)
        yield (rows @ weights).cpu().numpy().astype("<i8").tobytes()


def _whole_numbers(part: torch.Tensor) -> torch.Tensor:
    """The bits of real numbers as bfloat16, 16 at a time; those of others as they are."""
    if part.is_floating_point():
        return part.to(torch.bfloat16).view(torch.int16).to(torch.float64)
    return part.contiguous().view(torch.uint8).to(torch.float64)


def _told(config: Any) -> _Json:
    """What a configuration says beyond its kind's defaults: later versions have more of these."""
    try:
        default: _Json = type(config)().to_dict()
    except Exception:  # some consist of others, and cannot be made without them
        default = {}
    return _beyond(config.to_dict(), default)


def _beyond(told: _Json, default: _Json) -> _Json:
    kept = {}
    for name, value in told.items():
        usual = default.get(name)
        if name.startswith("_") or name in _IMMATERIAL or value == usual:
            continue
        nested = isinstance(value, dict)
        kept[name] = _beyond(value, usual if isinstance(usual, dict) else {}) if nested else value
    return kept


def _habits(tokenizer: Any) -> list[Any]:
    """All that a tokenizer does, or, where it cannot be told, its vocabulary and what it shows."""
    # Asked first: a text that is to be neither cut nor padded resets what earlier ones left.
    ids = [list(tokenizer(text)["input_ids"]) for text in _TEXTS]
    mask = tokenizer.special_tokens_map.get("mask_token")
    if tokenizer.is_fast:
        return [ids, mask, tokenizer.backend_tokenizer.to_str()]
    return [ids, mask, sorted(tokenizer.get_vocab().items())]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
