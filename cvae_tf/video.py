"""Films as GIF files."""

import numpy as np
from PIL import Image

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


def write_gif(path, frames, fps=20, scale=1):
    """Write an endlessly looping GIF of exactly as many frames as given, atomically.

    All frames share one palette of up to 255 colours, which is much faster than one palette each and does not flicker.

    Args:
        path: ends in ``.gif``.
        frames: (T, H, W, 3), floats in [0, 1] or uint8.
        fps: frames per second; GIF counts time in hundredths of a second, so 50 divided by it comes out rounded.
        scale: every pixel is drawn as a square of so many pixels.

    Raises:
        InputError: the file cannot be written.
    """
    frames = frames if frames.dtype == np.uint8 else to_uint8(frames)
    sample = frames[:: max(1, len(frames) // 64)]
    # An octree keeps the thin coloured limbs of the poses; the median cut turns them grey in favour of the room.
    palette_image = Image.fromarray(sample.reshape(-1, *sample.shape[2:])).quantize(
        254, method=Image.Quantize.FASTOCTREE)
    palette = palette_image.getpalette()[: 3 * 254]
    palette += [0] * (3 * 254 - len(palette))
    # Writers drop a frame that equals the one before. Such a frame gets its first pixel in a spare colour instead, one
    # level off the true one, so that the film keeps its number of frames.
    corner = Image.fromarray(frames[0]).quantize(palette=palette_image, dither=Image.Dither.NONE).getpixel((0, 0))
    red, green, blue = palette[3 * corner: 3 * corner + 3]
    palette += [red, green, blue + 1 if blue < 255 else blue - 1]
    images, before = [], None
    for frame in frames:
        image = Image.fromarray(frame).quantize(palette=palette_image, dither=Image.Dither.NONE)
        indices = np.array(image)
        if before is not None and np.array_equal(indices, before):
            indices[0, 0] = 254
        before = indices
        image = Image.fromarray(np.repeat(np.repeat(indices, scale, 0), scale, 1))
        image.putpalette(palette)  # makes the grey image one of palette indices
        images.append(image)
    with atomic(path) as unfinished:
        images[0].save(unfinished, format="GIF", save_all=True, append_images=images[1:], loop=0,
                       duration=max(20, 10 * round(100 / fps)), optimize=False)
