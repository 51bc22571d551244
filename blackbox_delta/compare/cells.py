"""Cells of a comparison: what one is about, what was found in it, and how that is kept as JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from blackbox_delta.compare.asking import labels_of
from blackbox_delta.compare.contract import Measured, Method, Point
from blackbox_delta.errors import DataError, RunError
from blackbox_delta.tasks import FewShotSplit, Verbalizer
from blackbox_delta.types import Backend, IntArray, Json, Vector

FORMAT = "blackbox-delta comparison cell"
VERSION = 1
#: Stands for a probability of zero, whose logarithm JSON does not know.
_LOWEST = -1e9


@dataclass(frozen=True)
class Cell:
    """One task, one seed, one method.

    Attributes:
        task: The task's name.
        split: Its examples.
        seed: Of the split and of the method.
        title: The method as it was asked for.
        method: It.
        template: What all methods share.
    """

    task: str
    split: FewShotSplit
    seed: int
    title: str
    method: Method
    template: str

    def description(self, backend: Backend) -> Json:
        """Everything that the finding depends on, but for a local model's precision and machine.

        Cells made on different machines can so be put together; each keeps the backend's identity.
        """
        described = {
            "format": FORMAT,
            "version": VERSION,
            "task": self.task,
            "data": self.split.digest(),
            "shots": self.split.shots,
            "seed": self.seed,
            "method": self.method.name,
            "settings": self.method.settings,
            "template": self.template,
            "model": backend.name,
            "fingerprint": backend.fingerprint,
        }
        # Two servers may call different models by one name, and no fingerprint tells them apart.
        if endpoint := backend.identity.get("endpoint"):
            described["endpoint"] = endpoint
        return dict(json.loads(json.dumps(described)))

    def name(self, backend: Backend) -> str:
        """What its files are called: readable, and another one for another description."""
        described = json.dumps(self.description(backend), sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:16]
        readable = f"{self.task}-{self.seed}-{self.title}"
        return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', readable)}-{digest}"

    def found(self, measured: Measured, peak_bytes: int, identity: Mapping[str, str]) -> Finding:
        """What the method found.

        Args:
            measured: What it reached.
            peak_bytes: Memory of the process at most.
            identity: Of the backend that answered.

        Raises:
            DataError: Its answers have the wrong shape or are not numbers.
        """
        labels = labels_of(self.split.train)
        verbalizer = Verbalizer(labels, labels)
        truth = verbalizer.encode(self.split.test)
        train_truth = verbalizer.encode(self.split.train)
        for answers, rows in (
            (measured.log_proba, truth),
            (measured.train_log_proba, train_truth),
        ):
            expected = (len(rows), len(labels))
            if answers.shape != expected:
                raise DataError(f"{self.title} answered {answers.shape}, not {expected}")
            if not np.isfinite(answers.max(axis=1)).all():
                raise DataError(f"{self.title} answered what is not a number")
        return Finding(
            **self._key(),
            labels=labels,
            truth=truth,
            train_truth=train_truth,
            measured=measured,
            peak_bytes=peak_bytes,
            identity={**identity, **({"dtype": measured.dtype} if measured.dtype else {})},
        )

    def refused(self, reason: str) -> Finding:
        """That the method could not be applied, and why."""
        return Finding(**self._key(), refusal=reason)

    def _key(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "seed": self.seed,
            "method": self.title,
            "shots": self.split.shots,
        }


def _none() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Finding:
    """What was found in a cell: measurements, or why there are none.

    Attributes:
        task: The task's name.
        seed: Of the split and of the method.
        method: The method as it was asked for.
        shots: Training examples per class.
        labels: The c classes, in the order of the answers' columns.
        truth: (n,) the test examples' labels.
        train_truth: (m,) the training examples' labels.
        measured: What the method reached; ``None`` if it refused.
        refusal: Why it did.
        peak_bytes: Memory of the process at most while the method ran, the open model included.
        identity: Of the backend that answered, with the precision of the model that the method
            opened where it did; empty for a refusal.
    """

    task: str
    seed: int
    method: str
    shots: int
    labels: tuple[str, ...] = ()
    truth: IntArray = field(default_factory=_none)
    train_truth: IntArray = field(default_factory=_none)
    measured: Measured | None = None
    refusal: str | None = None
    peak_bytes: int = 0
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """The precision that the model had, such as ``"bfloat16"``; empty where nobody says."""
        return precision(self.identity)

    def to_json(self) -> Json:
        """Ready for JSON, but for the identity."""
        measured = self.measured
        described: Json = {
            name: value for name, value in asdict(self).items() if name != "identity"
        }
        described |= {
            "labels": list(self.labels),
            "truth": self.truth.tolist(),
            "train_truth": self.train_truth.tolist(),
        }
        if measured is not None:
            described["measured"] |= {
                "log_proba": _listed(measured.log_proba),
                "train_log_proba": _listed(measured.train_log_proba),
                "curve": [[point.calls, point.loss] for point in measured.curve],
            }
        return described

    @classmethod
    def from_json(cls, described: Json, identity: Json) -> Finding:
        """What :meth:`to_json` made, with the identity beside it.

        Raises:
            RunError: Something is missing or of a wrong kind.
        """
        try:
            found = dict(described)
            measured = found.pop("measured")
            found["labels"] = tuple(found["labels"])
            for name in ("truth", "train_truth"):
                found[name] = np.array(found[name], dtype=np.int64)
            found["measured"] = None if measured is None else _measured(measured)
            return cls(**found, identity=dict(identity))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"the cell is incomplete: {error!r}") from error


def precision(identity: Mapping[str, str]) -> str:
    """Of a backend by its identity, such as ``"bfloat16"``; empty where nobody says."""
    return identity.get("dtype", "").removeprefix("torch.")


def _listed(log_proba: Vector) -> list[list[float]]:
    rows: list[list[float]] = np.maximum(log_proba, _LOWEST).tolist()
    return rows


def _measured(described: Json) -> Measured:
    found = dict(described)
    for name in ("log_proba", "train_log_proba"):
        found[name] = np.array(found[name], dtype=np.float64)
    found["curve"] = tuple(Point(calls, loss) for calls, loss in found["curve"])
    return Measured(**found)
