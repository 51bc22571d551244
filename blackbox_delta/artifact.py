"""What a run leaves behind: portable deltas and heads, as JSON and safetensors.

A delta itself is not stored: its starting token ids, the subspace's seed and z rebuild it to
the bit, so it takes a few kilobytes; a subspace that earlier runs span is stored whole. A checksum
of θ proves it. The fingerprint of the
model it belongs to goes with it, and another model is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.deltas import delta_from_config
from blackbox_delta.errors import ArtifactError, ConfigError, FingerprintError
from blackbox_delta.heads import head_from_state
from blackbox_delta.members import Member
from blackbox_delta.problem import Frame, Reader
from blackbox_delta.subspaces import subspace_from_config
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import Backend, FittedHead, Json, Vector

FORMAT = "blackbox-delta artifact"
VERSION = 4
JSON_NAME = "artifact.json"
ARRAYS_NAME = "artifact.safetensors"
_HEAD, _SUBSPACE = "head.", "subspace."
#: What an address may say of a key, in its endpoint.
_KEY = ("key_env", "key_file")
#: Precisions as a local model is asked for in them, by what a backend's identity calls them.
_PRECISIONS = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}

ONE_IN_FP16 = (
    "or one of the two is open in fp16, which rounds weights to others than fp32 and bf16 do"
)
"""Why fingerprints of one model can differ."""


@dataclass(frozen=True)
class SavedMember:
    """A member as it is kept: what rebuilds it on the model it was tuned on.

    Attributes:
        name: What reports call it.
        reader: Template and label words.
        head: The fitted output side.
        weight: Its say among the members.
        delta: ``Delta.config()``, or ``None`` where no delta was kept.
        subspace: ``Subspace.config()``, likewise.
        z: (d,), likewise.
        checksum: SHA-256 of the delta's exact bytes, likewise.
        subspace_arrays: ``Subspace.arrays()``; often none.
    """

    name: str
    reader: Reader
    head: FittedHead
    weight: float = 1.0
    delta: Json | None = None
    subspace: Json | None = None
    z: Vector | None = None
    checksum: str | None = None
    subspace_arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, member: Member) -> SavedMember:
        """What is to be kept of a member."""
        bare = cls(member.name, member.reader, member.head, member.weight)
        frame, z = member.frame, member.z
        if frame is None or z is None:
            return bare
        z = frame.subspace.snap(z)
        return replace(
            bare,
            delta=frame.delta.config(),
            subspace=frame.subspace.config(),
            z=z,
            checksum=frame.candidates(z[None]).checksum(0).hex(),
            subspace_arrays=frame.subspace.arrays(),
        )

    def rebuild(self, backend: Backend) -> Member:
        """The member on ``backend``, its delta the same to the bit.

        Raises:
            ArtifactError: The rebuilt delta is not the one that was saved.
        """
        bare = Member(self.name, self.reader, self.head, self.weight)
        if self.delta is None or self.subspace is None or self.z is None:
            return bare
        try:
            frame = Frame(
                delta_from_config(self.delta, backend.embedding_table, backend.geometry),
                subspace_from_config(self.subspace, self.subspace_arrays),
            )
            rebuilt = replace(bare, frame=frame, z=self.z)
            same = rebuilt.delta is not None and rebuilt.delta.checksum(0).hex() == self.checksum
            # Many tuned models may be open at a time, and none is searched any more.
            frame.subspace.forget()
        except ConfigError as error:
            raise ArtifactError(f"the saved delta cannot be rebuilt: {error}") from error
        if not same:
            raise ArtifactError(
                "the delta rebuilt from z and its seed is not the one that was saved: the model is "
                "loaded in another precision, or the artifact is damaged"
            )
        return rebuilt

    # ------------------------------------------------------------------ on disk

    def to_json(self) -> Json:
        """All but the arrays."""
        return {
            "name": self.name,
            "template": self.reader.template.source,
            "label_words": list(self.reader.verbalizer.words),
            "head": self.head.kind,
            "weight": self.weight,
            "delta": self.delta,
            "subspace": self.subspace,
            "checksum": self.checksum,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The head's state, z, and what the subspace keeps."""
        arrays = {_HEAD + name: np.asarray(value) for name, value in self.head.state().items()}
        arrays |= {_SUBSPACE + name: value for name, value in self.subspace_arrays.items()}
        if self.z is not None:
            arrays["z"] = self.z.astype("<f4")  # exact: z was snapped to the subspace's steps
        return arrays

    @classmethod
    def from_parts(
        cls, labels: tuple[str, ...], described: Json, arrays: Mapping[str, NDArray[Any]]
    ) -> SavedMember:
        """The inverse of :meth:`to_json` and :meth:`arrays`."""
        reader = Reader(
            Template.parse(described["template"]),
            Verbalizer(labels, tuple(described["label_words"])),
        )
        z = arrays.get("z")
        of_delta = (described["delta"], described["subspace"], z, described["checksum"])
        if len({part is None for part in of_delta}) > 1:
            raise ValueError("a part of a delta is missing")
        return cls(
            described["name"],
            reader,
            head_from_state(described["head"], _within(_HEAD, arrays)),
            float(described["weight"]),
            described["delta"],
            described["subspace"],
            None if z is None else z.astype(np.float64),
            described["checksum"],
            _within(_SUBSPACE, arrays),
        )


@dataclass(frozen=True)
class Artifact:
    """Everything needed to answer as the tuned model does, but the model.

    Attributes:
        model: The model's name as the user gave it.
        fingerprint: Of its weights, configuration and tokenizer.
        members: What answers, the weightiest first; at least one.
        sharpness: A factor on the members' pooled log-probabilities.
        address: Where the model is reached, beside its name. On disk it holds neither a key nor
            where one is: whoever is given the folder must not be led to send theirs.
        dtype: The precision of a local model, as :func:`blackbox_delta.backends.open_backend` takes
            it: in another one it answers otherwise. ``None`` where nobody says.
    """

    model: str
    fingerprint: str
    members: tuple[SavedMember, ...]
    sharpness: float = 1.0
    address: Json = field(default_factory=dict)
    dtype: str | None = None

    @classmethod
    def of(cls, backend: Backend, members: Sequence[Member], sharpness: float = 1.0) -> Artifact:
        """The artifact of what answers on ``backend``."""
        saved = tuple(SavedMember.of(member) for member in members)
        address, dtype = _keyless(backend.address), precision_of(backend)
        return cls(backend.name, backend.fingerprint, saved, sharpness, address, dtype)

    @property
    def labels(self) -> tuple[str, ...]:
        """The c classes."""
        return self.members[0].reader.verbalizer.labels

    @property
    def uses_pairs(self) -> bool:
        """Whether it was tuned on pairs of texts."""
        return self.members[0].reader.template.uses_pair

    def address_with(self, key_env: str | None = None, key_file: str | Path | None = None) -> Json:
        """The address, and which key its server is sent; the latter is the user's to say.

        Args:
            key_env: The environment variable that holds the key.
            key_file: A file that holds it. Without either a server gets the key that its kind is
                known for, and only at that kind's own hosts or on this machine.

        Raises:
            ConfigError: It was tuned on a local model, which takes no key, or the address is
                damaged.
        """
        given = {"key_env": key_env, "key_file": None if key_file is None else str(key_file)}
        key = {name: value for name, value in given.items() if value is not None}
        if not key:
            return self.address
        if not self.address:
            option = next(iter(key))
            written = f"--{option.replace('_', '-')} (in Python {option})"
            raise ConfigError(f"this run was tuned on a local model; leave {written} out")
        endpoint = self.address.get("endpoint")
        if not isinstance(endpoint, dict):
            raise ConfigError("the saved address of the model is damaged; tune it again")
        return {**self.address, "endpoint": {**endpoint, **key}}

    def rebuild(self, backend: Backend) -> tuple[Member, ...]:
        """What answers, rebuilt on ``backend``.

        Raises:
            FingerprintError: The backend holds another model.
            ArtifactError: A rebuilt delta is not the one that was saved.
        """
        if backend.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"this delta was tuned on {self.model!r} (fingerprint {self.fingerprint[:12]}…), "
                f"but {backend.name!r} has other weights, another configuration or another "
                f"tokenizer (fingerprint {backend.fingerprint[:12]}…), {ONE_IN_FP16}; load it with "
                "the model it was tuned on, and in a dtype that rounds alike"
            )
        return tuple(member.rebuild(backend) for member in self.members)

    # ------------------------------------------------------------------ on disk

    def save(self, folder: Path) -> None:
        """Writes ``artifact.json`` and ``artifact.safetensors``, each at once or not at all.

        Raises:
            ArtifactError: They cannot be written.
        """
        from safetensors.numpy import save

        arrays = {
            f"{number}.{name}": np.ascontiguousarray(value)
            for number, member in enumerate(self.members)
            for name, value in member.arrays().items()
        }
        blob = save(arrays)
        described = self._to_json(blob)
        described["json_sha256"] = _digest(described)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole({folder / ARRAYS_NAME: blob, folder / JSON_NAME: json_bytes(described)})
        except OSError as error:
            raise ArtifactError(
                f"the artifact cannot be written into {folder}: {error.strerror}"
            ) from error

    def _to_json(self, blob: bytes) -> Json:
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "address": _keyless(self.address),
            "dtype": self.dtype,
            "fingerprint": self.fingerprint,
            "labels": list(self.labels),
            "members": [member.to_json() for member in self.members],
            "sharpness": self.sharpness,
            "arrays_sha256": hashlib.sha256(blob).hexdigest(),
        }

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtifactError: There is no artifact, or it is damaged or of another version.
        """
        described = _read_json(folder / JSON_NAME)
        blob = _read_bytes(folder / ARRAYS_NAME)
        if hashlib.sha256(blob).hexdigest() != described.get("arrays_sha256"):
            raise ArtifactError(
                f"{folder / ARRAYS_NAME} is damaged: its checksum is not the one in {JSON_NAME}"
            )
        try:
            return cls._from_parts(described, _arrays(blob))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ArtifactError(
                f"{folder / JSON_NAME} is incomplete or of another version: {error!r}"
            ) from error

    @classmethod
    def _from_parts(cls, described: Json, arrays: Mapping[str, NDArray[Any]]) -> Artifact:
        labels = tuple(described["labels"])
        members = tuple(
            SavedMember.from_parts(labels, part, _within(f"{number}.", arrays))
            for number, part in enumerate(described["members"])
        )
        if not members:
            raise ValueError("no members")
        return cls(
            described["model"],
            described["fingerprint"],
            members,
            float(described["sharpness"]),
            _keyless(described["address"]),
            _precision(described.get("dtype")),  # earlier versions did not write it down
        )


def precision_of(backend: Backend) -> str | None:
    """The precision of a local model, as it is asked for; ``None`` where nobody says."""
    return None if backend.address else _PRECISIONS.get(backend.identity.get("dtype", ""))


def _precision(described: object) -> str | None:
    if described is None or described in _PRECISIONS.values():
        return None if described is None else str(described)
    raise ValueError(f"unknown precision {described!r}")


def _keyless(address: Json) -> Json:
    """The address without what it says of a key; earlier versions wrote that down."""
    endpoint = address.get("endpoint")
    if not isinstance(endpoint, dict):
        return dict(address)
    return {**address, "endpoint": {k: v for k, v in endpoint.items() if k not in _KEY}}


def _within(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def scratch_path(path: Path) -> Path:
    """Where :func:`write_whole` writes before it replaces the file."""
    return path.with_name(f".{path.name}.new")


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Replaces files at once: whoever reads one sees the old content or the new, never half.

    All are written before the first is replaced, so that a full disk leaves all as they were.
    """
    for path, content in files.items():
        with scratch_path(path).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for path in files:
        scratch_path(path).replace(path)


def json_bytes(value: Json) -> bytes:
    """What a JSON file holds."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Json) -> None:
    """Replaces a JSON file at once."""
    write_whole({path: json_bytes(value)})


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(
            f"there is no {path.name} in {path.parent}: not the folder of a finished run"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _read_json(path: Path) -> Json:
    raw = _read_bytes(path)
    try:
        described = json.loads(raw)
    # Brackets without end are a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not an artifact of this package")
    if described.get("version") != VERSION:
        raise ArtifactError(
            f"{path} is of version {described.get('version')}, this package reads version "
            f"{VERSION}; use the version of the package that wrote it, or tune again"
        )
    if described.pop("json_sha256", None) != _digest(described):
        raise ArtifactError(
            f"{path} is damaged or was edited: its checksum is wrong; restore it from a copy"
        )
    return described


def _digest(described: Json) -> str:
    """SHA-256 over the content, however it is laid out."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _arrays(blob: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(blob))
    except SafetensorError as error:
        raise ArtifactError(f"{ARRAYS_NAME} is damaged: {error}") from error
