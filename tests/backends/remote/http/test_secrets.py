from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.backends.remote.http.secrets import Secret, read_key, redact
from blackbox_delta.errors import AuthorisationError, ConfigError

KEY = "sk-test/A+b=9\"\\c~'Zq%41d0"
PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=60)


def key_file(folder: Path, content: str = KEY, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_secret_reveals_its_key_only_when_asked() -> None:
    secret = Secret(f"  {KEY}\n")
    assert secret.reveal() == KEY
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        repr([secret]),
        repr({1: secret}),
    ]
    shown += [repr(getattr(secret, name, None)) for name in dir(secret)]
    assert not [text for text in shown if KEY in text]
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret(KEY), protocol)


def test_a_secret_is_not_copied() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy({"key": Secret(KEY)})


@pytest.mark.parametrize("key", ["", " \n", "two words", "ключ", "a\x1bb", "a\nb", "a\x7f"])
def test_what_is_no_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Secret(key)
    assert not key.strip() or key not in str(caught.value)


@given(
    key=PRINTABLE,
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    encode=st.sampled_from(
        [
            lambda key: key,
            lambda key: quote(key, safe=""),
            quote,
            json.dumps,
            lambda key: base64.b64encode(key.encode()).decode(),
            lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
        ]
    ),
)
def test_redaction_finds_the_key_in_every_coat(key, before, after, encode) -> None:
    coated = encode(key)
    redacted = redact(before + coated + after, Secret(key))
    assert coated.strip('"') not in redacted
    assert key not in redacted


@given(key=PRINTABLE.filter(lambda key: len(key) >= 12), user=st.text("abc:", max_size=7))
def test_redaction_finds_the_key_inside_longer_base64(key: str, user: str) -> None:
    text = base64.b64encode(f"{user}{key}:tail".encode()).decode()
    left = redact(text, Secret(key))
    # At most the characters that the key shares with its neighbours remain.
    assert "[key]" in left
    assert len(left.replace("[key]", "")) <= len(text) - (len(key) * 8 // 6 - 1)


def test_redaction_leaves_other_text_alone() -> None:
    text = "HTTP 429: too many requests for model gpt, key sk-other"
    assert redact(text, Secret(KEY)) == text
    assert redact(text, None) == text


def test_no_source_means_no_key() -> None:
    assert read_key(None, None) is None


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", f" {KEY}\n")
    secret = read_key("TOY_KEY", None)
    assert secret is not None
    assert secret.reveal() == KEY


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_without_a_key_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TOY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TOY_KEY", value)
    with pytest.raises(AuthorisationError, match="TOY_KEY"):
        read_key("TOY_KEY", None)


def test_a_bad_key_in_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", "sk-part1 sk-part2")
    with pytest.raises(ConfigError, match="TOY_KEY") as caught:
        read_key("TOY_KEY", None)
    assert "sk-part" not in "".join(traceback.format_exception(caught.value))


def test_the_key_comes_from_a_private_file(tmp_path: Path) -> None:
    secret = read_key(None, key_file(tmp_path, f"{KEY}\n"))
    assert secret is not None
    assert secret.reveal() == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        read_key(None, key_file(tmp_path, mode=mode))
    assert KEY not in str(caught.value)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="another user"):
        read_key(None, path)


def test_a_link_to_a_readable_file_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(key_file(tmp_path, mode=0o644))
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(None, link)


@pytest.mark.timeout(5)
def test_a_pipe_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="regular file"):
        read_key(None, tmp_path / "pipe")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(None, tmp_path / "none")
    with pytest.raises(ConfigError):
        read_key(None, tmp_path)


def test_a_file_with_something_else_in_it_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key") as caught:
        read_key(None, key_file(tmp_path, "пароль-secret"))
    assert "пароль" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not isinstance(caught.value.__context__, UnicodeError)


def test_two_sources_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        read_key("TOY_KEY", key_file(tmp_path))


@pytest.mark.parametrize(
    "pasted", [KEY, "sk-live-abcdef", "gsk_abc", "a=b", "", "MY KEY", "Ä", "AKIA17QX"]
)
def test_a_key_in_place_of_a_variable_s_name_is_not_shown(pasted: str) -> None:
    with pytest.raises(ConfigError, match="wants the name of an environment variable") as caught:
        read_key(pasted, None)
    assert not pasted or pasted not in str(caught.value)


@pytest.mark.parametrize("pasted", [KEY, "sk-live-abcdef", "AKIA17QX"])
def test_a_key_in_place_of_a_file_is_not_shown(pasted: str) -> None:
    with pytest.raises(ConfigError, match="wants the path of a file") as caught:
        read_key(None, Path(pasted))
    assert pasted not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_variable_in_small_letters_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("my_key", KEY)
    secret = read_key("my_key", None)
    assert secret is not None
    assert secret.reveal() == KEY
