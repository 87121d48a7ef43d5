import numpy as np
import pytest

from cvae_tf.errors import InputError
from cvae_tf.training.checkpoint import CheckpointFolder


def _arrays(step):
    return {"v0": np.full((3, 4), step, np.float32), "v1": np.int32(step), "best": np.float64(step)}


def test_the_newest_is_loaded_and_three_are_kept(tmp_path):
    store = CheckpointFolder(tmp_path / "checkpoints")
    assert store.load() == (0, None)
    for step in (5, 90, 100, 1000):
        store.save(step, _arrays(step))
    assert list(store.files()) == [1000, 100, 90]
    step, arrays = store.load()
    assert step == 1000 and arrays.keys() == _arrays(0).keys()
    for name, value in _arrays(1000).items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].dtype == value.dtype


def test_every_flipped_byte_of_the_arrays_is_noticed_and_the_one_before_used(tmp_path, capsys):
    store = CheckpointFolder(tmp_path)
    store.save(1, _arrays(1))
    store.save(2, _arrays(2))
    whole = store.files()[2].read_bytes()
    unnoticed = []
    for i in range(len(whole)):
        store.files()[2].write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1:])
        step, arrays = store.load()
        expected = _arrays(step)
        assert arrays.keys() == expected.keys()
        if step == 2:  # a byte that means nothing, such as a date's
            unnoticed.append(i)
            for name, value in expected.items():
                np.testing.assert_array_equal(arrays[name], value)
        else:
            assert "step_00000002.npz: damaged" in capsys.readouterr().out
    assert len(unnoticed) < len(whole) / 3


@pytest.mark.parametrize("size", [0, 1, 100, 400, 600])
def test_a_cut_file_is_noticed_and_the_one_before_used(tmp_path, size, capsys):
    store = CheckpointFolder(tmp_path)
    store.save(1, _arrays(1))
    store.save(2, _arrays(2))
    store.files()[2].write_bytes(store.files()[2].read_bytes()[:size])
    assert store.load()[0] == 1
    assert "step_00000002.npz: damaged" in capsys.readouterr().out


def test_nothing_is_unpickled(tmp_path):
    store = CheckpointFolder(tmp_path)
    np.savez(tmp_path / "step_00000001.npz", evil=np.array([print], dtype=object))
    with pytest.raises(InputError, match="none of the 1 checkpoints there can be read"):
        store.load()


def test_removing_from_a_step_keeps_those_before(tmp_path):
    store = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        store.save(step, _arrays(step))
    store.remove_from(2)
    assert list(store.files()) == [1]
