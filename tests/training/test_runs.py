import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from cvae_tf import files
from cvae_tf.errors import InputError
from cvae_tf.training import run as runs
from cvae_tf.training.run import RunFolders, claim, locked, run_folders, set_aside


def test_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(run_folders("demo").root) == "runs/demo-1"
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    folders = run_folders("demo")
    assert str(folders.root) == "runs/demo-2" and str(folders.export) == "saved_models/demo-2"
    named = run_folders("demo", "here/x", "there")
    assert named == RunFolders(named.root, named.export)
    assert (str(named.root), str(named.export)) == ("here/x", "there")


def test_of_two_that_start_at_once_each_claims_its_own_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meanwhile = iter([True, False])

    def overtaken(*names):
        folders = run_folders(*names)
        if next(meanwhile):
            folders.root.mkdir(parents=True)  # by the other process
        return folders

    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_folders", overtaken)
        assert str(claim("demo").root) == "runs/demo-2"
    assert str(claim("demo", "runs/demo-1").root) == "runs/demo-1"


def _folders(tmp_path):
    (tmp_path / "run").mkdir(exist_ok=True)
    return RunFolders(tmp_path / "run", tmp_path / "models" / "run")


def test_the_lock_keeps_another_process_out_and_dies_with_its_holder(tmp_path):
    folders = _folders(tmp_path)
    code = ("import sys, time; from pathlib import Path; from cvae_tf.training.run import RunFolders, locked\n"
            f"with locked(RunFolders(Path({str(folders.root)!r}), Path({str(folders.export)!r}))):\n"
            "    print('held', flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is training this run"), locked(folders):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with locked(folders):
        pass


def test_where_a_drive_knows_no_locks_a_line_says_so(tmp_path, monkeypatch, capsys):
    def unsupported(stream, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    files._say_without_locks.cache_clear()
    folders = _folders(tmp_path)
    with locked(folders):
        assert capsys.readouterr().out.count("cannot be locked here (Operation not supported); do not start two") == 1
    assert not list(folders.export.parent.glob("*"))


def test_what_a_killed_process_left_half_done_is_put_right(tmp_path):
    folders = _folders(tmp_path)
    left = [folders.root / ".metrics.csv.77.tmp", folders.checkpoints / ".step_00000009.npz.77.tmp",
            folders.samples / ".epoch_001.gif.77.tmp", folders.export.parent / ".run.77.tmp" / "variables",
            folders.export.parent / ".run.77.old" / "variables", folders.root / ".last_model.77.old" / "variables"]
    others = [folders.export.parent / ".run-2.77.tmp" / "variables", folders.root / "metrics.csv"]
    for path in left + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    folders.config.write_text("{}")
    with locked(folders):
        pass
    # Killed between setting the old model aside and naming the new one: the old one is back, the new one not begun.
    assert (folders.export / "variables").exists() and (folders.last_model / "variables").exists()
    assert sorted(os.listdir(folders.export.parent)) == [".run-2.77.tmp", "run"]
    assert all(path.exists() for path in others)
    assert not [path for path in folders.root.rglob(".*")]


def test_a_folder_that_was_replaced_under_its_holder_is_noticed(tmp_path):
    folders = _folders(tmp_path)
    with locked(folders) as check:
        folders.config.write_text("{}")
        check()
        folders.root.rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="run: was removed or replaced while it was being trained"):
            check()
        with locked(RunFolders(_folders(tmp_path).root, tmp_path / "other")):  # another process begins there
            folders.config.write_text("{}")
            with pytest.raises(InputError, match="run: was removed or replaced while it was being trained"):
                check()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folders = _folders(tmp_path)
    (folders.root / ".thesis.1.tmp").write_text("mine")
    (folders.root / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="run: is no run, and there is thesis.txt in it"), locked(folders):
        pass
    assert sorted(os.listdir(folders.root)) == [".thesis.1.tmp", "thesis.txt"]


def test_a_file_in_the_place_of_a_run_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="run: cannot be made"):
        claim("demo", str(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_is_set_aside_whole_and_nothing_is_deleted(tmp_path):
    for number in (1, 2):
        folders = _folders(tmp_path)
        folders.export.mkdir(parents=True)
        folders.config.write_text(f"run {number}")
        (folders.export / "saved_model.pb").write_text(f"model {number}")
        moved = set_aside(folders)
        assert moved == [Path(f"{folders.export}.old-{number}"), Path(f"{folders.root}.old-{number}")]
        assert (moved[1] / "config.json").read_text() == f"run {number}"
        assert (moved[0] / "saved_model.pb").read_text() == f"model {number}"
        assert not folders.root.exists() and not folders.export.exists()


def test_a_run_whose_export_was_being_replaced_is_set_aside_with_it(tmp_path):
    folders = _folders(tmp_path)
    folders.config.write_text("{}")
    old = folders.export.with_name(f".{folders.export.name}.77.old")
    old.mkdir(parents=True)
    (old / "saved_model.pb").write_text("model")
    model, _ = set_aside(folders)
    assert (model / "saved_model.pb").read_text() == "model"
    assert not folders.root.exists() and not folders.export.exists() and not old.exists()


def test_a_run_that_cannot_be_set_aside_whole_stays_whole(tmp_path, monkeypatch):
    folders = _folders(tmp_path)
    folders.config.write_text("{}")
    folders.export.mkdir(parents=True)
    rename = Path.rename

    def refused(path, target):
        if path == folders.root:
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(InputError, match="run: cannot be renamed"):
        set_aside(folders)
    assert folders.config.exists() and folders.export.exists()


def test_two_runs_cannot_write_one_export_at_once_and_its_lock_goes_with_them(tmp_path):
    folders = _folders(tmp_path)
    other = RunFolders(tmp_path / "other", folders.export)
    other.root.mkdir()
    with locked(folders):
        assert [path.name for path in folders.export.parent.iterdir()] == [".run.lock"]
        with pytest.raises(InputError, match="models/run: another process is writing this exported model.*--export_dir"
                           ), locked(other):
            pass
    assert not folders.export.parent.exists()
    with locked(other):
        pass


def test_a_lock_file_that_its_holder_has_just_removed_is_not_taken_for_a_lock(tmp_path, monkeypatch):
    beside, flock, opened = tmp_path / ".model.lock", files.fcntl.flock, []

    def removed_meanwhile(stream, how):
        flock(stream, how)
        if not opened:
            beside.unlink()
        opened.append(os.fstat(stream.fileno()).st_ino)

    monkeypatch.setattr(files.fcntl, "flock", removed_meanwhile)
    with files.reserved(tmp_path / "model", "busy"):
        assert len(opened) == 2 and beside.stat().st_ino == opened[1]
        monkeypatch.setattr(files.fcntl, "flock", flock)
        with pytest.raises(InputError, match="busy"), files.reserved(tmp_path / "model", "busy"):
            pass


def test_a_run_has_a_number_that_stays(tmp_path):
    folders = _folders(tmp_path)
    folders.lock.touch()  # of an earlier version
    assert folders.number() is None
    with locked(folders):
        number = folders.number()
    with locked(folders):
        assert number and folders.number() == number
    other = RunFolders(tmp_path / "other", tmp_path / "elsewhere")
    other.root.mkdir()
    with locked(other):
        assert other.number() not in (None, number)


def test_a_number_whose_export_is_being_written_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with files.reserved("saved_models/demo-1", "busy"):
        assert run_folders("demo").root.name == "demo-2"
    assert run_folders("demo").root.name == "demo-1"
