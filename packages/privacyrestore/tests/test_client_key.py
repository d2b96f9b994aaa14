"""The key is one's own, is made once, and opens only what it sealed, where it sealed it."""

import os
import stat
import subprocess
import sys

import pytest

from lipogram.errors import CorruptState, InvalidSetting
from privacyrestore.client_key import ClientKey, state_folder

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes of files")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@POSIX
def test_the_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "state" / "deep" / "key"
    before = os.umask(0)
    try:
        first = ClientKey.open(path)
    finally:
        os.umask(before)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [each.name for each in path.parent.iterdir()] == ["key"]
    content = path.read_bytes()
    again = ClientKey.open(path)
    assert path.read_bytes() == content
    assert first.subject("a") == again.subject("a")
    assert ClientKey.open(tmp_path / "other" / "key").subject("a") != first.subject("a")


@POSIX
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o622, 0o610])
def test_a_key_that_others_reach_is_refused(tmp_path, bits):
    path = tmp_path / "state" / "key"
    ClientKey.open(path)
    path.chmod(bits)
    with pytest.raises(InvalidSetting, match=f"mode {bits:o}.*chmod 600"):
        ClientKey.open(path)
    path.chmod(0o600)
    path.parent.chmod(0o755)
    with pytest.raises(InvalidSetting, match=r"mode 755.*chmod 700"):
        ClientKey.open(path)


@pytest.mark.parametrize("content", [b"", b"privacyrestore-key/1 00\n", b"\xff" * 90, b"0" * 64])
def test_a_damaged_key_is_never_replaced(tmp_path, content):
    path = tmp_path / "state" / "key"
    ClientKey.open(path)
    path.write_bytes(content)
    with pytest.raises(CorruptState, match="no key"):
        ClientKey.open(path)
    assert path.read_bytes() == content


def test_a_missing_key_is_made_only_where_it_may_be(tmp_path):
    with pytest.raises(CorruptState, match="missing"):
        ClientKey.open(tmp_path / "state" / "key", create=False)
    assert not (tmp_path / "state" / "key").exists()


def test_processes_that_begin_at_once_agree_on_one_key(tmp_path):
    code = (
        "import sys; from privacyrestore.client_key import ClientKey;"
        "print(ClientKey.open(sys.argv[1]).subject('a').hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "state" / "key")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({each.communicate()[0] for each in started}) == 1
    assert [each.returncode for each in started] == [0] * 4


def test_what_was_sealed_opens_only_whole_in_its_place_and_with_its_key():
    key = ClientKey.new()
    sealed = key.seal(b"a vector", b"place 1")
    assert key.unseal(sealed, b"place 1") == b"a vector"
    assert b"vector" not in sealed
    assert key.seal(b"a vector", b"place 1") != sealed
    for other, content, place in [
        (ClientKey.new(), sealed, b"place 1"),
        (key, sealed, b"place 2"),
        (key, sealed[:-1], b"place 1"),
        (key, b"", b"place 1"),
        (key, bytes([sealed[0] ^ 1]) + sealed[1:], b"place 1"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"place 1"),
    ]:
        with pytest.raises(CorruptState, match="another key"):
            other.unseal(content, place)


def test_names_and_lookups_are_keyed_and_apart():
    key, other = ClientKey.new(), ClientKey.new()
    assert key.subject("a") == key.subject("a")
    seen = {key.subject("a"), key.subject("b"), other.subject("a"), key.lookup(b"a")}
    assert len(seen) == 4
    assert all(len(each) == 32 for each in seen)
    assert key.subject("\ud800")  # a lone surrogate, as a file's name may give it


def test_the_secret_is_in_no_text_of_the_object(tmp_path):
    key = ClientKey.open(tmp_path / "state" / "key")
    secret = (tmp_path / "state" / "key").read_text().split()[1]
    assert secret not in repr(key)
    assert repr(bytes.fromhex(secret)) not in repr(key)


def test_the_state_folder_is_the_users(monkeypatch, tmp_path):
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert state_folder() == tmp_path / "privacyrestore"
    assert state_folder().name == "privacyrestore"
