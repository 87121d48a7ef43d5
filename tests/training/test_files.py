import errno
import os
import time

import pytest

from cvae_tf.errors import InputError
from cvae_tf.files import atomic, check_checksums, clean_up, write_checksums, write_csv


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic(path) as unfinished:
        unfinished.write_text("half of the sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_a_folder_replaces_a_folder(tmp_path):
    for text in ("old", "new"):
        with atomic(tmp_path / "model") as unfinished:
            unfinished.mkdir()
            (unfinished / text).write_text(text)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="film.gif: cannot be written"), atomic(tmp_path / "file" / "film.gif"):
        pass


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_csv(path, ["a"], [[1]])

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="table.csv: cannot be written .No space left on device"):
        write_csv(path, ["a"], [[2]])
    assert path.read_text().split() == ["a", "1"] and os.listdir(tmp_path) == ["table.csv"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def noting(handle):
        flushed.append((os.readlink(f"/proc/self/fd/{handle}"), (tmp_path / "model").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    with atomic(tmp_path / "model") as unfinished:
        (unfinished / "variables").mkdir(parents=True)
        (unfinished / "variables" / "data").write_text("x")
        (unfinished / "graph").write_text("x")
    before = {path.removeprefix(str(unfinished)) for path, named in flushed if not named}
    assert before == {"", "/graph", "/variables", "/variables/data"}
    assert flushed[-1] == (str(tmp_path), True)


def test_checksums_are_those_of_sha256sum_and_tell_what_changed(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "abc").write_bytes(b"abc")
    check_checksums(tmp_path)  # none: an older version's
    write_checksums(tmp_path)
    # FIPS 180-2, appendix B.1
    assert (tmp_path / "checksums.txt").read_text() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  below/abc\n")
    check_checksums(tmp_path)
    (tmp_path / "below" / "abc").write_bytes(b"abd")
    with pytest.raises(InputError, match="below/abc: is damaged"):
        check_checksums(tmp_path)
    (tmp_path / "below" / "abc").unlink()
    with pytest.raises(InputError, match="below/abc: is missing"):
        check_checksums(tmp_path)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_text("mine")
    (tmp_path / "model").symlink_to("real")
    with atomic(tmp_path / "model") as unfinished:
        unfinished.mkdir()
        (unfinished / "new").write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["model", "real"] and os.listdir(tmp_path / "model") == ["new"]
    assert (tmp_path / "real" / "mine").read_text() == "mine"


def test_of_what_killed_processes_left_only_the_old_is_removed_where_others_may_write(tmp_path):
    for name, age in ((".a.npy.1.tmp", 90_000), (".b.npy.2.tmp", 10)):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    clean_up(tmp_path, older_than=24 * 3600)
    assert os.listdir(tmp_path) == [".b.npy.2.tmp"]
