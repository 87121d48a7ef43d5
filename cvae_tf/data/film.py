"""Films as GIF, MP4, WebM or NPZ files, or as folders of PNG files; and pictures that show several frames of a film."""

import contextlib
import shutil
import subprocess
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cvae_tf.data import video
from cvae_tf.data.gif import GifEncoder
from cvae_tf.errors import InputError
from cvae_tf.files import MARK, atomic

ENCODERS = {  # suffix -> encoder of ffmpeg, and its options; the comment must lie near an end, see `check_writable`
    ".mp4": ("libx264", ["-crf", "10", "-f", "mp4"]),
    ".webm": ("libvpx-vp9", ["-crf", "18", "-b:v", "0", "-cpu-used", "5", "-row-mt", "1", "-f", "webm"]),
}
TO_YUV = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"
BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
SHEET = 24  # pictures on a contact sheet by default
GAP = 2  # pixels between the pictures of a contact sheet


def to_uint8(frames):
    """Convert floats to uint8: clipped to [0, 1], then rounded; NaN becomes 0. Frames of uint8 stay as they are."""
    if frames.dtype == np.uint8:
        return frames
    return np.uint8(np.rint(np.clip(np.nan_to_num(frames), 0, 1) * 255))


def side_by_side(*films, gap=1):
    """Join films (T, H, W, 3) from left to right, with ``gap`` white columns in between; all floats or all uint8."""
    white = 255 if films[0].dtype == np.uint8 else 1
    columns = np.full((*films[0].shape[:2], gap, 3), white, films[0].dtype)
    parts = [part for film in films for part in (columns, film)][1:]
    return np.concatenate(parts, axis=2)


def overlay(frames, poses):
    """Draw poses over frames.

    The lines of a pose cover the frame in their full colour, so that limbs can be seen on clothes of any colour. The
    darker the least channel of a pixel of the pose, the more it covers; where the pose is white, the frame shows.

    Args:
        frames, poses: (T, H, W, 3), floats in [0, 1] or uint8.

    Returns:
        (T, H, W, 3) uint8.
    """
    frames, poses = (to_uint8(x).astype(np.float32) for x in (frames, poses))
    paper = poses.min(-1, keepdims=True) / 255
    return np.uint8(np.rint(poses - paper * (255 - frames)))


def contact_sheet(frames, count=SHEET, columns=6, scale=1):
    """A picture of evenly spaced frames in rows, with white gaps between them.

    Args:
        frames: (T, H, W, 3), floats in [0, 1] or uint8.
        count: number of frames to show, from the first to the last; no more than T are shown.
        columns: number of frames in a row.
        scale: each pixel is drawn as a square of ``scale`` by ``scale`` pixels.

    Returns:
        (height, width, 3) uint8.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    pictures = _enlarged(np.stack([frames[i] for i in chosen]), scale, "nearest")
    height, width = pictures.shape[1:3]
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        y, x = k // columns * (height + GAP), k % columns * (width + GAP)
        sheet[y:y + height, x:x + width] = picture
    return sheet


def write_png(path, image):
    """Write an image (H, W, 3) uint8 as a PNG file, atomically; `check_writable` allows its replacement later.

    Raises:
        InputError: the file cannot be written.
    """
    comment = PngInfo()
    comment.add_text("Comment", MARK.decode())
    with atomic(path) as unfinished:
        Image.fromarray(image).save(unfinished, "PNG", pnginfo=comment)


def check(path, flag="--output"):
    """Check, before any work, that films can be written in the format that the suffix of ``path`` names.

    Args:
        path: path of the film; the file is not looked at.
        flag: the command-line flag that sets the path, for the message.

    Raises:
        InputError: there is no such format, or no ffmpeg with the encoder for it.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"{flag} must end in .gif, .mp4, .webm or .npz, or have no ending for a folder of PNG, "
                         f"received {path}")
    if suffix in ENCODERS:
        encoder, _ = ENCODERS[suffix]
        try:
            found = encoder in _encoders(video.ffmpeg())
        except InputError as error:
            raise InputError(f"{path}: {error}; or write a GIF") from error
        if not found:
            raise InputError(f"{path}: {video.ffmpeg()} has no encoder {encoder}: pip install imageio-ffmpeg; or write "
                             "a GIF")


@cache
def _encoders(_):
    return video.run(["-hide_banner", "-encoders"]).stdout.split()


def film_writer(path, fps=20, scale=1, enlarge="nearest"):
    """The writer for the suffix of ``path``: `gif_writer`, `video_writer`, `npz_writer`, or `png_writer` for none."""
    check(path)
    return WRITERS[Path(path).suffix.lower()](path, fps, scale, enlarge)


@contextlib.contextmanager
def gif_writer(path, fps=20, scale=1, enlarge="nearest"):
    """Write an endlessly looping GIF atomically, in parts; only one part at a time is in memory.

    All frames share the palette of the first part, which is much faster than one palette per frame and avoids flicker.
    Every frame is written, even if it equals the frame before. Colours that change little are not drawn anew, see
    `GifEncoder`.

    Args:
        path: path of the file; ends in ``.gif``.
        fps: frames per second. GIF stores a frame's duration in hundredths of a second, at least 2, since viewers slow
            down faster films. The durations are chosen so that the film is as long as it should be; 50 fps is the
            maximum.
        scale: frames are enlarged by this whole number.
        enlarge: ``"nearest"`` draws each pixel as a square of ``scale`` by ``scale`` pixels, ``"lanczos"``
            interpolates between pixels.

    Yields:
        A function that appends frames (T, H, W, 3), floats in [0, 1] or uint8.

    Raises:
        InputError: the file cannot be written.
    """
    squares = scale if enlarge == "nearest" else 1  # drawn by the encoder, which is faster than encoding large frames
    with atomic(path) as unfinished, open(unfinished, "wb") as stream:
        encoder = GifEncoder(stream, fps, squares)
        yield lambda frames: encoder.append(_enlarged(frames, scale // squares, enlarge))
        encoder.close()


@contextlib.contextmanager
def video_writer(path, fps=20, scale=1, enlarge="nearest"):
    """Write an MP4 (H.264) or WebM (VP9) file, as `gif_writer` does; odd widths and heights grow by one pixel.

    Raises:
        InputError: there is no ffmpeg with the encoder, or the file cannot be written.
    """
    check(path)
    with atomic(path) as unfinished, contextlib.ExitStack() as stack:
        encoder = None

        def append(frames):
            nonlocal encoder
            frames = _enlarged(frames, scale, enlarge)
            height, width = (size + size % 2 for size in frames.shape[1:3])
            frames = np.pad(frames, [(0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0)],
                            mode="edge")
            if encoder is None:
                encoder = stack.enter_context(_encoder(path, unfinished, width, height, fps))
            encoder(frames)

        yield append


@contextlib.contextmanager
def _encoder(path, unfinished, width, height, fps):
    """Pipe frames of one size to ffmpeg, which writes ``unfinished`` in the format of ``path``; yields a function."""
    name, options = ENCODERS[Path(path).suffix.lower()]
    command = [video.ffmpeg(), "-hide_banner", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
               "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", "-vf", TO_YUV, "-c:v", name, *BT709, *options,
               "-metadata", f"comment={MARK.decode()}", f"file:{unfinished}"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)

        def fail(error=None):
            process.wait()
            errors.seek(0)
            said = video.reason(errors.read(1 << 16).decode("utf-8", "replace"))
            raise InputError(f"{path}: cannot be written ({said})") from error

        def append(frames):
            try:
                process.stdin.write(np.ascontiguousarray(frames))
            except BrokenPipeError as error:
                fail(error)

        try:
            yield append
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait():
                fail()
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


@contextlib.contextmanager
def npz_writer(path, fps=20, scale=1, enlarge="nearest"):
    """Write an NPZ file with one array, ``frames`` (T, H, W, 3) uint8, as `gif_writer` does.

    The frames keep their size; ``fps``, ``scale`` and ``enlarge`` have no effect.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(path) as unfinished, tempfile.TemporaryFile(dir=unfinished.parent) as pixels:
        shape, count = (0, 0, 3), 0

        def append(frames):
            nonlocal shape, count
            shape, count = frames.shape[1:], count + len(frames)
            pixels.write(np.ascontiguousarray(to_uint8(frames)))

        yield append
        pixels.seek(0)  # copied, as an array begins with its length
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = MARK
            with archive.open("frames.npy", "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                shutil.copyfileobj(pixels, stream, 1 << 20)


@contextlib.contextmanager
def png_writer(path, fps=20, scale=1, enlarge="nearest"):
    """Write a new folder with ``frame000000.png`` and so on, as `gif_writer` does; ``fps`` has no effect.

    Raises:
        InputError: ``path`` exists, or the folder cannot be written.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; choose another --output")
    with atomic(path) as unfinished:
        unfinished.mkdir()
        count = 0

        def append(frames):
            nonlocal count
            for frame in _enlarged(frames, scale, enlarge):
                Image.fromarray(frame).save(unfinished / f"frame{count:06d}.png")
                count += 1

        yield append


WRITERS = {".gif": gif_writer, ".mp4": video_writer, ".webm": video_writer, ".npz": npz_writer, "": png_writer}


def _enlarged(frames, scale, enlarge):
    """Frames as uint8, enlarged ``scale`` times."""
    frames = to_uint8(frames)
    if scale == 1:
        return frames
    if enlarge == "nearest":
        return frames.repeat(scale, axis=1).repeat(scale, axis=2)
    size, method = (frames.shape[2] * scale, frames.shape[1] * scale), Image.Resampling[enlarge.upper()]
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, method)) for frame in frames])


def write_gif(path: str | Path, frames: np.ndarray, fps: float = 20, scale: int = 1) -> None:
    """Write frames (T, H, W, 3), floats in [0, 1] or uint8, as a GIF; the arguments are those of `gif_writer`."""
    with gif_writer(path, fps, scale) as append:
        append(frames)
