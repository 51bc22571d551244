"""From the name of a model to weights and tokenizer.

A name is a hub id, a folder, a GGUF file, or ``pkg:NAME``: the model file inside an installed
distribution of that name. GGUF files are converted once into the user's cache folder.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
import transformers

from blackbox_delta.backends.local.matrices import is_quantized
from blackbox_delta.backends.packaged import packaged_file
from blackbox_delta.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_AUTO = {
    "causal": transformers.AutoModelForCausalLM,
    "masked": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}


@dataclass(frozen=True)
class LoadedModel:
    """Weights, tokenizer and what kind of model it is."""

    name: str
    kind: str
    model: Any
    tokenizer: Any


def choose_device(device: str | None) -> torch.device:
    """The named device, or CUDA where there is one.

    Raises:
        ConfigError: It is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in {"cpu", "cuda"}:
        raise ConfigError(f"unknown device {device!r}; choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but torch sees no CUDA device; use cpu")
    return torch.device(device)


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The named precision; by default fp32 on a CPU, bf16 (else fp16) on a GPU.

    Raises:
        ConfigError: No such precision.
    """
    if dtype is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load(name: str, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """Loads a model by name. A folder or file is called by its absolute path from then on.

    Raises:
        ModelError: It cannot be found, read, or is of no known kind.
    """
    place, name = model_folder(name), lasting_name(name)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
            kind = model_kind(config, getattr(config, "architectures", None) or (), name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            model, report = _AUTO[kind].from_pretrained(
                place, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
            model = model.to(device).eval()
    except ModelError:
        raise
    except Exception as error:  # readers of broken files raise anything
        reason = str(error).strip().splitlines()
        told = reason[0].rstrip(".") if reason else type(error).__name__
        raise ModelError(
            f"cannot load the model {name!r}: {told}. "
            "Give a hub id, a folder with config.json and weights, a .gguf file, or pkg:NAME for "
            "a model inside an installed distribution"
        ) from error
    learned = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    if missing := sorted(learned & set(report["missing_keys"])):
        raise ModelError(
            f"the weights of {name!r} lack {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}: they were not saved from a language "
            "model, and what is missing would be random"
        )
    return LoadedModel(name, kind, model, tokenizer)


def check_unadapted(loaded: LoadedModel) -> None:
    """Checks that no adapter of PEFT's is in a model.

    Its layers would pass for the model's own: deltas would act at them, and a model merged with a
    delta would be written without its weights.

    Raises:
        ModelError: There is one.
    """
    model = loaded.model
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"{loaded.name!r} holds an adapter of PEFT's; merge it into the weights first, with "
            "PeftModel's merge_and_unload(), and open what that gives"
        )


@torch.no_grad()
def wake(loaded: LoadedModel) -> None:
    """Calls a quantised model once, for some libraries unpack its weights only then.

    compressed-tensors does so when the whole model is called, not a part of it.

    Raises:
        ModelError: It cannot be called.
    """
    model = loaded.model
    if not is_quantized(model):
        return
    ids = torch.zeros((1, 1), dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    own = {"decoder_input_ids": ids} if loaded.kind == "seq2seq" else {}
    try:
        model(input_ids=ids, **own)
    except Exception as error:  # of whatever library quantised it
        raise ModelError(
            f"{loaded.name!r} cannot be called as it is quantised: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars off the terminal."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


@contextmanager
def sound_generation(model: Any) -> Iterator[None]:
    """Lets a model be saved whose settings for writing text contradict each other.

    Some are published with a temperature and no sampling, which transformers reads and does not
    write. They are put back as they were.
    """
    given = getattr(model, "generation_config", None)
    if given is not None and not given.do_sample:
        try:
            given.validate(strict=True)
        except ValueError:
            model.generation_config = copy.deepcopy(given)
            model.generation_config.do_sample = True
    try:
        yield
    finally:
        if given is not None:
            model.generation_config = given


def model_kind(config: Any, classes: Sequence[str], name: str) -> str:
    """``"causal"``, ``"masked"`` or ``"seq2seq"``.

    Args:
        config: The model's configuration.
        classes: Names of its classes, as in the configuration's ``architectures``.
        name: What the user calls it.

    Raises:
        ModelError: None of these.
    """
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    for found in classes:
        if found.endswith("ForMaskedLM"):
            return "masked"
        if found.endswith(("ForCausalLM", "LMHeadModel")):
            return "causal"
    raise ModelError(
        f"{name!r} is a {config.model_type} model without a language-model head "
        f"(classes: {', '.join(classes) or 'none named'}); a causal, masked or "
        "sequence-to-sequence language model is needed"
    )


def cache_folder() -> Path:
    """Where converted models are kept; ``BLACKBOX_DELTA_CACHE`` overrides it."""
    override = os.environ.get("BLACKBOX_DELTA_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("blackbox-delta")


def model_folder(name: str) -> str:
    """The folder that holds the named model, a GGUF file converted; a hub id stays what it is.

    Raises:
        ModelError: There is no such model, or its GGUF file cannot be converted.
    """
    if name.startswith("pkg:"):
        return str(_converted(packaged_file(name.removeprefix("pkg:"))))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {path}")
        return str(_converted(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"the folder {path} has no config.json: not a Hugging Face model")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"no such model folder: {path}")
    return name


def lasting_name(name: str) -> str:
    """The name by which a model is found from any working directory."""
    path = Path(name).expanduser()
    here = path.suffix == ".gguf" or path.is_dir()
    return str(path.absolute()) if here and not name.startswith("pkg:") else name


def _converted(gguf: Path) -> Path:
    """The folder that holds this GGUF file's weights as safetensors; made on first use."""
    folder = cache_folder() / "converted" / f"{gguf.stem}-{_content_digest(gguf)}"
    if not (folder / "config.json").is_file():
        logger.info("converting %s once into %s", gguf.name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
        try:
            _convert(gguf, scratch)
            _put_in_place(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _put_in_place(scratch: Path, folder: Path) -> None:
    try:
        scratch.replace(folder)
    except OSError:
        # Another process was faster; its result is the same.
        if not (folder / "config.json").is_file():
            raise


def _convert(gguf: Path, into: Path) -> None:
    place, file = str(gguf.parent), gguf.name
    try:
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                place, gguf_file=file, dtype=torch.float32
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=file)
    except Exception as error:  # readers of broken files raise anything
        raise ModelError(
            f"cannot convert the GGUF file {gguf.name}: {error or type(error).__name__}. The file "
            "may be damaged or of an architecture that transformers does not read"
        ) from error
    # A model that came from GGUF refuses to be saved: its weights go into a plain one.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _content_digest(path: Path, blocks: int = 64, block: int = 1 << 16) -> str:
    """Identifies a large file by its size and evenly spaced blocks of it."""
    size = path.stat().st_size
    state = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for index in range(blocks):
            file.seek(max(0, size - block) * index // max(1, blocks - 1))
            state.update(file.read(block))
    return state.hexdigest()[:16]
