"""The other side of the wire: models that can be called."""

from __future__ import annotations

from blackbox_delta.errors import MissingExtraError
from blackbox_delta.types import Backend

__all__ = ["open_backend"]


def open_backend(model: str, *, device: str | None = None, dtype: str | None = None) -> Backend:
    """The backend that a model's name calls for.

    Args:
        model: ``fake`` or ``fake:NAME`` for the toy model, else a local model: a hub id, a
            folder, a GGUF file or ``pkg:NAME``.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``; by default fp32 on a CPU, bf16 on a GPU.

    Raises:
        ModelError: The model cannot be found or loaded.
        MissingExtraError: Local models need torch and transformers, and they are not installed.
    """
    if model == "fake" or model.startswith("fake:"):
        from blackbox_delta.backends.fake import FakeBackend

        return FakeBackend(model)
    try:
        from blackbox_delta.backends.local import LocalBackend
    except ModuleNotFoundError as error:
        package = error.name or "torch"
        raise MissingExtraError(package, "local", f"running the model {model!r} here") from None
    return LocalBackend(model, device=device, dtype=dtype)
