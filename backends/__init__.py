"""The other side of the wire: models that can be called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox_delta.errors import ConfigError, MissingExtraError
from blackbox_delta.types import Backend, Capabilities, Json

if TYPE_CHECKING:
    from blackbox_delta.backends.remote import Endpoint

__all__ = ["open_backend", "opened"]


def open_backend(
    model: str | None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    endpoint: Endpoint | None = None,
    address: Json | None = None,
) -> Backend:
    """The backend that a model's name calls for.

    Args:
        model: ``fake`` or ``fake:NAME`` for the toy model; with an endpoint the model's name on
            that server; else a local model: a hub id, a folder, a GGUF file or ``pkg:NAME``.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one. Local models only.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``; by default fp32 on a CPU, bf16 on a GPU.
            Local models only.
        endpoint: The server that the model is called on. It is asked what it offers, which takes
            some 20 queries.
        address: ``Backend.address`` of the same model at an earlier time: it is called as it was
            then, and asked nothing. One that a saved run keeps names no key; see
            :meth:`blackbox_delta.artifact.Artifact.address_with`.

    Raises:
        ModelError: The model cannot be found or loaded.
        RemoteError: The server cannot be reached, or does not serve the model.
        ConfigError: No model is named, or the settings contradict each other.
        MissingExtraError: Local models need torch and transformers, and they are not installed.
    """
    if endpoint is not None or address:
        if device is not None or dtype is not None:
            raise ConfigError("device and dtype are for local models; leave them out for a server")
        if endpoint is not None and address:
            raise ConfigError("a server is asked (endpoint) or used as before (address), not both")
        return _remote(model, endpoint, address)
    if model is None:
        raise ConfigError(
            "name the model (--model), or the server that it is called on (--base-url)"
        )
    if not isinstance(model, str):
        raise ConfigError(f"model must be a model's name, not a {type(model).__name__}")
    if model == "fake" or model.startswith("fake:"):
        from blackbox_delta.backends.fake import FakeBackend

        return FakeBackend(model)
    try:
        from blackbox_delta.backends.local import LocalBackend
    except ModuleNotFoundError as error:
        package = error.name or "torch"
        raise MissingExtraError(package, "local", f"running the model {model!r} here") from None
    return LocalBackend(model, device=device, dtype=dtype)


def opened(model: str | Backend) -> Backend:
    """A model that is open already, as it is, or the one of a name.

    Args:
        model: An open backend, or what :func:`open_backend` takes.

    Raises:
        ConfigError: It is neither.
        BlackBoxDeltaError: As :func:`open_backend`.
    """
    if isinstance(model, str):
        return open_backend(model)
    if not isinstance(getattr(model, "capabilities", None), Capabilities):
        kind = type(model).__name__
        raise ConfigError(f"model must be a model's name or an open backend, not a {kind}")
    return model


def _remote(model: str | None, endpoint: Endpoint | None, address: Json | None) -> Backend:
    from blackbox_delta.backends.remote.opening import open_remote, reopen

    if endpoint is not None:
        return open_remote(model, endpoint)
    return reopen(model or "", address or {})
