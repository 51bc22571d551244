"""Deltas inside the model, a population in one pass, against one changed model per candidate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from by_the_book import CHOICES, TARGETS, Reference, batch, request_for
from changed_models import (
    SLOT,
    changed,
    columns_first,
    encoder_rows,
    expected,
    prefix_batch,
    prefixed_scores,
    with_peft,
)

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.backends.local.batching import MemoryLimit
from blackbox_delta.backends.local.inside import Inside
from blackbox_delta.backends.local.passes import Passes
from blackbox_delta.backends.local.terms import Factors
from blackbox_delta.deltas import MODULE_DELTAS, LoRA, Prefix
from blackbox_delta.deltas.targets import select
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.exports import write_adapter
from blackbox_delta.types import AnswerSlot, DeltaBatch, ScoreRequest, Words

ARCHITECTURES = [
    *"llama gpt2 qwen3 mistral gemma3 opt gpt_neox bloom qwen2_moe bert distilbert".split(),  # noqa: SIM905
    *"t5 bart switch nllb_moe".split(),  # noqa: SIM905
]
SHARING = "llama gpt2 qwen3 mistral gemma3 opt gpt_neox".split()  # noqa: SIM905


@pytest.mark.parametrize("kind", MODULE_DELTAS)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_a_population_answers_as_changed_models_do(
    model: str, kind: str, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    request = request_for(SLOT, batch(kind, backend, 3))

    scores = backend.score(request).label_logprobs

    assert scores.std(axis=0).mean() > 0.05  # otherwise the comparison could not fail
    np.testing.assert_allclose(scores, expected(tiny(model), request), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize(
    "kinds", [("lora", "bitfit"), ("lora", "bitfit", "adapter"), ("ia3", "adapter")], ids="+".join
)
def test_kinds_act_together_with_soft_prompts(
    model: str, kinds: tuple[str, ...], tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    backend = tiny_backend(model)
    first, *others = (batch(kind, backend, 2, seed) for seed, kind in enumerate(kinds))
    beside = (*others, soft_prompt(2, 32, a=2))
    request = request_for(SLOT, replace(first, beside=beside))

    scores = backend.score(request).label_logprobs

    np.testing.assert_allclose(scores, expected(tiny(model), request), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", MODULE_DELTAS)
@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "bart"])
def test_at_zero_the_model_is_the_untuned_one(model: str, kind: str, tiny_backend: Any) -> None:
    backend = tiny_backend(model)
    geometry = backend.geometry
    delta = MODULE_DELTAS[kind].build(select(geometry, TARGETS[kind]), geometry)
    nothing = delta.unpack(np.zeros((2, delta.size), np.float32))
    untuned = backend.score(request_for(SLOT, None)).label_logprobs

    scores = backend.score(request_for(SLOT, nothing)).label_logprobs

    np.testing.assert_allclose(scores, np.repeat(untuned, 2, axis=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "t5"])
def test_the_model_is_left_as_it_was(model: str, tiny_backend: Any) -> None:
    """Bit for bit: weights, hooks and what it answers next."""
    backend = tiny_backend(model)
    untuned = request_for(SLOT, None)
    before = backend.score(untuned).label_logprobs
    weights = {name: value.clone() for name, value in backend._model.state_dict().items()}

    for kind in MODULE_DELTAS:
        backend.score(request_for(SLOT, batch(kind, backend, 2)))

    assert np.array_equal(backend.score(untuned).label_logprobs, before)
    for name, value in backend._model.state_dict().items():
        assert value.equal(weights[name])
    hooks = [m for m in backend._model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks
    assert not [module for module in backend._model.modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("kind", MODULE_DELTAS)
def test_hooks_go_even_when_a_forward_pass_fails(
    kind: str, tiny_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny_backend("llama")
    request = request_for(SLOT, batch(kind, backend, 2))
    last = backend._model.model.layers[-1].mlp

    with monkeypatch.context() as broken:
        broken.setattr(last, "forward", lambda *_args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backend.score(request)

    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backend._model.modules())


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_entries_that_matter_most_are_those_of_large_weights_and_inputs(
    model: str, tiny: Any, tiny_backend: Any
) -> None:
    """Told by numpy from what goes into the module, on tokens of the test's own."""
    backend = tiny_backend(model)
    module = next(each for each in backend.geometry.modules if each.linear)
    chosen = backend.geometry.salient(module.name, 20)
    part = tiny(model).model.get_submodule(module.name)
    weight = part.weight.detach().numpy()
    matrix = np.abs(weight.T if columns_first(part) else weight)
    importance = matrix[list(chosen.rows), list(chosen.columns)] * np.array(chosen.levels)
    assert (np.diff(importance) < 1e-2 * importance[0]).all()
    assert len(set(zip(chosen.rows, chosen.columns, strict=True))) == 20
    typical = np.median(matrix) * np.median(chosen.levels)
    assert importance.min() > 2 * typical
    assert len(backend.geometry.salient(module.name, 10**9).rows) == matrix.size


# --------------------------------------------------------------- the decoder alone


def test_terms_in_the_decoder_leave_the_encoder_to_all(tiny: Any) -> None:
    import torch

    backend = tiny("t5").wrap()
    delta = LoRA(select(backend.geometry, r"decoder\..*\.[qv]"))
    rng = np.random.default_rng(0)
    changes = delta.unpack(rng.normal(0, 1.0, (3, delta.size)).astype(np.float32))
    request = request_for(SLOT, changes, CHOICES)
    read = encoder_rows(backend)

    scores = backend.score(request).label_logprobs

    assert sum(read) == len(request.prompts)
    assert scores.std(axis=0).mean() > 0.05
    with torch.no_grad():
        for row in range(3):
            model = changed(tiny("t5"), changes, row)
            reference = Reference("seq2seq", model, tiny("t5").tokenizer)
            plain = [[reference.score(p, c, {}) for c in CHOICES] for p in request.prompts]
            np.testing.assert_allclose(scores[row], plain, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------ prefixes


@pytest.mark.parametrize("layers", [None, [1]], ids=["every layer", "the second"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside LoRA"])
@pytest.mark.parametrize("model", SHARING)
def test_prefixes_answer_as_through_transformers_cache(
    model: str, beside: bool, layers: list[int] | None, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    delta = prefix_batch(backend, 2, layers)
    if beside:
        delta = replace(delta, beside=(batch("lora", backend, 2),))
    request = request_for(SLOT, delta)

    scores = backend.score(request).label_logprobs

    np.testing.assert_allclose(scores, prefixed_scores(tiny(model), request), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["gpt2", "qwen3", "gemma3", "opt", "gpt_neox"])
def test_a_prefix_at_zero_is_its_words(model: str, tiny_backend: Any) -> None:
    backend = tiny_backend(model)
    delta = Prefix(backend.geometry, backend.embedding_table.tokenize(" good film"))
    words = backend.score(
        request_for(lambda text: [Words(f" good film{text}"), AnswerSlot()], None, [" great"])
    )
    nothing = delta.unpack(np.zeros((2, delta.size), np.float32))

    scores = backend.score(
        request_for(lambda text: [Words(text), AnswerSlot()], nothing, [" great"])
    )

    expected = np.repeat(words.label_logprobs, 2, axis=0)
    np.testing.assert_allclose(scores.label_logprobs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["bloom", "mpnet", "prophetnet", "nllb_moe"])
def test_models_that_take_no_prefix_say_what_they_take(model: str, tiny_backend: Any) -> None:
    tensors = {"0.keys": np.zeros((1, 4, 2, 8), np.float32)}

    with pytest.raises(UnsupportedError, match="takes adapter, bitfit, .* not 'prefix'"):
        tiny_backend(model).score(request_for(SLOT, DeltaBatch("prefix", tensors, (1, 2))))


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (DeltaBatch("lora", {f"{Q}.lora_A": np.zeros((1, 4, 31), np.float32),
                             f"{Q}.lora_B": np.zeros((1, 32, 4), np.float32)}),
         r"q_proj.lora_A' has shape \(1, 4, 31\); this model takes \(candidates, rank, 32\)"),
        (DeltaBatch("bitfit", {f"{Q}.offset": np.zeros((1, 32, 1), np.float32)}),
         r"takes \(candidates, 32\)"),
        (DeltaBatch("bitfit", {"model.z.offset": np.zeros((1, 32), np.float32)}),
         "no module 'model.z'"),
        (DeltaBatch("bitfit", {f"{Q}.hat": np.zeros((1, 32), np.float32)}),
         "no tensor that acts at a module"),
        (DeltaBatch("tiny-lora", {"model.norm.core": np.zeros((1, 2, 2), np.float32)}),
         "acts on a matrix, and 'model.norm' has none"),
        (DeltaBatch("prefix", {"².keys": np.zeros((1, 2, 1, 8), np.float32)}, (5,)),
         "is no part of a prefix"),
        (DeltaBatch("prefix", {"0.keys": np.zeros((1, 2, 3, 8), np.float32)}, (5,)),
         r"takes \(candidates, 2, 1, 8\)"),
        (DeltaBatch("prefix", {"2.keys": np.zeros((1, 2, 1, 8), np.float32)}, (5,)),
         "these are '0.keys' to '1.values'"),
        (DeltaBatch("soft-prompt", {"a": np.zeros((1, 2, 32), np.float32)}, (),
                    (DeltaBatch("soft-prompt", {"b": np.zeros((1, 2, 32), np.float32)}),)),
         "one soft-prompt can act at a time, not 2"),
        (DeltaBatch("soft-prompt", {"a": np.zeros((2, 2, 32), np.float32)}, (),
                    (DeltaBatch("bitfit", {f"{Q}.offset": np.zeros((1, 32), np.float32)}),)),
         "tensors are of 1 and 2 candidates"),
        (DeltaBatch("soft-prompt", {"a": np.zeros((0, 2, 32), np.float32)}),
         "tensors are of 0 candidates"),
        (DeltaBatch("soft-prompt", {}), "the soft-prompt delta has no tensors"),
        (DeltaBatch("deep-prompt", {"a": np.zeros((1, 2, 32), np.float32),
                                    "a@1": np.zeros((1, 3, 32), np.float32)}),
         r"'a@1' has shape \(1, 3, 32\); this model takes \(candidates, 2, 32\)"),
        (DeltaBatch("lora", {f"{Q}.lora_A": np.zeros((1, 4, 32), np.float32)}),
         "lora needs lora_A and lora_B at a module, not lora_A as at"),
        (DeltaBatch("bitfit", {f"{Q}.weight": np.zeros((1, 32, 32), np.float32)}),
         "bitfit needs offset at a module, not weight as at"),
        (DeltaBatch("lora", {f"{Q}.lora_A": np.zeros((1, 4, 32), np.float32),
                             f"{Q}.lora_B": np.zeros((1, 32, 3), np.float32)}),
         r"lora_B' has shape \(1, 32, 3\); this model takes \(candidates, 32, 4\)"),
        (DeltaBatch("tiny-lora", {f"{Q}.core": np.zeros((1, 2, 3), np.float32)}),
         r"core' has shape \(1, 2, 3\)"),
        (DeltaBatch("tiny-lora", {f"{Q}.core": np.zeros((1, 40, 40), np.float32)}),
         "rank 40 is more than the 32 singular vectors"),
        (DeltaBatch("sparse", {f"{Q}.values": np.zeros((1, 1), np.float32),
                               f"{Q}.rows": np.full((1, 1), 32, np.float32),
                               f"{Q}.columns": np.zeros((1, 1), np.float32)}),
         "rows of .*q_proj' are from 0 to 31, not 32 to 32"),
        (DeltaBatch("prefix", {"0.keys": np.zeros((1, 2, 1, 8), np.float32)}, (99999,)),
         "a prefix begins with token 99999"),
    ],
)  # fmt: skip
def test_deltas_that_do_not_fit_are_refused(
    delta: DeltaBatch, message: str, tiny_backend: Any
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        tiny_backend("llama").score(request_for(SLOT, delta))


# --------------------------------------------------------- each prompt under its own


def check_assigned(backend: Any, request: ScoreRequest) -> None:
    """Against the same pairs among all of them, which the tests above compare with the book."""
    every = backend.score(request)
    own = [2, 0, 2]

    scores = backend.score(replace(request, assignment=tuple(own)))

    for name in ("label_logprobs", "top_logprobs"):
        expected = getattr(every, name)[own, np.arange(3)][None]
        np.testing.assert_allclose(getattr(scores, name), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(scores.top_ids, every.top_ids[own, np.arange(3)][None])
    assert every.label_logprobs.std(axis=0).mean() > 0.05
    assert scores.usage.queries == 3


@pytest.mark.parametrize("kind", MODULE_DELTAS)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_prompts_answer_under_candidates_of_their_own(
    model: str, kind: str, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    check_assigned(backend, request_for(SLOT, batch(kind, backend, 3), top_k=4))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside LoRA"])
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_prompts_read_soft_prompts_of_their_own(
    model: str, beside: bool, tiny_backend: Any, soft_prompt: Any
) -> None:
    backend = tiny_backend(model)
    delta = soft_prompt(3, 32, a=2)
    if beside:
        delta = replace(batch("lora", backend, 3), beside=(delta,))
    check_assigned(backend, request_for(SLOT, delta, top_k=4))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside LoRA"])
@pytest.mark.parametrize("model", [*SHARING, "bert", "distilbert", "roberta", "t5", "bart"])
def test_prompts_stand_behind_prefixes_of_their_own(
    model: str, beside: bool, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    delta = prefix_batch(backend, 3)
    if beside:
        delta = replace(delta, beside=(batch("lora", backend, 3),))
    check_assigned(backend, request_for(SLOT, delta, top_k=4))


@pytest.mark.parametrize("model", ["llama", "bert", "t5"])
def test_rows_with_candidates_of_their_own_go_in_parts_where_memory_is_short(
    model: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates' tensors take room too: here they let no two rows through at once."""
    backend = tiny(model).wrap()
    monkeypatch.setattr(MemoryLimit, "of_own", lambda _self, _rows, _bytes_each: 1)
    check_assigned(backend, request_for(SLOT, batch("lora", backend, 3), top_k=4))


@pytest.mark.parametrize("assignment", [(0, 1), (0, 1, 3), (0, 1, -1)])
def test_assignments_that_name_no_candidate_are_refused(
    assignment: tuple[int, ...], tiny_backend: Any
) -> None:
    backend = tiny_backend("llama")
    request = request_for(SLOT, batch("lora", backend, 3))

    with pytest.raises(UnsupportedError, match="must name one of 3 candidates for each of 3"):
        backend.score(replace(request, assignment=assignment))
    with pytest.raises(UnsupportedError, match="must name one of 0 candidates"):
        backend.score(replace(request, delta=None, assignment=(0, 0, 0)))


# ----------------------------------------------------------------------------- PEFT


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("model", ["llama", "qwen3", "opt", "bloom", "bert", "t5"])
def test_peft_answers_the_same_with_the_exported_adapter(
    model: str, kind: str, tiny: Any, tiny_backend: Any, tmp_path: Any
) -> None:
    import torch

    backend = tiny_backend(model)
    made = MODULE_DELTAS[kind](select(backend.geometry, MODULE_DELTAS[kind].targets))
    rng = np.random.default_rng(3)
    delta = made.unpack(rng.normal(0, 2.0, (1, made.size)).astype(np.float32))
    adapter = made.peft({name: value[0] for name, value in delta.tensors.items()})
    write_adapter(adapter, "tiny", tmp_path)
    request = request_for(SLOT, delta)

    base = with_peft(tiny(model).model, tmp_path).get_base_model()
    reference = Reference(tiny(model).kind, base, tiny(model).tokenizer)
    with torch.no_grad():
        theirs = [[reference.score(p, c, {}) for c in CHOICES] for p in request.prompts]
    ours = backend.score(request).label_logprobs[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert not np.allclose(ours, backend.score(request_for(SLOT, None)).label_logprobs, atol=1e-2)


@pytest.mark.parametrize("part", ["scale_in", "scale_out"])
def test_small_scales_are_not_lost_in_half_precision(part: str) -> None:
    """bf16 has 1 and 1.0078 and nothing between; what is beyond one it can hold."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64)).to(torch.bfloat16)
    scales = DeltaBatch("ia3", {f"0.{part}": np.full((1, 64), 1.003, np.float32)})
    [own] = Inside.of(model, [scales], model[0].weight, 1, Factors(torch.float32)).steps
    values = torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(0)).bfloat16()

    taken = values.clone()
    moved = own.before(taken) if part == "scale_in" else own.after(taken, taken)

    growth = float(moved.double().abs().sum() / values.double().abs().sum())
    assert growth == pytest.approx(1.003, abs=2e-4)


def test_channels_that_are_not_innermost_are_left_alone(tiny: Any) -> None:
    """SqueezeBERT's norms see tokens innermost."""
    tokenizer = tiny("bert").tokenizer
    config = transformers.SqueezeBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, embedding_size=32, q_groups=1, k_groups=1, v_groups=1,
        post_attention_groups=1, intermediate_groups=1, output_groups=1,
    )  # fmt: skip
    model = transformers.SqueezeBertForMaskedLM(config).eval()
    backend = LocalBackend.from_objects(model, tokenizer, name="squeezed")
    names = [module.name for module in select(backend.geometry, "all")]
    assert names
    assert not [name for name in names if ".layers." in name]


def test_a_model_may_change_what_it_is_given(tiny: Any) -> None:
    """CTRL multiplies the embeddings that it is given, in place."""
    tokenizer = tiny("gpt2").tokenizer
    config = transformers.CTRLConfig(
        vocab_size=len(tokenizer), n_embd=32, dff=48, n_layer=2, n_head=4, n_positions=256
    )
    model = transformers.CTRLLMHeadModel(config).eval()
    backend = LocalBackend.from_objects(model, tokenizer, name="changing")
    delta = batch("bitfit", backend, 3)
    together = backend.score(request_for(SLOT, delta)).label_logprobs
    alone = [
        backend.score(request_for(SLOT, delta.select([row]))).label_logprobs for row in range(3)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-4)


def test_beginnings_under_many_candidates_stay_within_the_limit(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long instruction has keys and values of its own under each candidate."""
    backend = tiny("llama").wrap()
    request = request_for(
        lambda text: [
            Words("read what follows with care, then answer: "),
            Words(text),
            AnswerSlot(),
        ],
        batch("lora", backend, 9),
    )
    whole = backend.score(request).label_logprobs
    held: list[int] = []
    opening = Passes.opening

    def noted(passes: Passes, *given: Any) -> Any:
        found = opening(passes, *given)
        held.append(found.nbytes)
        return found

    monkeypatch.setattr(Passes, "opening", noted)
    backend.score(request)
    [together] = held
    backend._limit._bytes = together // 3
    parts = backend.score(request).label_logprobs

    assert len(held) > 3
    assert max(held[1:]) <= together // 3
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-4)
