import os
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from cvae_tf.data import film as films
from cvae_tf.data import gif, video
from cvae_tf.errors import InputError
from cvae_tf.files import check_writable
from cvae_tf.studio import scene

try:
    FFMPEG = video.ffmpeg()
except InputError:
    FFMPEG = None
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg")


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


@pytest.mark.parametrize("fps, hundredths", [(1, [100] * 6), (12, [8, 9, 8, 8, 9, 8]), (20, [5] * 6),
                                             (30, [3, 4, 3, 3, 4, 3]), (50, [2] * 6), (200, [2] * 6)])
def test_gif_delays_are_hundredths_of_a_second_that_add_up_and_at_least_two(fps, hundredths, tmp_path):
    films.write_gif(tmp_path / "film.gif", np.zeros((6, 4, 4, 3), np.uint8), fps=fps)
    with Image.open(tmp_path / "film.gif") as film:
        assert [frame.info["duration"] / 10 for frame in ImageSequence.Iterator(film)] == hundredths


def test_gif_of_one_colour_keeps_its_length(tmp_path):
    films.write_gif(tmp_path / "film.gif", np.zeros((30, 4, 4, 3), np.uint8))
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 30


def _shown(path):
    """The frames of a GIF as Pillow shows them, (T, H, W, 3) uint8."""
    with Image.open(path) as film:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])


def _walk(length=40, height=12, width=20):
    """A film of 200 colours in which random boxes change, and some frames do not."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (200, 3))
    frames = np.empty((length, height, width), int)
    frame = random.integers(0, 200, (height, width))
    for t in range(length):
        y, x = random.integers(0, height), random.integers(0, width)
        if t % 3:
            frame[y:y + 5, x:x + 5] = random.integers(0, 200, frame[y:y + 5, x:x + 5].shape)
        frames[t] = frame
    return np.uint8(colours[frames])


@pytest.mark.parametrize("scale", [1, 3])
def test_gif_of_few_colours_is_right_to_the_levels_that_are_kept(scale, tmp_path):
    frames = _walk()
    films.write_gif(tmp_path / "film.gif", frames, scale=scale)
    shown = _shown(tmp_path / "film.gif")
    np.testing.assert_array_equal(shown, shown[:, ::scale, ::scale].repeat(scale, 1).repeat(scale, 2))
    assert np.abs(shown[:, ::scale, ::scale].astype(int) - frames).max() <= gif.KEPT
    if FFMPEG:
        np.testing.assert_array_equal(list(video.probe(tmp_path / "film.gif").frames()), shown)


def test_gif_errors_do_not_add_up_while_a_film_fades(tmp_path):
    frames = np.repeat(np.arange(0, 200, dtype=np.uint8), 4 * 6 * 3).reshape(200, 4, 6, 3)
    films.write_gif(tmp_path / "film.gif", frames)
    error = np.abs(_shown(tmp_path / "film.gif").astype(int) - frames)
    assert 0 < error.max() <= gif.KEPT + 2  # of a palette from every third level


def test_gif_of_a_still_film_takes_few_bytes_for_a_frame(tmp_path):
    frames = np.repeat(_walk(1), 100, axis=0)
    films.write_gif(tmp_path / "one.gif", frames[:1])
    films.write_gif(tmp_path / "film.gif", frames)
    assert (tmp_path / "film.gif").stat().st_size - (tmp_path / "one.gif").stat().st_size < 99 * 30
    np.testing.assert_array_equal(_shown(tmp_path / "film.gif"), np.repeat(_shown(tmp_path / "one.gif"), 100, axis=0))


def test_gif_keeps_the_colours_of_thin_limbs_and_white_paper(tmp_path):
    true, poses = scene.sequence(1, 32, 64, length=60)
    frames = films.side_by_side(true, poses)
    films.write_gif(tmp_path / "film.gif", frames)
    error = (_shown(tmp_path / "film.gif").astype(float) - frames) ** 2
    limbs = np.ptp(frames.astype(int), axis=-1) > 60
    assert 10 * np.log10(255**2 / error[limbs].mean()) > 30  # 24 dB with a palette of the most frequent colours
    assert 10 * np.log10(255**2 / error.mean()) > 40
    assert error[(frames == 255).all(-1)].max() <= gif.KEPT**2


def test_frames_are_enlarged_smoothly_if_wanted(tmp_path):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[:, :, 2:] = 255
    for name in ("film.gif", "film"):
        with films.film_writer(tmp_path / name, scale=4, enlarge="lanczos") as append:
            append(frames)
    row = iio.imread(tmp_path / "film" / "frame000001.png")[8, :, 0].astype(int)
    assert row.shape == (16,) and row[0] < 20 and row[-1] > 235
    assert abs(row[7] + row[8] - 255) <= 1 and 60 < row[7] < row[8] < 195
    np.testing.assert_allclose(_shown(tmp_path / "film.gif")[1, 8, :, 0], row, atol=gif.KEPT)


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


@needs_ffmpeg
@pytest.mark.parametrize("name", ["film.mp4", "film.webm"])
def test_videos_have_every_frame_their_rate_and_even_sides(name, tmp_path):
    frames = _smooth(10, 31, 45)
    with films.film_writer(tmp_path / name, fps=25) as append:
        append(frames[:6])
        append(frames[6:] / np.float32(255))
    found = video.probe(tmp_path / name)
    assert (found.width, found.height, found.fps) == (46, 32, 25)
    shown = np.array(list(found.frames()))
    assert len(shown) == 10
    assert np.abs(shown[:, :31, :45].astype(int) - frames).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["film.mp4", "film.webm"])
def test_videos_without_ffmpeg_say_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (films.check, lambda path: films.film_writer(path).__enter__()):
        with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
            call(tmp_path / name)


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A function that makes a shell script the program ffmpeg."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def make(script):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "ffmpeg").chmod(0o755)

    return make


def test_an_encoder_that_is_missing_is_found_before_any_work(fake_ffmpeg, tmp_path):
    fake_ffmpeg("echo ' V..... libx264  H.264'")
    films.check(tmp_path / "film.MP4")
    with pytest.raises(InputError, match="no encoder libvpx-vp9"):
        films.check(tmp_path / "film.webm")


@pytest.mark.parametrize("script", ["exit 1", "head -c 100 >&2; exit 1", "cat >/dev/null; exit 1"])
def test_an_encoder_that_fails_is_one_line_with_its_reason(script, fake_ffmpeg, tmp_path):
    fake_ffmpeg(f"[ $# = 2 ] && exec echo libx264\necho '[mux @ 0x5] No space left' >&2\n{script}")
    with pytest.raises(InputError, match=r"film.mp4: cannot be written \(No space left\)$"), \
            films.film_writer(tmp_path / "film.mp4") as append:
        append(np.zeros((50, 64, 64, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("name", ["film.avi", "film.png", "film.gif.txt"])
def test_formats_that_are_not_written_are_named_with_their_flag(name, tmp_path):
    with pytest.raises(InputError, match=r"^--out must end in .*\.webm"):
        films.check(tmp_path / name, "--out")


@pytest.mark.parametrize("name", ["film.gif", "film.npz", *(pytest.param(f"film.{end}", marks=needs_ffmpeg)
                                                            for end in ("mp4", "webm"))])
def test_a_film_may_be_written_again_at_its_place_but_not_when_it_fails(name, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)  # long tables in an MP4
    with films.film_writer(tmp_path / name) as append:
        append(frames)
    check_writable(tmp_path / name, "--output")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ZeroDivisionError), films.film_writer(tmp_path / name) as append:
        append(frames[:3])
        raise ZeroDivisionError
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_npz_has_the_frames_unscaled(tmp_path):
    frames = np.uint8(np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3)))
    with films.film_writer(tmp_path / "film.npz", scale=3) as append:
        append(frames[:2])
        append(frames[2:] / np.float32(255))
    with np.load(tmp_path / "film.npz") as film:
        assert film.files == ["frames"] and film["frames"].dtype == np.uint8
        np.testing.assert_array_equal(film["frames"], frames)


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


def test_overlay_shows_ink_in_full_colour_and_the_frame_through_paper():
    frames = np.full((1, 1, 5, 3), 40, np.uint8)
    poses = np.uint8([[[[255, 255, 255], [255, 0, 0], [255, 128, 128], [0, 0, 0], [60, 190, 60]]]])
    drawn = films.overlay(frames, poses)
    # half red ink, 255 - 128 / 255 * 215; half paper, 128 - 128 / 255 * 215; and a green of 195 / 255 ink
    expected = [[40, 40, 40], [255, 0, 0], [147, 20, 20], [0, 0, 0], [9, 139, 9]]
    assert drawn.dtype == np.uint8 and drawn[0, 0].tolist() == expected
    np.testing.assert_array_equal(films.overlay(frames / 255, poses / np.float32(255)), drawn)


def test_contact_sheet_has_evenly_spaced_frames_and_white_gaps():
    frames = np.repeat(np.arange(11, dtype=np.uint8) * 20, 3 * 5 * 3).reshape(11, 3, 5, 3)
    sheet = films.contact_sheet(frames, count=6, columns=4, scale=2)
    gap, high, wide = films.GAP, 6, 10
    assert sheet.shape == (2 * high + gap, 4 * wide + 3 * gap, 3)
    firsts = [sheet[k // 4 * (high + gap), k % 4 * (wide + gap)].tolist() for k in range(8)]
    assert firsts == [[40 * k] * 3 for k in range(6)] + [[255] * 3] * 2
    assert (sheet[high:high + gap] == 255).all() and (sheet[:, wide:wide + gap] == 255).all()
    assert films.contact_sheet(frames[:2] / 255).shape == (3, 10 + gap, 3)


def test_png_is_exact_and_may_be_replaced(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    films.write_png(tmp_path / "new" / "sheet.png", image)
    np.testing.assert_array_equal(iio.imread(tmp_path / "new" / "sheet.png"), image)
    check_writable(tmp_path / "new" / "sheet.png", "--output")
    Image.fromarray(image).save(tmp_path / "other.png")
    with pytest.raises(InputError, match="exists already"):
        check_writable(tmp_path / "other.png", "--output")
