"""Transformers models on this machine, evaluated population by population."""

from blackbox_delta.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
