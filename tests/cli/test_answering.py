"""``eval`` and ``predict`` with a saved run."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from command_line import failed, result_of, run, sentences, tune, write_lines
from sklearn.metrics import accuracy_score


def test_eval_finds_the_accuracy_of_the_run(data: Path, finished: Path) -> None:
    done = run("eval", finished, "--data", data)
    assert done.exit_code == 0, done.output
    report = result_of(finished)
    assert f"{report['test_n']} examples" in done.stdout
    assert re.search(rf"accuracy\s+{report['test_accuracy']:.3f}\s", done.stdout)


def test_eval_draws_the_sample_that_tune_drew(data: Path, tmp_path: Path) -> None:
    tune(data, "--out", tmp_path / "run", "--max-test", 17)
    done = run("eval", tmp_path / "run", "--data", data, "--max-test", 17)
    accuracy = result_of(tmp_path / "run")["test_accuracy"]
    assert "17 examples" in done.stdout
    assert re.search(rf"accuracy\s+{accuracy:.3f}\s", done.stdout)


def test_eval_scores_all_of_a_single_file(data: Path, finished: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    renamed = [{"review": row["text"], "mood": row["label"]} for row in rows]
    file = write_lines(tmp_path / "all.jsonl", renamed)
    columns = ["--text-column", "review", "--label-column", "mood"]
    named = run("eval", finished, "--data", file, *columns)
    assert named.stdout == run("eval", finished, "--data", data).stdout
    assert "no column 'text'" in failed(run("eval", finished, "--data", file))


def test_predict_answers_every_text_in_order(data: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    done = run("predict", finished, data / "test.jsonl", "--output", output)
    assert done.exit_code == 0, done.output
    assert not done.stdout
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == [row["text"] for row in rows]
    for answer in answers:
        assert list(answer) == ["text", "label", "probabilities"]
        shares = answer["probabilities"]
        assert answer["label"] == max(shares, key=shares.__getitem__)
        assert sum(shares.values()) == pytest.approx(1)
    truth, found = [row["label"] for row in rows], [answer["label"] for answer in answers]
    assert accuracy_score(truth, found) == result_of(finished)["test_accuracy"]


def test_predict_reads_plain_lines_and_json_lines_from_stdin(finished: Path) -> None:
    plain = run("predict", finished, stdin="a great film ☺\nan awful film\n")
    as_json = '{"text": "a great film ☺"}\n{"text": "an awful film"}\n'
    assert plain.stdout == run("predict", finished, "-", stdin=as_json).stdout
    answers = [json.loads(line) for line in plain.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["a great film ☺", "an awful film"]
    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def test_pairs_keep_both_texts(tmp_path: Path) -> None:
    rows = [
        {"first": row["text"], "second": "a review", "label": row["label"]}
        for row in sentences(20, random.Random(1))
    ]
    file = write_lines(tmp_path / "pairs.jsonl", rows)
    columns = ["--text-column", "first", "--pair-column", "second"]
    done = tune(file, "--out", tmp_path / "run", *columns)
    assert done.exit_code == 0, done.output
    assert "8 training examples are too few to estimate the accuracy from" in done.stdout
    answers = run("predict", tmp_path / "run", file, *columns).stdout.splitlines()
    first = json.loads(answers[0])
    assert list(first) == ["text", "text_pair", "label", "probabilities"]
    assert first["text_pair"] == "a review"


def test_the_wrong_model_is_refused(data: Path, finished: Path) -> None:
    message = failed(run("eval", finished, "--data", data, "--model", "fake:other"))
    assert "fingerprint" in message


def test_bad_texts_are_refused(finished: Path, tmp_path: Path) -> None:
    assert "empty" in failed(run("predict", finished, stdin='{"text": " "}\n'))
    assert "empty" in failed(run("predict", finished, stdin=""))
    assert "nowhere.jsonl" in failed(run("predict", finished, tmp_path / "nowhere.jsonl"))


def test_data_without_a_test_part_is_not_scored(finished: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", sentences(3, random.Random(2)))
    assert "no test part" in failed(run("eval", finished, "--data", tmp_path))


def test_a_model_that_has_moved_answers_as_before(finished: Path) -> None:
    there = run("predict", finished, "--model", "fake", stdin="a great film")
    assert there.exit_code == 0, there.output
    assert there.stdout == run("predict", finished, stdin="a great film").stdout


def test_a_text_is_labelled_whatever_label_it_has(finished: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "texts.jsonl", [{"text": "a great film", "label": 0.7}])
    done = run("predict", finished, lines)
    assert done.exit_code == 0, done.output


def test_scoring_tells_the_line_without_a_label(finished: Path, tmp_path: Path) -> None:
    rows = [{"text": "a great film", "label": "positive"}, {"text": "a dull film"}]
    message = failed(run("eval", finished, "--data", write_lines(tmp_path / "a.jsonl", rows)))
    assert "line 2: no column 'label'" in " ".join(message.split())


def test_what_may_not_be_read_is_told_in_one_sentence(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("blackbox_delta.runs.result_of_one", forbidden)
    message = " ".join(failed(run("predict", finished, stdin="a film")).split())
    assert "Permission denied; see that you may read it" in message
