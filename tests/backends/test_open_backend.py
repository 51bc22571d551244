"""The one door to all models: which backend a name calls for."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from blackbox_delta.backends import open_backend
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.errors import ConfigError, MissingExtraError, RemoteError

URL = "http://127.0.0.1:9/v1"
ADDRESS = {
    "endpoint": {"base_url": URL},
    "access": {"preset": "vllm", "api": "completions", "tier": "text"},
}


@pytest.mark.parametrize("name", ["fake", "fake:other"])
@pytest.mark.parametrize("address", [None, {}])
def test_the_toy_model(name: str, address: Any) -> None:
    backend = open_backend(name, address=address)
    assert isinstance(backend, FakeBackend)
    assert backend.name == name


def test_a_saved_address() -> None:
    backend = open_backend("fake", address=ADDRESS)  # on that server, whatever its name
    assert isinstance(backend, RemoteBackend)
    assert (backend.name, backend.address) == ("fake", ADDRESS)
    backend.close()


def test_an_endpoint_is_asked() -> None:
    with pytest.raises(RemoteError, match=f"nothing answers at {URL}"):
        open_backend("m", endpoint=Endpoint(base_url=URL))


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        (None, {}, "name the model"),
        (None, {"address": {}}, "name the model"),
        (None, {"address": ADDRESS}, "name the model"),
        ("m", {"endpoint": Endpoint(base_url=URL), "device": "cpu"}, "for local models"),
        ("m", {"endpoint": Endpoint(base_url=URL), "dtype": "bf16"}, "for local models"),
        ("m", {"address": ADDRESS, "dtype": "fp32"}, "for local models"),
        ("m", {"address": ADDRESS, "endpoint": Endpoint(base_url=URL)}, "not both"),
        ("m", {"address": {"endpoint": {}}}, "damaged"),
    ],
)
def test_settings_that_contradict_each_other(model: Any, settings: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_backend(model, **settings)


def test_a_local_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_torch(name: str, *rest: Any) -> Any:
        if name == "blackbox_delta.backends.local":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(MissingExtraError, match=r"'torch'.*blackbox-delta\[local\]"):
        open_backend("some/model")
