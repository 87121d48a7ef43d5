import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from cvae_tf.data import film as films
from cvae_tf.errors import InputError


def test_to_uint8_rounds_and_clips():
    assert films.to_uint8(np.array([-0.5, 0, 0.5, 1, 3])).tolist() == [0, 0, 128, 255, 255]


def test_side_by_side():
    film = np.zeros((2, 4, 5, 3), np.uint8)
    joined = films.side_by_side(film, film + 9, film)
    assert joined.shape == (2, 4, 17, 3)
    assert joined[0, 0, :, 0].tolist() == [0] * 5 + [255] + [9] * 5 + [255] + [0] * 5


def test_gif_has_every_frame_its_time_and_its_colours(tmp_path):
    random = np.random.default_rng(0)
    frames = np.repeat(np.uint8(random.integers(0, 256, (3, 4, 4, 3))), 5, axis=0)  # equal neighbours stay apart
    films.write_gif(tmp_path / "deep" / "film.gif", frames, fps=20, scale=3)
    with Image.open(tmp_path / "deep" / "film.gif") as film:
        assert film.info["loop"] == 0
        shown = [(frame.info["duration"], np.asarray(frame.convert("RGB"))) for frame in ImageSequence.Iterator(film)]
    assert [duration for duration, _ in shown] == [50] * 15
    for frame, (_, picture) in zip(frames, shown, strict=True):
        assert picture.shape == (12, 12, 3)
        assert np.abs(picture[1::3, 1::3].astype(int) - frame).mean() < 12
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["film.gif"]


@pytest.mark.parametrize("fps, hundredths", [(1, 100), (12, 8), (20, 5), (30, 3), (50, 2), (200, 2)])
def test_gif_delays_are_rounded_hundredths_of_a_second_and_at_least_two(fps, hundredths, tmp_path):
    films.write_gif(tmp_path / "film.gif", np.zeros((3, 4, 4, 3), np.uint8), fps=fps)
    with Image.open(tmp_path / "film.gif") as film:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(film)] == [10 * hundredths] * 3


def test_gif_of_one_colour_keeps_its_length(tmp_path):
    films.write_gif(tmp_path / "film.gif", np.zeros((30, 4, 4, 3), np.uint8))
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 30


def test_a_gif_in_parts_is_the_same_file(tmp_path):
    frames = np.uint8(np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3)))
    frames[5:] = frames[:2]  # of the palette, which is the first part's
    films.write_gif(tmp_path / "whole.gif", frames[:5], fps=25, scale=2)
    with films.gif_writer(tmp_path / "parts.gif", fps=25, scale=2) as append:
        append(frames[:5])
        append(frames[5:])
    read = []
    for name in ("whole.gif", "parts.gif"):
        with Image.open(tmp_path / name) as film:
            assert film.size == (12, 8)
            read.append([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
    assert [len(film) for film in read] == [5, 7]
    np.testing.assert_array_equal(read[1], read[0] + read[0][:2])


def test_a_gif_that_is_not_finished_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), films.gif_writer(tmp_path / "film.gif") as append:
        append(np.zeros((3, 4, 4, 3), np.uint8))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def _smooth(length, height, width):
    """A film that H.264 keeps well: a bright square that moves over a slope."""
    frames = np.tile(np.linspace(40, 200, width, dtype=np.uint8)[:, None], (length, height, 1, 3))
    for t, frame in enumerate(frames):
        frame[8:16, 2 * t:2 * t + 8] = (250, 60, 60)
    return frames


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the reader leaves its pipes open
def test_mp4_has_every_frame_its_rate_and_even_sides(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = _smooth(10, 31, 45)
    with films.film_writer(tmp_path / "film.mp4", fps=25) as append:
        append(frames[:6])
        append(frames[6:] / np.float32(255))
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    about = next(reader)
    assert about["size"] == (46, 32) and about["fps"] == 25
    shown = np.stack([np.frombuffer(frame, np.uint8).reshape(32, 46, 3) for frame in reader])
    assert len(shown) == 10
    assert np.abs(shown[:, :31, :45].astype(int) - frames).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_mp4_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"), films.film_writer(tmp_path / "film.mp4"):
        pass


def test_a_folder_of_png_has_every_frame_exactly(tmp_path):
    frames = np.uint8(np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)))
    with films.film_writer(tmp_path / "film", scale=2) as append:
        append(frames[:3])
        append(frames[3:])
    files = sorted((tmp_path / "film").iterdir())
    assert [path.name for path in files] == [f"frame{t:06d}.png" for t in range(5)]
    np.testing.assert_array_equal([iio.imread(path)[::2, 1::2] for path in files], frames)
    with pytest.raises(InputError, match="film: exists already"), films.film_writer(tmp_path / "film"):
        pass


def test_gif_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be"):
        films.write_gif(tmp_path / "file" / "film.gif", np.zeros((2, 4, 4, 3), np.uint8))
