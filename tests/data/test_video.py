"""Videos against the arrays that they were made of; all are made here, by ffmpeg."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cvae_tf.data import video
from cvae_tf.errors import InputError

try:
    FFMPEG = video.ffmpeg()
    ENCODERS = subprocess.run([FFMPEG, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout
except InputError:
    FFMPEG, ENCODERS = None, ""
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg")
SOURCE = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2"]


def _make(path, *words):
    """A file by ffmpeg: by default 20 frames of 64x48 at 10 per second."""
    words = words if "-i" in words else (*SOURCE, *words)
    subprocess.run([FFMPEG, "-v", "error", "-y", *words, f"file:{path}"], check=True, capture_output=True)
    return path


def _lossless(path, frames, fps, *words):
    """A file with exactly these frames, (T, H, W, 3) uint8."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    subprocess.run([FFMPEG, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps),
                    "-i", "-", *words, "-c:v", "ffv1", "-pix_fmt", "gbrp", f"file:{path}"], input=frames.tobytes(),
                   check=True)
    return path


def _random(count=4, height=48, width=64):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def _folder(path, frames, name="frame{}.png"):
    path.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / name.format(number))
    return path


@pytest.fixture(params=["file", "folder"])
def as_video(request, tmp_path):
    """A function from frames and their rate to a video: a file, or a folder of images."""
    if request.param == "file" and FFMPEG is None:
        pytest.skip("no ffmpeg")
    return lambda frames, fps: (
        video.probe(_lossless(tmp_path / "film.mkv", frames, fps)) if request.param == "file" else
        video.probe(_folder(tmp_path / "film", frames), fps))


def test_frames_are_those_written(as_video):
    frames = _random()
    found = as_video(frames, 25)
    assert (found.width, found.height, found.fps, found.count, found.rotation) == (64, 48, 25, 4, 0)
    assert found.duration == pytest.approx(4 / 25, abs=0.011)
    np.testing.assert_array_equal(list(found.frames()), frames)


def test_a_box_is_cut_out_exactly_and_scaled_to_the_mean_of_each_area(as_video):
    frames = _random()
    found = as_video(frames, 25)
    part = frames[:, 5:45, 7:39]
    np.testing.assert_array_equal(list(found.frames(box=(7, 5, 32, 40))), part)
    means = part.reshape(4, 10, 4, 8, 4, 3).mean((2, 4))
    shown = np.array(list(found.frames(box=(7, 5, 32, 40), size=(8, 10))), float)
    assert shown.shape == (4, 10, 8, 3)
    assert np.abs(shown - means).max() <= 2


@pytest.mark.parametrize("from_fps, to_fps", [(10, 10), (10, 20), (10, 25), (30, 20), (25, 10), (25, 8), (7, 12),
                                              (60, 30), (60, 20)])
def test_each_frame_is_the_last_that_is_nearest(from_fps, to_fps, as_video):
    frames = np.repeat(np.arange(12, dtype=np.uint8) * 20, 16 * 16 * 3).reshape(12, 16, 16, 3)
    shown = [round(frame.mean() / 20) for frame in as_video(frames, from_fps).frames(to_fps)]
    late = 0.25 * (to_fps < from_fps)
    places = np.floor((np.arange(12) + late) * to_fps / from_fps + 0.5)
    length = int(np.floor((12 + late) * to_fps / from_fps + 0.5))
    assert shown == [int(np.flatnonzero(places <= t)[-1]) for t in range(length)]


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize("rate, step", [("60", 2), ("120", 4), ("60000/1001", 2), ("30000/1001", 3)])
def test_a_whole_part_of_the_rate_takes_frames_evenly_though_times_are_rounded(rate, step, name, tmp_path):
    path = tmp_path / name
    subprocess.run([FFMPEG, "-v", "error", "-f", "lavfi", "-i", f"color=black:size=64x48:rate={rate}",
                    "-frames:v", "100", "-vf", "geq=lum='20+2*N':cb=128:cr=128", "-c:v", "libx264", "-qp", "0", path],
                   check=True)
    found = video.probe(path)
    light = np.array([frame.mean() for frame in found.frames()])
    shown = [int(np.argmin(np.abs(light - frame.mean()))) for frame in found.frames(found.fps / step)]
    assert len(shown) >= 100 // step and set(np.diff(shown)) == {step}


@needs_ffmpeg
@pytest.mark.parametrize("name, encoder, words", [
    ("a.mp4", "libx264", ()),
    ("a.mov", "libx264", ()),
    ("a.avi", "mpeg4", ()),
    ("a.gif", "gif", ()),
    ("a.webm", "libvpx-vp9", ()),
    ("sound.mkv", "libx264", ("-f", "lavfi", "-i", "sine=d=2", *SOURCE, "-map", "0", "-map", "1")),
    ("ten_bits.mp4", "libx265", ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=none",
                                 "-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")),
])
def test_formats(name, encoder, words, tmp_path):
    if encoder not in ENCODERS:
        pytest.skip(f"no {encoder}")
    found = video.probe(_make(tmp_path / name, *words))
    assert (found.width, found.height, found.fps, found.duration, found.count) == (64, 48, 10, 2, 20)
    frames = np.array(list(found.frames(5, size=(32, 24))), float)
    true = np.array(list(video.probe(_make(tmp_path / "true.mkv", "-c:v", "ffv1")).frames(5, size=(32, 24))), float)
    assert frames.shape == (10, 24, 32, 3)
    assert np.abs(frames - true).mean() < 8


@needs_ffmpeg
def test_shapes_and_times_of_all_kinds(tmp_path, capsys):
    odd = video.probe(_lossless(tmp_path / "odd.mkv", _random(2, 47, 63), 10))
    assert next(odd.frames()).shape == (47, 63, 3)
    one = video.probe(_make(tmp_path / "one.mp4", "-frames:v", "1"))
    assert one.count == 1 and len(list(one.frames())) == 1
    wide = video.probe(_make(tmp_path / "wide.mkv", "-vf", "setsar=2/1"))  # pixels twice as wide as high
    assert (wide.width, wide.height) == (128, 48) and next(wide.frames()).shape == (48, 128, 3)
    endless = _make(tmp_path / "endless.mkv", "-f", "matroska", "-live", "1")  # as browsers record, without a length
    assert (video.probe(endless).count, video.probe(endless).duration) == (20, 2)
    long = _make(tmp_path / "long.mkv", "-f", "lavfi", "-i", "sine=d=4", *SOURCE, "-map", "0", "-map", "1")
    assert len(list(video.probe(long).frames())) == 20
    assert "sound" in capsys.readouterr().out


@needs_ffmpeg
def test_frames_of_uneven_lengths_are_shown_as_long(tmp_path):
    frames = np.repeat(np.arange(12, dtype=np.uint8) * 20, 16 * 16 * 3).reshape(12, 16, 16, 3)
    path = _lossless(tmp_path / "film.mkv", frames, 10, "-vf", "select=not(between(n\\,3\\,5))", "-fps_mode", "vfr")
    assert [round(frame.mean() / 20) for frame in video.probe(path).frames(10)] == [0, 1, 2, 2, 2, 2, *range(6, 12)]


@needs_ffmpeg
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_read_upright(degrees, tmp_path):
    frames = _random()
    plain = _lossless(tmp_path / "plain.mov", frames, 25)
    turned = _make(tmp_path / "turned.mov", "-display_rotation", str(degrees), "-i", f"file:{plain}", "-c", "copy")
    found = video.probe(turned)
    upright = np.rot90(frames, degrees // 90, axes=(1, 2))  # both turn counterclockwise
    assert (found.height, found.width) == upright.shape[1:3] and found.rotation == 360 - degrees
    np.testing.assert_array_equal(list(found.frames()), upright)
    np.testing.assert_array_equal(list(found.frames(box=(3, 5, 20, 30))), upright[:, 5:35, 3:23])


@needs_ffmpeg
@pytest.mark.parametrize("name", ["-i.mkv", "a 'b' \"c\".mkv", "at%03d.mkv", "http:b.mkv", "ü\udcff.mkv", "a\nb.mkv"])
def test_names_of_all_kinds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(_lossless(tmp_path / "plain.mkv", _random(), 25), name)
    np.testing.assert_array_equal(list(video.probe(name).frames()), _random())


@needs_ffmpeg
def test_a_file_cut_off_in_the_middle_gives_its_frames_and_a_line(tmp_path, capsys):
    whole = _make(tmp_path / "whole.mp4", "-c:v", "mpeg4", "-movflags", "faststart").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[:len(whole) * 6 // 10])
    frames = list(video.probe(path).frames(10))
    assert 5 < len(frames) < 18
    assert f"only {len(frames)} of about 20 frames" in capsys.readouterr().out


@needs_ffmpeg
def test_damage_in_the_middle_is_said_and_the_whole_file_is_silent(tmp_path, capsys):
    path = _make(tmp_path / "film.avi", "-c:v", "mpeg4")
    assert len(list(video.probe(path).frames())) == 20
    assert capsys.readouterr().out == ""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 400] = _random().tobytes()[:400]
    path.write_bytes(data)
    frames = list(video.probe(path).frames())
    assert 15 < len(frames) <= 20
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and f"{len(frames)}" in line


def _cut(path):
    """A file of which the table of its frames, at its end, is lost."""
    whole = _make(path).read_bytes()
    path.write_bytes(whole[:len(whole) * 6 // 10])


BAD = {
    "missing": (lambda path: None, "no such file"),
    "text": (lambda path: path.write_text("a text\n" * 100), "not a readable video"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable video"),
    "png": (lambda path: Image.new("RGB", (9, 9)).save(path, "PNG"), "picture"),
    "jpeg": (lambda path: Image.new("RGB", (9, 9)).save(path, "JPEG"), "picture"),
    "sound": (lambda path: _make(path, "-f", "lavfi", "-i", "sine=d=1"), "sound only"),
    "table of frames lost": (_cut, "moov"),
    "pipe": (lambda path: __import__("os").mkfifo(path), "not a plain file"),
    "empty folder": (lambda path: path.mkdir(), "no PNG or JPEG"),
    "folder of unnumbered": (lambda path: _folder(path, _random(1), "a.png"), "no number"),
    "folder of doubles": (lambda path: (_folder(path, _random(2)), shutil.copy(path / "frame1.png", path / "f1.png")),
                          "same number"),
    "playlist": (lambda path: (_make(path.with_name("a.mkv")), path.write_text("ffconcat version 1.0\nfile a.mkv\n")),
                 "other files"),
}


@needs_ffmpeg
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_is_one_clear_line(kind, tmp_path):
    make, words = BAD[kind]
    make(tmp_path / "film.mp4")
    with pytest.raises(InputError, match=words) as error:
        video.probe(tmp_path / "film.mp4")
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


@needs_ffmpeg
def test_a_name_with_a_percent_sign_is_no_series_of_images(tmp_path):
    for name in ("f001.png", "f002.png", "f%03d.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    with pytest.raises(InputError, match="picture"):
        video.probe(tmp_path / "f%03d.png")


def test_arguments_out_of_range_are_refused_at_once(tmp_path):
    found = video.probe(_folder(tmp_path / "film", _random()), fps=10)
    for arguments in (dict(fps=0), dict(fps=float("nan")), dict(box=(0, 0, 65, 48)), dict(box=(-1, 0, 5, 5)),
                      dict(box=(0, 0, 0, 5)), dict(size=(0, 4))):
        with pytest.raises(InputError, match="film"):
            found.frames(**arguments)


def test_images_of_a_folder_come_in_the_order_of_their_numbers_and_have_one_size(tmp_path):
    frames = np.repeat(np.arange(12, dtype=np.uint8) * 20, 8 * 8 * 3).reshape(12, 8, 8, 3)
    folder = _folder(tmp_path / "film", frames, "shot{}.jpg")
    assert [round(frame.mean() / 20) for frame in video.probe(folder).frames()] == list(range(12))
    Image.new("RGB", (9, 8)).save(folder / "shot11.jpg")
    reading = video.probe(folder).frames()
    assert len([next(reading) for _ in range(11)]) == 11
    with pytest.raises(InputError, match="shot11"):
        next(reading)


@needs_ffmpeg
def test_reading_that_is_given_up_ends_ffmpeg(tmp_path, monkeypatch):
    started, start = [], subprocess.Popen
    found = video.probe(_make(tmp_path / "film.mkv", "-f", "lavfi", "-i", "testsrc=s=640x480:r=10:d=2"))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: started.append(start(*words, **options))
                        or started[-1])
    frames = found.frames()
    next(frames)
    (process,) = started
    assert process.poll() is None
    frames.close()
    assert process.poll() is not None


def test_without_its_package_the_ffmpeg_of_the_system_serves(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
        video.ffmpeg()
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert video.ffmpeg() == str(tmp_path / "ffmpeg")
