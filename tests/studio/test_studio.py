import numpy as np
import pytest
from PIL import Image

from cvae_tf.data.footage import load_footage
from cvae_tf.errors import InputError
from cvae_tf.studio import scene as studio


def test_footage_is_a_function_of_its_arguments():
    one, same, other = (studio.sequence(n, 32, 64, length=30) for n in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(one[0] != other[0])
    assert np.any(studio.sequence(1, 32, 64, seed=1, length=30)[0] != one[0])


@pytest.mark.parametrize("size", [(32, 64), (48, 40), (128, 256)])
def test_any_frame_size(size):
    frames, poses = studio.sequence(1, *size, length=3)
    assert frames.shape == poses.shape == (3, *size, 3) and frames.dtype == poses.dtype == np.uint8


def test_the_pose_is_drawn_where_the_person_is():
    frames, poses = studio.sequence(1, 64, 128)
    room = np.median(frames, axis=0)
    for frame, pose in list(zip(frames, poses, strict=True))[::40]:
        person = np.abs(frame - room).max(-1) > 40
        limbs = pose.min(-1) < 128
        if limbs.sum() > 20:
            assert (person & limbs).sum() > 0.7 * limbs.sum()


def test_the_person_walks_out_of_the_frame_and_comes_near():
    _, poses = studio.sequence(1, 32, 64)
    drawn = poses.min(-1) < 200
    heights = drawn.any(2).sum(1)
    assert heights.min() == 0 and heights.max() == 32


def test_the_pose_tells_left_from_right():
    _, poses = studio.sequence(1, 32, 64)
    red = (poses[..., 0] > 200) & (poses[..., 2] < 100)
    green = (poses[..., 1] > 150) & (poses[..., 0] < 160) & (poses[..., 2] < 120)
    columns = np.arange(64)
    sides = [np.sign((columns * r.sum(0)).sum() / r.sum() - (columns * g.sum(0)).sum() / g.sum())
             for r, g in zip(red, green, strict=True) if r.sum() > 5 and g.sum() > 5]
    assert {-1.0, 1.0} <= set(sides)  # facing the camera and facing away


def test_variety_changes_clothes_and_light_between_sequences():
    plain = [studio.sequence(n, 32, 64, length=2)[0][0] for n in (1, 2)]
    varied = [studio.sequence(n, 32, 64, length=2, variety=True)[0][0] for n in (1, 2)]
    corner = np.s_[:6, :3]
    np.testing.assert_array_equal(plain[0][corner], plain[1][corner])
    assert np.any(varied[0][corner] != varied[1][corner])


def test_the_lamp_has_a_new_colour_whenever_it_was_hidden():
    hidden = np.array([0, 0, 1, 1, 0, 0, 1, 0], bool)
    drawn = np.array([studio._lamp_colours(np.random.default_rng(seed), hidden) for seed in range(300)])
    np.testing.assert_array_equal(drawn == -1, np.broadcast_to(hidden, drawn.shape))
    first, second, third = drawn[:, [0, 1]], drawn[:, [4, 5]], drawn[:, 7]
    assert np.all(first[:, 0] == first[:, 1]) and np.all(second[:, 0] == second[:, 1])
    for one in (first[:, 0], second[:, 0], third):
        assert np.all(np.bincount(one) > 70)  # of 300, each of three colours
    for one, other in ((first[:, 0], second[:, 0]), (second[:, 0], third)):
        assert 60 < np.sum(one == other) < 140  # neither the same again nor always another


def test_the_lamp_colours_the_shirt_alone_and_the_pose_does_not_tell_it():
    colours = set()
    for number in (1, 2):
        frames, poses = studio.sequence(number, 32, 64, lamp=True, length=400)
        plain, plain_poses = studio.sequence(number, 32, 64, length=400)
        np.testing.assert_array_equal(poses, plain_poses)
        changed = np.any(frames != plain, axis=-1)
        lit = changed.any((1, 2))
        assert 150 < lit.sum() < 380
        for frame, before, where in zip(frames[lit], plain[lit], changed[lit], strict=True):
            assert 8 < where.sum() < 300  # pixels
            shirt = np.abs(before[where] - np.array(dict(studio.CLOTHES)["shirt"])).max(-1) < 12
            if shirt.sum() > 10:  # pixels in the midst of it
                seen = np.median(frame[where][shirt], axis=0)
                distances = np.abs(np.array(studio.LAMPS) - seen).max(1)
                assert distances.min() < 40
                colours.add(studio.LAMPS[np.argmin(distances)])
    assert colours == set(studio.LAMPS)


def test_written_tree_reads_back_as_the_studio_itself(lab_tree):
    splits = load_footage(str(lab_tree))
    for footage, number in ((splits.val, 0), (splits.train, 1)):
        frames, poses = studio.sequence(number, 32, 64, length=40)
        np.testing.assert_array_equal(footage.frames, frames)
        np.testing.assert_array_equal(footage.poses, poses)
        assert footage.sequences == ((0, 40),)
    assert len(list((lab_tree / "test" / "test_img" / "0").iterdir())) == 1
    assert len(list((lab_tree / "test" / "test_label" / "0").iterdir())) == 40
    with Image.open(next((lab_tree / "test" / "test_img" / "0").iterdir())) as first:
        assert first.size == (64, 32)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        studio.write_tree(tmp_path, 1, length=2)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("flag, options", [("--train", dict(train=0)), ("--length", dict(length=1)),
                                           ("--frame_H", dict(frame_size=(4, 64))), ("--seed", dict(seed=-1))])
def test_values_out_of_range_are_refused_by_their_flags(flag, options, tmp_path):
    with pytest.raises(InputError, match=flag):
        studio.write_tree(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
