"""The secrets of a group: how they are read, what is refused, and which keys come of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from colocache import __main__ as command
from colocache.errors import ConfigError
from colocache.runtime.network import keys as keys_module
from colocache.runtime.network import secret as secret_module
from colocache.runtime.network.keys import group_keys, require_curve
from colocache.runtime.network.secret import LARGEST_FILE, Secret, derived, new_secret, read_secrets
from tests import ROOT

GOOD, OTHER = "0123456789abcdef0123456789abcdef", "correct horse battery staple and some more"


def texts(secrets: tuple[Secret, ...]) -> list[str]:
    return [secret.text for secret in secrets]


def refusal(text: str | None, file: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_secrets(text, file)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{GOOD}\n")
    path.chmod(0o600)
    return path


# --- Reading


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, [GOOD]),
        (f"  {GOOD}\n", [GOOD]),
        (f"{GOOD},{OTHER}", [GOOD, OTHER]),
        (f"{OTHER} , {GOOD},", [OTHER, GOOD]),
        (f"{GOOD},{GOOD}", [GOOD]),
        ("", []),
        ("  ", []),
        (None, []),
    ],
)
def test_the_variable_has_one_secret_or_mine_and_another(text: str | None, found: list[str]) -> None:
    assert texts(read_secrets(text, None)) == found
    assert texts(read_secrets(text, "")) == found


@pytest.mark.parametrize("contents", [f"{OTHER}\n{GOOD}\n", f"{OTHER}\r\n\r\n{GOOD}", f"\n {OTHER} \n{GOOD}\n\n"])
def test_a_file_has_one_secret_in_each_line(file: Path, contents: str) -> None:
    file.write_bytes(contents.encode())
    assert texts(read_secrets(None, str(file))) == [OTHER, GOOD]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640, 0o700])
def test_the_group_may_read_a_file(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert texts(read_secrets(None, str(file))) == [GOOD]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o660, 0o444, 0o601])
def test_a_file_that_others_can_read_or_change_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    text = refusal(None, str(file))
    assert f"COLOCACHE_SECRET_FILE={file} has mode {mode:04o}" in text
    assert "0600" in text


def test_a_file_of_another_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.stat_result((0o100600, 0, 0, 1, os.geteuid() + 1, 0, 33, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda descriptor: found)
    assert f"belongs to user {os.geteuid() + 1}" in refusal(None, str(file))


def test_a_link_to_a_file_is_followed(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert texts(read_secrets(None, str(link))) == [GOOD]


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, why in [
        (tmp_path / "missing", "cannot be read: No such file"),
        (tmp_path / "pipe", "is not a plain file"),
        (tmp_path, "is not a plain file"),
        (f"{tmp_path}/nu\0ll", "cannot be read"),
    ]:
        text = refusal(None, str(path))
        assert text.startswith(f"COLOCACHE_SECRET_FILE={path} {why}")


def test_no_descriptor_of_a_refused_file_stays(file: Path) -> None:
    file.chmod(0o644)
    before = os.listdir("/dev/fd")
    refusal(None, str(file))
    assert os.listdir("/dev/fd") == before


def test_a_file_that_is_too_large_is_refused(file: Path) -> None:
    file.write_text("\n" * LARGEST_FILE)
    assert "has no secret in it" in refusal(None, str(file))
    file.write_text("\n" * (LARGEST_FILE + 1))
    assert f"more than {LARGEST_FILE} bytes" in refusal(None, str(file))


def test_two_sources_at_once_are_refused(file: Path) -> None:
    text = refusal(GOOD, str(file))
    assert "COLOCACHE_SECRET and COLOCACHE_SECRET_FILE are both set" in text


BAD = "hunter2-hunter2-hunter2-hunter2"  # one character is missing


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BAD, "the secret has 31 characters, and must have at least 32"),
        (f"{GOOD},{BAD}", "secret 2 of 2 has 31 characters"),
        (f"{BAD},{GOOD}", "secret 1 of 2 has 31 characters"),
        (",", "has no secret in it"),
        (f"{GOOD},{OTHER},{GOOD}x", "has 3 secrets: give one, or while it is changed two, with a comma between them"),
        (BAD + "ä" * 9, "only printable ASCII"),
        (BAD + "\x07" * 9, "only printable ASCII"),
        (BAD * 40, "may have 1024 at most"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_and_not_shown(text: str, why: str) -> None:
    found = refusal(text)
    assert found.startswith("COLOCACHE_SECRET")
    assert why in found
    assert "hunter2" not in found
    assert "0123" not in found
    assert ("`colocache secret` prints a good one" in found) != ("3 secrets" in found)


def test_errors_of_a_file_name_its_variable_and_a_comma_in_it_is_refused(file: Path) -> None:
    file.write_text(BAD)
    assert refusal(None, str(file)).startswith(f"COLOCACHE_SECRET_FILE={file}: the secret has 31 characters")
    file.write_text(f"{GOOD},{OTHER}")
    assert "without commas" in refusal(None, str(file))
    file.write_bytes(b"\xff" * 40)
    assert "only printable ASCII" in refusal(None, str(file))


def test_no_repr_and_no_traceback_shows_a_secret_or_a_key() -> None:
    secret = Secret(GOOD)
    keys = group_keys(secret, "shop")
    shown = f"{secret!r} {secret} {keys!r} {keys} {keys.server}"
    try:
        read_secrets(BAD, None)
    except ConfigError:
        shown += traceback.format_exc()
    for hidden in (GOOD, BAD, keys.server.secret.decode(), keys.client.secret.decode(), keys.server.public.decode()):
        assert hidden not in shown


# --- Keys

VECTORS = {  # of GOOD; if these change, no host of an older version can be reached any more
    "shop": {
        "root": "dbc89215b74766cbd0805ab9825cc73489218ea03ecd0a68da9efec2d2b3660c",
        "server": ("Qyl+!CC+ecwX5o3vNj6zQ-MJr+$c6V/AsEwm!<8%", "fd-=QujzVpb7Q>@J1Jv(^-4843l#TK.hMG%lCZY8"),
        "client": ("u:%y+0C^AXW/MR.S5XV[GPNhp4o8lws=&mA1mVY#", "Q:y@6us7COl.YToIbR:tcFXF(P+zE)tgP![7nA#X"),
        "hmac": "94e2d821732c047521af2260154a38592b27c5dd55030b207c4df863cd3b701d",
    },
    "Bücher": {
        "root": "292d011a9ce437b7803b776f65951cd9155ab6d42e54463670fdf58b8fe68c68",
        "server": ("RW0b6PbZT7Qyq4.{n?A%U&1yKS$eFTURTPwC3UzR", "WkT<eF[P<u9O}^S^gASqvPEk$V(fVO0<XU$M#p/g"),
        "client": ("^iqnGc{gz!d1t)j9mM7sa@sl&oxyC^Tw0i>!9bU3", "XF.}f!R:I?hCyLK@jGj^Z[z&y>k9R$.LHK3?#cXo"),
        "hmac": "4972f30cb065bfac5043b53f40118151c3dcb27f9b88791a042b275486fc74a5",
    },
}


@pytest.mark.parametrize("group", VECTORS)
def test_the_keys_are_the_same_in_every_version(group: str) -> None:
    keys = group_keys(Secret(GOOD), group)
    assert VECTORS[group] == {
        "root": secret_module._root(Secret(GOOD), group).hex(),
        "server": (keys.server.public.decode(), keys.server.secret.decode()),
        "client": (keys.client.public.decode(), keys.client.secret.decode()),
        "hmac": derived(Secret(GOOD), group, b"hmac").hex(),
    }


def test_each_use_each_group_and_each_secret_has_its_own_key() -> None:
    found = {
        derived(Secret(secret), group, use)
        for secret in (GOOD, OTHER)
        for group in ("shop", "shop/", "")
        for use in (b"curve server", b"curve client", b"slot", b"hmac")
    }
    assert len(found) == 2 * 3 * 4
    assert {len(key) for key in found} == {32}


def test_a_secret_is_stretched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret(new_secret())
    first = group_keys(secret, "shop")
    monkeypatch.setattr(secret_module.hashlib, "scrypt", None)
    assert group_keys(Secret(secret.text), "shop") is first
    assert len(derived(secret, "shop", b"slot")) == 32


def test_a_python_without_scrypt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(secret_module.hashlib, "scrypt")
    with pytest.raises(ConfigError, match="COLOCACHE_SECRET needs scrypt"):
        derived(Secret(new_secret()), "shop", b"slot")


def test_a_libzmq_that_is_too_old_or_cannot_encrypt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_curve()
    monkeypatch.setattr(keys_module.zmq, "has", lambda what: False)
    with pytest.raises(ConfigError, match=r"a libzmq with CURVE, and pyzmq's was built without"):
        require_curve()
    monkeypatch.setattr(keys_module.zmq, "zmq_version_info", lambda: (4, 3, 2))
    with pytest.raises(ConfigError, match=r"4\.3\.3 or later"):
        require_curve()


# --- New ones


def test_a_new_secret_is_a_good_one() -> None:
    found = [new_secret() for _ in range(100)]
    assert len(set(found)) == 100
    for each in found:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", each)
        assert texts(read_secrets(each, None)) == [each]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-W", "error", "-m", "colocache", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_prints_a_new_secret_each_time() -> None:
    first, second = run("secret"), run("secret")
    assert (first.returncode, first.stderr) == (0, "")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", first.stdout)
    assert first.stdout != second.stdout


def test_the_command_says_what_it_can_do() -> None:
    wrong = run("secrets")
    assert wrong.returncode == 2
    assert "secret" in wrong.stderr
    assert run().returncode == 2
    assert "print a new secret for a group" in run("--help").stdout


def test_the_command_is_installed_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'colocache = "colocache.__main__:main"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert command.main(["secret"]) == 0
    assert len(capsys.readouterr().out) == 44
