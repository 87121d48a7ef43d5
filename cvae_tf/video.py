"""Films as GIF files."""

import contextlib

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import getdata

from cvae_tf.files import atomic


def to_uint8(frames):
    """Floats in [0, 1], clipped to it, -> uint8; what is no number is black."""
    return np.uint8(np.rint(np.clip(np.nan_to_num(frames), 0, 1) * 255))


def side_by_side(*films, gap=1):
    """Join films (T, H, W, 3) left to right, white columns between them; floats or uint8, all alike."""
    white = 255 if films[0].dtype == np.uint8 else 1
    columns = np.full((*films[0].shape[:2], gap, 3), white, films[0].dtype)
    parts = [part for film in films for part in (columns, film)][1:]
    return np.concatenate(parts, axis=2)


@contextlib.contextmanager
def gif_writer(path, fps=20, scale=1):
    """Write an endlessly looping GIF part by part, atomically: only the part in hand is in memory.

    All frames share one palette, that of the first part, which is much faster than one palette each and does not
    flicker. Every frame is written, also one that equals the frame before.

    Args:
        path: ends in ``.gif``.
        fps: frames per second; GIF counts time in hundredths of a second, so 50 divided by it comes out rounded.
        scale: every pixel is drawn as a square of so many pixels.

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
                stream.writelines(getdata(image, duration=max(20, 10 * round(100 / fps)), interlace=0))

        yield append
        stream.write(b";")


def write_gif(path, frames, fps=20, scale=1):
    """Write frames (T, H, W, 3), floats in [0, 1] or uint8, as one GIF; the rest as `gif_writer`."""
    with gif_writer(path, fps, scale) as append:
        append(frames)


def _palette(frames):
    """An image with the palette for ``frames``."""
    sample = frames[:: max(1, len(frames) // 64)]
    # An octree keeps the thin coloured limbs of the poses; the median cut turns them grey in favour of the room.
    return Image.fromarray(sample.reshape(-1, *sample.shape[2:])).quantize(256, method=Image.Quantize.FASTOCTREE)


def _header(width, height, palette):
    """The beginning of a GIF: its size in pixels, a palette for all frames, and that it repeats without end."""
    size = np.array([width, height], "<u2").tobytes()
    colours = bytes(palette[:768]).ljust(768, b"\0")
    return b"GIF89a" + size + b"\xf7\0\0" + colours + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
