"""Tune frozen language models without gradients.

:func:`tune` searches a low-dimensional delta for a frozen model by forward passes alone;
:class:`TunedModel` loads and answers with what was found, :class:`TunedModels` for many users at
once; :class:`BlackBoxClassifier` is the same as a scikit-learn estimator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blackbox_delta.api import tune
    from blackbox_delta.estimator import BlackBoxClassifier
    from blackbox_delta.tuned_model import TunedModel
    from blackbox_delta.tuned_models import TunedModels

__version__ = "0.1.0"
__all__ = ["BlackBoxClassifier", "TunedModel", "TunedModels", "__version__", "tune"]

_HOMES = {
    "BlackBoxClassifier": "blackbox_delta.estimator",
    "TunedModel": "blackbox_delta.tuned_model",
    "TunedModels": "blackbox_delta.tuned_models",
    "tune": "blackbox_delta.api",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that importing the package stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a prompt completes: the public names too that were not used yet."""
    return sorted({*globals(), *__all__})
