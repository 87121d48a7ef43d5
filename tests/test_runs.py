from cvae_tf.config import Config
from cvae_tf.runs import RunFolders, run_folders


def test_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(run_folders(Config()).root) == "runs/demo-1"
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    folders = run_folders(Config())
    assert str(folders.root) == "runs/demo-2" and str(folders.export) == "saved_models/demo-2"
    named = run_folders(Config(run_dir="here/x", export_dir="there"))
    assert named == RunFolders(named.root, named.export)
    assert (str(named.root), str(named.export)) == ("here/x", "there")
