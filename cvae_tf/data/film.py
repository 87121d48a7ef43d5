"""Films as GIF or MP4 files, or as folders of PNG files."""

import contextlib

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import getdata

from cvae_tf.errors import InputError
from cvae_tf.files import MARK, atomic


def to_uint8(frames):
    """Convert floats to uint8: clipped to [0, 1], then rounded; NaN becomes 0."""
    return np.uint8(np.rint(np.clip(np.nan_to_num(frames), 0, 1) * 255))


def side_by_side(*films, gap=1):
    """Join films (T, H, W, 3) from left to right, with ``gap`` white columns in between; all floats or all uint8."""
    white = 255 if films[0].dtype == np.uint8 else 1
    columns = np.full((*films[0].shape[:2], gap, 3), white, films[0].dtype)
    parts = [part for film in films for part in (columns, film)][1:]
    return np.concatenate(parts, axis=2)


def film_writer(path, fps=20, scale=1):
    """The writer for the suffix of ``path``: `gif_writer`, `mp4_writer`, or `png_writer` if there is no suffix."""
    return WRITERS[path.suffix.lower()](path, fps, scale)


@contextlib.contextmanager
def gif_writer(path, fps=20, scale=1):
    """Write an endlessly looping GIF atomically, in parts; only one part at a time is in memory.

    All frames share the palette of the first part, which is much faster than one palette per frame and avoids flicker.
    Every frame is written, even if it equals the frame before.

    Args:
        path: path of the file; ends in ``.gif``.
        fps: frames per second. GIF stores a frame's duration in hundredths of a second: ``round(100 / fps)``, but at
            least 2, since viewers slow down faster films. So 20 fps is exact, 30 fps becomes 33, and 50 fps is the
            maximum.
        scale: each pixel is drawn as a square of ``scale`` by ``scale`` pixels.

    Yields:
        A function that appends frames (T, H, W, 3), floats in [0, 1] or uint8.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(path) as unfinished, open(unfinished, "wb") as stream:
        palette = None

        def append(frames):
            nonlocal palette
            frames = frames if frames.dtype == np.uint8 else to_uint8(frames)
            if palette is None:
                palette = _palette(frames)
                stream.write(_header(frames.shape[2] * scale, frames.shape[1] * scale, palette.getpalette()))
            for frame in frames:
                image = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
                image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
                stream.writelines(getdata(image, duration=10 * max(2, round(100 / fps)), interlace=0))

        yield append
        stream.write(b";")


@contextlib.contextmanager
def mp4_writer(path, fps=20, scale=1):
    """Write an MP4 file (H.264), as `gif_writer` does; odd widths and heights grow by one pixel.

    Raises:
        InputError: the package imageio-ffmpeg, which has the encoder, is not installed; or the file cannot be written.
    """
    try:
        from imageio_ffmpeg import write_frames
    except ImportError as error:
        raise InputError(f"{path}: MP4 needs another package: pip install imageio-ffmpeg; or write a GIF") from error
    with atomic(path) as unfinished, contextlib.ExitStack() as stack:
        encoder = None

        def append(frames):
            nonlocal encoder
            frames = _enlarged(frames, scale)
            height, width = (size + size % 2 for size in frames.shape[1:3])
            frames = np.pad(frames, [(0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0)],
                            mode="edge")
            if encoder is None:
                encoder = write_frames(str(unfinished), (width, height), fps=fps, codec="libx264", quality=8,
                                       macro_block_size=2,
                                       output_params=["-f", "mp4", "-metadata", f"comment={MARK.decode()}"])
                encoder.send(None)
                stack.callback(encoder.close)
            for frame in frames:
                encoder.send(np.ascontiguousarray(frame))

        yield append
        stack.close()  # completes the file before it gets its name


@contextlib.contextmanager
def png_writer(path, fps=20, scale=1):
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
            for frame in _enlarged(frames, scale):
                Image.fromarray(frame).save(unfinished / f"frame{count:06d}.png")
                count += 1

        yield append


WRITERS = {".gif": gif_writer, ".mp4": mp4_writer, "": png_writer}


def _enlarged(frames, scale):
    """Frames as uint8, each pixel enlarged to a square of ``scale`` by ``scale`` pixels."""
    frames = frames if frames.dtype == np.uint8 else to_uint8(frames)
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def write_gif(path, frames, fps=20, scale=1):
    """Write frames (T, H, W, 3), floats in [0, 1] or uint8, as a GIF; the arguments are those of `gif_writer`."""
    with gif_writer(path, fps, scale) as append:
        append(frames)


def _palette(frames):
    """An image that carries the palette for ``frames``."""
    sample = frames[:: max(1, len(frames) // 64)]
    # An octree keeps the thin coloured limbs of the poses; a median cut turns them grey, in favour of the room.
    return Image.fromarray(sample.reshape(-1, *sample.shape[2:])).quantize(256, method=Image.Quantize.FASTOCTREE)


def _header(width, height, palette):
    """The beginning of a GIF: its size in pixels, the palette of all frames, endless repetition, and a comment."""
    size = np.array([width, height], "<u2").tobytes()
    colours = bytes(palette[:768]).ljust(768, b"\0")
    comment = b"!\xfe" + bytes([len(MARK)]) + MARK + b"\0"
    return b"GIF89a" + size + b"\xf7\0\0" + colours + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" + comment
