"""Tuning in the span of what was tuned on other tasks, inside a real architecture."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import AFTER
from kept import kept

import blackbox_delta.seeds
from blackbox_delta.api import tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.earlier import read_earlier
from blackbox_delta.errors import ConfigError
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member
from blackbox_delta.problem import build_problem
from blackbox_delta.seeds import tune_over_seeds
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, task_from_lists
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example

QUALITY = {"good": ["great", "wonderful", "good"], "bad": ["terrible", "bad", "dull"]}
SIZE = {"big": ["huge", "large", "long"], "small": ["tiny", "little", "short"]}
AGE = {"new": ["fresh", "young", "modern"], "old": ["ancient", "aged", "late"]}
SEARCH: dict[str, Any] = {
    "recipe": "search",
    "population": 10,
    "budget": "300 calls",
    "head": "calibrated",
    "scale": 1.0,
    "dimension": 20,
    "template": "{text}. It was {label}",
}


def split(words: Mapping[str, Sequence[str]]) -> FewShotSplit:
    examples = tuple(
        Example(f"the {what} was {word}", None, label)
        for label, those in words.items()
        for word in those
        for what in ("film", "plot", "acting", "music")
    )
    return FewShotSplit(examples[::2], examples[1::2], (), 0, 6)


@pytest.mark.parametrize("delta", ["lora", "bitfit"])
def test_a_third_task_is_tuned_in_the_span_of_two(delta: str, tiny: Any, tmp_path: Path) -> None:
    backend, runs = tiny("llama").wrap(), [tmp_path / "quality", tmp_path / "size"]
    for words, run in zip((QUALITY, SIZE), runs, strict=True):
        found = tune(backend, split(words), delta=delta, out=run, **SEARCH).result
        assert found["chosen"] == "delta"
    first = [each.direction for each in read_earlier(backend, runs)]

    spanned = tune(
        backend, split(AGE), delta=delta, subspace_from=runs, **{**SEARCH, "dimension": None}
    )
    assert spanned.result["delta"]["subspace"] == "learned"
    assert spanned.result["delta"]["dimension"] == 2

    tuned = tune(
        backend, split(AGE), delta=delta, subspace_from=runs, out=tmp_path / "age", **SEARCH
    )
    assert tuned.result["chosen"] == "delta"
    [member] = Artifact.load(tmp_path / "age").rebuild(backend)
    assert member.frame is not None
    unit = member.frame.subspace.project(np.eye(20), member.frame.delta.origin)[:2]
    fitted, _, _, _ = np.linalg.lstsq(unit.T.astype(np.float64), np.array(first).T, rcond=None)
    np.testing.assert_allclose(unit.T @ fitted, np.array(first).T, atol=1e-3)

    for run in runs:
        shutil.rmtree(run)
    texts = [example.text for example in split(AGE).dev]
    again = TunedModel.load(tmp_path / "age", backend=tiny("llama").wrap())
    np.testing.assert_array_equal(again.predict_proba(texts), tuned.predict_proba(texts))


def test_what_was_tuned_in_a_span_spans_again(tiny: Any, tmp_path: Path) -> None:
    backend, runs = tiny("llama").wrap(), [tmp_path / name for name in ("quality", "size")]
    tune(backend, split(QUALITY), delta="bitfit", out=runs[0], **SEARCH)
    tune(backend, split(SIZE), delta="bitfit", subspace_from=[runs[0]], out=runs[1], **SEARCH)
    third = tune(backend, split(AGE), delta="bitfit", subspace_from=runs, **SEARCH)
    assert third.result["delta"]["dimension"] == 20


@pytest.mark.parametrize(("delta", "fits"), [("lora", False), ("bitfit", True)])
def test_all_seeds_are_checked_before_the_first_is_paid_for(
    delta: str, fits: bool, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny("llama").wrap()
    given = {**SEARCH, "delta": delta, "seed": 3}
    problem = build_problem(backend, split(QUALITY), Settings.of(given))
    [seen] = backend.score(problem.request(problem.train.prompts, None))
    head = make_head("plain").fit(seen, problem.train.labels, None)
    moved = Member("delta", problem.reader, head, frame=problem.frame, z=np.ones(20))
    Artifact.of(backend, [moved]).save(tmp_path / "earlier")
    examples = split(AGE)
    together = (*examples.train, *examples.dev)
    task = task_from_lists([one.text for one in together], [one.label for one in together])
    begun = []

    def begin(*_: Any, seed: int, **__: Any) -> None:
        begun.append(seed)
        raise InterruptedError

    monkeypatch.setattr(blackbox_delta.seeds, "tune", begin)
    backend.score = None  # whoever asks the model fails
    given |= {"subspace_from": [tmp_path / "earlier"], "shots": 2, "out": tmp_path / "seeds"}
    expected, message = (
        (InterruptedError, None) if fits else (ConfigError, "seed 3 can .* but seed 4 cannot: ")
    )
    with pytest.raises(expected, match=message):
        tune_over_seeds(backend, task, 3, **given)
    assert begun == ([3] if fits else [])
    assert not (tmp_path / "seeds").exists()
    with pytest.raises(InterruptedError):  # one seed is no matter of several
        tune_over_seeds(backend, task, 1, **given)


def test_a_prefix_of_other_words_means_something_else(tiny: Any, tmp_path: Path) -> None:
    """Its numbers are added to these words' keys and values."""
    backend = tiny("llama").wrap()
    kept(backend, "prefix", AFTER, tokens=3).save(tmp_path)
    earlier = read_earlier(backend, [tmp_path])
    given = {"recipe": "search", "delta": "prefix", "template": AFTER}
    given["delta_settings"] = {"tokens": 3}

    assert build_problem(backend, split(AGE), Settings.of(given), earlier).frame is not None
    other = Settings.of({**given, "soft_init": "text:other words than these"})
    with pytest.raises(ConfigError, match=r"for prefixes, the same words \(soft_init\)"):
        build_problem(backend, split(AGE), other, earlier)
