import pytest

from cvae_tf.errors import InputError
from cvae_tf.files import atomic


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
