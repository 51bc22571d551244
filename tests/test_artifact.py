from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from precisions import Half
from safetensors.numpy import load_file, save

import blackbox_delta
from blackbox_delta.api import tune
from blackbox_delta.artifact import (
    ARRAYS_NAME,
    JSON_NAME,
    VERSION,
    Artifact,
    SavedMember,
    scratch_path,
    write_whole,
)
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import ArtifactError, ConfigError, FingerprintError
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member
from blackbox_delta.problem import build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Template, draw_split, load_task
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuned_models import TunedModels
from blackbox_delta.types import Json, Vector

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=2, seed=0, max_test=10)
TEXTS = [example.text for example in TASK.test[:40]]
BACKEND = FakeBackend()
WITHOUT_SLOT = "{text} It is {label}"


@dataclass(frozen=True)
class Saved:
    """A saved artifact, and what it answers."""

    folder: Path
    expected: Vector


def member(
    head: str, template: str | None = None, dimension: int = 20, weight: float = 1.0
) -> Member:
    """A member whatever a search would have chosen; with a delta if the template has a slot."""
    soft_tokens = -(-dimension // 16)
    given = Settings.of(
        {"dimension": dimension, "soft_tokens": soft_tokens, "head": head, "template": template}
    )
    problem = build_problem(BACKEND, SPLIT, given)
    z = None if problem.frame is None else 3 * np.random.default_rng(0).standard_normal(dimension)
    scores = BACKEND.score(problem.request(problem.train.prompts, problem.delta(z), 100))
    free = BACKEND.score(problem.request(problem.dev.prompts, None, 100)).candidate(0)
    fitted = make_head(head).fit(scores.candidate(0), problem.train.labels, free)
    return Member(f"{head} on {template}", problem.reader, fitted, weight, problem.frame, z)


def made(head: str, template: str | None = None, dimension: int = 20) -> Artifact:
    """An artifact of one member."""
    return Artifact.of(BACKEND, [member(head, template, dimension)])


def crowd() -> Artifact:
    """An artifact of several members: two deltas of different size, and none."""
    members = [
        member("ridge", weight=0.5),
        member("prototypes", dimension=10, weight=0.3),
        member("logistic", WITHOUT_SLOT, weight=0.2),
    ]
    return Artifact.of(BACKEND, members, sharpness=1.7)


def kept(artifact: Artifact, folder: Path) -> Saved:
    model = TunedModel(artifact, BACKEND)
    model.save(folder)
    return Saved(folder, model.log_proba(TEXTS))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return kept(made("ridge"), tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return kept(crowd(), tmp_path_factory.mktemp("several"))


@pytest.fixture(params=["saved", "several"])
def either(request: pytest.FixtureRequest) -> Saved:
    found: Saved = request.getfixturevalue(request.param)
    return found


def copied(saved: Saved, folder: Path) -> Path:
    for name in (JSON_NAME, ARRAYS_NAME):
        (folder / name).write_bytes((saved.folder / name).read_bytes())
    return folder


def described(folder: Path, change: Callable[[Json], None], *, sealed: bool = True) -> None:
    """Changes the JSON file, with a checksum that fits or the old one."""
    value = json.loads((folder / JSON_NAME).read_text())
    seal = value.pop("json_sha256")
    change(value)
    if sealed:
        seal = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    (folder / JSON_NAME).write_text(json.dumps({**value, "json_sha256": seal}))


@pytest.mark.parametrize("head", ["ridge", "logistic", "calibrated", "contextual", "plain"])
@pytest.mark.parametrize("template", [None, WITHOUT_SLOT])
def test_what_is_loaded_answers_to_the_bit(head: str, template: str | None, tmp_path: Path) -> None:
    before = TunedModel(made(head, template), BACKEND)
    before.save(tmp_path / "new" / "folder")
    after = TunedModel.load(tmp_path / "new" / "folder")
    assert after.labels == before.labels
    assert after.result == {}
    np.testing.assert_array_equal(after.log_proba(TEXTS), before.log_proba(TEXTS))
    assert (after.artifact.members[0].z is None) == (template is not None)


def test_several_members_answer_to_the_bit(several: Saved) -> None:
    after = TunedModel.load(several.folder, backend=BACKEND)
    assert [each.name for each in after.members] == [each.name for each in crowd().members]
    assert [each.weight for each in after.members] == [0.5, 0.3, 0.2]
    assert [each.delta is None for each in after.members] == [False, False, True]
    assert [each.head.kind for each in after.members] == ["ridge", "prototypes", "logistic"]
    assert after.artifact.sharpness == 1.7
    np.testing.assert_array_equal(after.log_proba(TEXTS), several.expected)


def test_pooling_is_of_the_members_alone(several: Saved) -> None:
    """Against each member saved by itself: weighted in log-probability, sharpened, normalised."""
    whole = crowd()
    mean = np.zeros_like(several.expected)
    for each in whole.members:
        alone = TunedModel(replace(whole, members=(each,), sharpness=1.0), BACKEND)
        mean += each.weight * alone.log_proba(TEXTS)
    powered = np.exp(1.7 * mean)
    expected = powered / powered.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(several.expected), expected, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_every_member_is_kept_with_arrays_of_its_own(count: int, tmp_path: Path) -> None:
    """More than ten too, whose numbers begin alike."""
    one = crowd().members[0]
    assert one.z is not None
    zs = [one.z / 2.0**number for number in range(count)]
    members = tuple(replace(one, name=str(number), z=z) for number, z in enumerate(zs))
    replace(crowd(), members=members).save(tmp_path)
    loaded = Artifact.load(tmp_path)
    assert [each.name for each in loaded.members] == [str(number) for number in range(count)]
    for each, z in zip(loaded.members, zs, strict=True):
        np.testing.assert_array_equal(each.z, z)


def test_what_is_said_of_all_members_is_that_of_the_first() -> None:
    artifact = crowd()
    assert artifact.labels == TASK.labels
    assert not artifact.uses_pairs
    paired = Template.parse("{text} and {text_pair} {label}")
    first = artifact.members[0]
    first = replace(first, reader=replace(first.reader, template=paired))
    assert replace(artifact, members=(first,)).uses_pairs


ANSWER = """
import sys, numpy
from blackbox_delta import TunedModel
texts = open(sys.argv[2], encoding="utf-8").read().split("\\0")
numpy.save(sys.argv[3], TunedModel.load(sys.argv[1]).log_proba(texts))
"""


def test_another_process_answers_to_the_bit(either: Saved, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\0".join(TEXTS), encoding="utf-8")
    answers = tmp_path / "answers.npy"
    command = [sys.executable, "-c", ANSWER, either.folder, tmp_path / "texts", answers]
    subprocess.run(command, check=True, timeout=120)
    np.testing.assert_array_equal(np.load(answers), either.expected)


def test_a_delta_really_acts(saved: Saved) -> None:
    whole = Artifact.load(saved.folder)
    [one] = whole.members
    bare = replace(whole, members=(SavedMember(one.name, one.reader, one.head),))
    assert not np.array_equal(TunedModel(bare, BACKEND).log_proba(TEXTS), saved.expected)


def test_every_member_really_acts(several: Saved) -> None:
    whole = Artifact.load(several.folder)
    for number in range(3):
        others = whole.members[:number] + whole.members[number + 1 :]
        without = TunedModel(replace(whole, members=others), BACKEND)
        assert not np.allclose(without.log_proba(TEXTS), several.expected)


def test_another_model_is_refused(saved: Saved) -> None:
    with pytest.raises(FingerprintError, match="tuned on 'fake' .* but 'fake:other'"):
        TunedModel.load(saved.folder, backend=FakeBackend("fake:other"))


def test_a_refusal_names_all_that_a_fingerprint_goes_by(saved: Saved) -> None:
    """Weights rounded to fp16 first are others: nothing need be wrong with the model."""
    named = "other weights, another configuration or another tokenizer .* is open in fp16"
    with pytest.raises(FingerprintError, match=named):
        TunedModel.load(saved.folder, backend=FakeBackend("fake:other"))


def test_a_model_that_takes_no_delta_is_refused(saved: Saved) -> None:
    with pytest.raises(ArtifactError, match="takes no soft prompts"):
        TunedModel.load(saved.folder, backend=FakeBackend(accepts=frozenset()))


def flipped(saved: Saved, folder: Path, name: str, position: int, bit: int) -> Path:
    copied(saved, folder)
    content = bytearray((folder / name).read_bytes())
    content[position % len(content)] ^= 1 << bit
    (folder / name).write_bytes(content)
    return folder


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([JSON_NAME, ARRAYS_NAME]),
    position=st.integers(0, 2**20),
    bit=st.integers(0, 7),
)
def test_a_damaged_byte_is_noticed_or_makes_no_difference(
    several: Saved, tmp_path: Path, name: str, position: int, bit: int
) -> None:
    folder = flipped(several, tmp_path, name, position, bit)
    try:
        model = TunedModel.load(folder, backend=BACKEND)
    except ArtifactError:
        return
    assert name == JSON_NAME  # white space between its words
    np.testing.assert_array_equal(model.log_proba(TEXTS), several.expected)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from([JSON_NAME, ARRAYS_NAME]), share=st.floats(0, 0.999))
def test_a_file_cut_short_is_noticed(saved: Saved, tmp_path: Path, name: str, share: float) -> None:
    copied(saved, tmp_path)
    content = (tmp_path / name).read_bytes()
    # The last byte of the JSON file is a new line, which makes no difference.
    (tmp_path / name).write_bytes(content[: int(share * (len(content) - 1))])
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_a_json_file_that_is_no_artifact_is_refused(
    content: bytes, saved: Saved, tmp_path: Path
) -> None:
    (copied(saved, tmp_path) / JSON_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=JSON_NAME):
        Artifact.load(tmp_path)


@pytest.mark.parametrize("name", [JSON_NAME, ARRAYS_NAME])
def test_a_missing_or_unreadable_file_is_named(name: str, saved: Saved, tmp_path: Path) -> None:
    (copied(saved, tmp_path) / name).unlink()
    with pytest.raises(ArtifactError, match=f"there is no {name} in"):
        Artifact.load(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        Artifact.load(tmp_path)


def test_a_newer_version_is_refused_as_such(saved: Saved, tmp_path: Path) -> None:
    described(copied(saved, tmp_path), lambda value: value.update(version=VERSION + 1, more="new"))
    with pytest.raises(ArtifactError, match=f"of version {VERSION + 1}, this package reads"):
        Artifact.load(tmp_path)


def test_an_older_version_is_refused_as_such(saved: Saved, tmp_path: Path) -> None:
    def older(value: Json) -> None:
        value.update(value.pop("members")[0], version=VERSION - 1)

    described(copied(saved, tmp_path), older)
    with pytest.raises(
        ArtifactError, match=f"of version {VERSION - 1}, this package reads version {VERSION}; use"
    ):
        Artifact.load(tmp_path)


class Remote(FakeBackend):
    """The toy model as if it stood somewhere."""

    @property
    def address(self) -> Json:
        return {"base_url": "http://127.0.0.1:8000/v1", "nested": {"tiers": [1, 2]}}


def test_the_address_is_kept_and_given_to_whoever_opens_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Remote()
    artifact = Artifact.of(backend, [member("plain", WITHOUT_SLOT)])
    artifact.save(tmp_path)
    assert Artifact.load(tmp_path).address == backend.address
    asked: list[tuple[str, Json]] = []

    def opened(model: str, **given: Any) -> FakeBackend:
        asked.append((model, given))
        return backend

    monkeypatch.setattr("blackbox_delta.tuned_model.open_backend", opened)
    assert TunedModel.load(tmp_path, device="cpu").backend is backend
    assert asked == [("fake", {"device": "cpu", "dtype": None, "address": backend.address})]


@pytest.mark.parametrize(("asked", "got"), [(None, "bf16"), ("fp32", "fp32")])
@pytest.mark.parametrize("name", [None, "fake:moved"])
def test_a_local_model_is_opened_in_the_precision_that_it_was_tuned_in(
    asked: str | None,
    got: str,
    name: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Artifact.of(Half(), [member("plain", WITHOUT_SLOT)]).save(tmp_path)
    precisions: list[str | None] = []

    def opened(_model: str, *, dtype: str | None, **_given: Any) -> FakeBackend:
        precisions.append(dtype)
        return Half()

    monkeypatch.setattr("blackbox_delta.tuned_model.open_backend", opened)
    monkeypatch.setattr("blackbox_delta.backends.open_backend", opened)
    TunedModel.load(tmp_path, backend=name, dtype=asked)
    TunedModels.load({"a": tmp_path}, backend=name, dtype=asked)
    assert precisions == [got, got]


def test_artifacts_that_say_nothing_of_precision_are_read(saved: Saved, tmp_path: Path) -> None:
    described(copied(saved, tmp_path), lambda value: value.pop("dtype"))
    assert Artifact.load(tmp_path).dtype is None


class Elsewhere(FakeBackend):
    """The toy model as if it stood behind a server that wants a key."""

    @property
    def address(self) -> Json:
        endpoint = {"base_url": "https://x/v1", "key_env": "MY_KEY", "key_file": "/my/key"}
        return {"endpoint": endpoint, "access": {"tier": "text"}}


def test_which_key_is_sent_is_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = {"endpoint": {"base_url": "https://x/v1"}, "access": {"tier": "text"}}
    artifact = Artifact.of(Elsewhere(), [member("plain", WITHOUT_SLOT)])
    assert artifact.address == bare
    told = replace(artifact, address=Elsewhere().address)
    told.save(tmp_path)
    assert json.loads((tmp_path / "artifact.json").read_text())["address"] == bare
    with monkeypatch.context() as patch:
        patch.setattr("blackbox_delta.artifact._KEY", ())  # as earlier versions wrote it
        told.save(tmp_path)
    assert "MY_KEY" in (tmp_path / "artifact.json").read_text()
    assert Artifact.load(tmp_path).address == bare


def test_the_user_says_which_key_is_sent() -> None:
    artifact = Artifact.of(Elsewhere(), [member("plain", WITHOUT_SLOT)])
    for said in ({"key_env": "OTHER"}, {"key_file": "/other"}):
        endpoint = {"base_url": "https://x/v1", **said}
        assert artifact.address_with(**said)["endpoint"] == endpoint
    assert artifact.address_with() == artifact.address
    local = Artifact.of(FakeBackend(), [member("plain", WITHOUT_SLOT)])
    with pytest.raises(
        ConfigError, match=r"local model; leave --key-file \(in Python key_file\) out"
    ):
        local.address_with(key_file="/other")
    with pytest.raises(ConfigError, match="address of the model is damaged"):
        replace(artifact, address={"endpoint": 3}).address_with("OTHER")


def test_an_edited_label_is_noticed(saved: Saved, tmp_path: Path) -> None:
    described(copied(saved, tmp_path), lambda value: value["labels"].reverse(), sealed=False)
    with pytest.raises(ArtifactError, match="damaged or was edited"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["members"][0].pop("template"),
        lambda value: value["members"][0].update(template="{text}"),
        lambda value: value["members"][0].update(label_words=["only one"]),
        lambda value: value["members"][0].update(weight="heavy"),
        lambda value: value["members"].clear(),
        lambda value: value["members"].append(value["members"][0]),
        lambda value: value["members"].append("another"),
        lambda value: value.update(members=3),
        lambda value: value.pop("sharpness"),
        lambda value: value.update(sharpness=None),
        lambda value: value.update(labels=["a", "a"]),
        lambda value: value.update(labels=3),
        lambda value: value.pop("address"),
        lambda value: value.update(address="http://127.0.0.1"),
        lambda value: value.update(address=None),
        lambda value: value.update(dtype="int3"),
        lambda value: value.update(dtype=[]),
        lambda value: value["members"][0].update(head="tail"),
        lambda value: value["members"][0].update(head="calibrated"),
    ],
)
def test_a_sealed_file_with_nonsense_in_it_is_refused(
    change: Callable[[Json], None], saved: Saved, tmp_path: Path
) -> None:
    described(copied(saved, tmp_path), change)
    with pytest.raises(ArtifactError):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["subspace"].update(seed=7),
        lambda one: one["delta"].update(slots=[]),
        lambda one: one["delta"].update(hidden=17),
        lambda one: one["subspace"].pop("seed"),
        lambda one: one["subspace"].update(kind="low-rank", shapes=[["x"]]),
        lambda one: one["subspace"].update(kind=["low-rank"]),
        lambda one: one.update(subspace=3),
        lambda one: one.update(delta=3),
        lambda one: one.update(checksum="00"),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_a_delta_that_cannot_be_rebuilt_is_refused(
    number: int, change: Callable[[Json], Any], several: Saved, tmp_path: Path
) -> None:
    described(copied(several, tmp_path), lambda value: change(value["members"][number]))
    with pytest.raises(ArtifactError):
        TunedModel.load(tmp_path, backend=BACKEND)


@pytest.mark.parametrize("change", ["drop", "rename", "shape", "nan"])
def test_arrays_that_do_not_belong_to_their_member_are_refused(
    change: str, several: Saved, tmp_path: Path
) -> None:
    """With checksums that fit, as whoever writes such a file by hand would make them."""
    arrays = load_file(copied(several, tmp_path) / ARRAYS_NAME)
    z = arrays.pop("1.z")
    if change == "rename":
        arrays["7.z"] = z
    elif change == "shape":
        arrays["1.z"] = z[:-1]
    elif change == "nan":
        arrays["1.z"] = np.full_like(z, np.nan)
    blob = save(arrays)
    (tmp_path / ARRAYS_NAME).write_bytes(blob)
    digest = hashlib.sha256(blob).hexdigest()
    described(tmp_path, lambda value: value.update(arrays_sha256=digest))
    with pytest.raises(ArtifactError):
        TunedModel.load(tmp_path, backend=BACKEND)


def test_it_takes_a_few_kilobytes_at_the_default_dimension(tmp_path: Path) -> None:
    made("ridge", dimension=500).save(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 16 * 1024
    assert load_file(tmp_path / ARRAYS_NAME)["0.z"].nbytes == 2000


def test_nothing_in_the_package_unpickles() -> None:
    unsafe = re.compile(r"(import|from) +(pickle|joblib|dill)|allow_pickle=True|torch\.load\(")
    package = Path(blackbox_delta.__file__).parent
    backends = package / "backends"  # perhaps a link, which rglob does not follow
    files = [*package.rglob("*.py"), *backends.resolve().rglob("*.py")]
    assert {"artifact.py", "loading.py"} <= {path.name for path in files}
    for path in files:
        assert not unsafe.search(path.read_text(encoding="utf-8")), path


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here already")
    with pytest.raises(ArtifactError, match="cannot be written into"):
        made("plain").save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here already"


def test_writing_replaces_a_file_whole_and_leaves_no_scratch(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    scratch_path(path).write_bytes(b"half of an earlier wri")
    write_whole({path: b"one"})
    write_whole({path: b"two"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"two"


def test_a_disk_that_fills_up_leaves_all_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is written by then."""
    before = {tmp_path / name: name.encode() for name in "ab"}
    write_whole(before)

    def full(descriptor: int) -> None:
        if scratch_path(tmp_path / "b").exists():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(dict.fromkeys(before, b"new"))
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()
    write_whole(dict.fromkeys(before, b"new"))
    assert sorted(tmp_path.iterdir()) == sorted(before)


def test_labels_and_words_of_any_script_survive(tmp_path: Path) -> None:
    words = {label: f"{label} — «{number}» 語" for number, label in enumerate(TASK.labels)}
    given: dict[str, Any] = {"shots": 4, "label_words": words, "budget": "9 calls"}
    given["template"] = "{{{text}}} 📦 {label}"
    model = tune(BACKEND, TASK, out=tmp_path / "run", max_test=4, **given)
    again = TunedModel.load(tmp_path / "run", backend=BACKEND)
    assert [each.reader for each in again.members] == [each.reader for each in model.members]
    assert any("📦 account — «0» 語" in view.reader.template.source for view in again.members)
    np.testing.assert_array_equal(again.log_proba(TEXTS), model.log_proba(TEXTS))
