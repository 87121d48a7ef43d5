"""GIF files, written frame by frame: one palette for all frames, and only the changed part of each frame."""

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import getdata

from cvae_tf.files import MARK

CLEAR = 255  # index of the transparent colour
KEPT = 6  # largest difference, of 255 levels in each channel, at which a pixel keeps the colour that it shows
SAMPLE, PIXELS = 64, 300_000  # number of frames and of pixels from which the palette is made, roughly
COLOURED = 60  # range of the channels of a pixel that counts as coloured


class GifEncoder:
    """Writes an endlessly looping GIF to a stream.

    All frames share the palette of the first part. A pixel is written only if its colour is another entry of the
    palette than the colour shown, and differs from the shown one by more than `KEPT` levels. The comparison is with the
    colour shown, not with the frame before, so slow changes do not add up to errors. Each frame is one image of the
    file, cut to the box of its changes; in the box, unchanged pixels are transparent.

    Args:
        stream: file, open for writing bytes.
        fps: frames per second. GIF stores a frame's duration in hundredths of a second, at least 2, since viewers
            slow down faster films. So the durations of 30 frames per second are 3, 4, 3 and so on.
        scale: each pixel is drawn as a square of ``scale`` by ``scale`` pixels.
    """

    def __init__(self, stream, fps, scale=1):
        self.stream, self.scale = stream, scale
        self.fps, self.count = fps, 0
        self.colours = self.nearest = self.shown = None

    def append(self, frames):
        """Write frames (T, H, W, 3) uint8."""
        if self.colours is None and len(frames):
            self.colours = _palette(frames)
            self.nearest = np.full(1 << 24, -1, np.int16)  # the entry of each colour, as far as it was looked up
            self.stream.write(_header(frames.shape[2] * self.scale, frames.shape[1] * self.scale, self.colours))
        for frame in frames:
            self._append(frame)
            self.count += 1

    def close(self):
        """Write the end of the file; the stream stays open."""
        self.stream.write(b";")

    def _append(self, frame):
        indices = self._indices(frame)
        if self.shown is None:
            self.shown, (y, x) = indices, (0, 0)
            clear = {}
        else:
            changed = (indices != self.shown) & (np.abs(frame - self.colours[self.shown]).max(-1) > KEPT)
            np.copyto(self.shown, indices, where=changed)
            # Every image has one pixel or more: a frame without changes must last as long as any other.
            (y, y_end), (x, x_end) = (_range(changed.any(axis)) for axis in (1, 0))
            indices = np.where(changed, indices, np.uint8(CLEAR))[y:y_end, x:x_end]
            clear = {"transparency": CLEAR}
        image = Image.fromarray(indices)  # of mode L, which Pillow writes as it would write indices
        image = image.resize((image.width * self.scale, image.height * self.scale), Image.Resampling.NEAREST)
        until, since = (round(100 * n / self.fps) for n in (self.count + 1, self.count))
        duration = 10 * max(2, until - since)  # in ms, as Pillow takes it
        self.stream.writelines(getdata(image, (x * self.scale, y * self.scale), duration=duration, disposal=1,
                                       interlace=0, **clear))

    def _indices(self, frame):
        """Index of the nearest colour of each pixel: (H, W) uint8.

        Pillow's own search is coarse: it takes (248, 250, 252) for white.
        """
        codes = frame @ np.array([1 << 16, 1 << 8, 1])
        new = np.unique(codes[self.nearest[codes] < 0])
        colours = np.float32(self.colours)
        for part in np.array_split(new, len(new) // 4096 + 1):
            pixels = np.stack([part >> 16, part >> 8 & 255, part & 255], -1).astype(np.float32)
            self.nearest[part] = np.argmin((colours ** 2).sum(1) - 2 * pixels @ colours.T, 1)
        return np.uint8(self.nearest[codes])


def _range(changed):
    """(start, end) of the changes along one axis, (0, 1) if there are none."""
    places = np.flatnonzero(changed)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)


def _palette(frames):
    """The colours for ``frames``, (256, 3) int16; those after the first 255 different ones are never the nearest."""
    sample = frames[::max(1, len(frames) // SAMPLE)].reshape(-1, 3)
    sample = sample[::max(1, len(sample) // PIXELS) | 1]  # an odd step meets all columns
    # The thin coloured limbs of drawn poses are few of the pixels, and would get the colours of the grey room.
    coloured = sample[np.ptp(sample, axis=1) > COLOURED]
    if 0 < len(coloured) < len(sample) / 2:
        sample = np.concatenate([sample, np.repeat(coloured, len(sample) // (2 * len(coloured)), axis=0)])
    image = Image.fromarray(sample[None]).quantize(CLEAR, method=Image.Quantize.MEDIANCUT, kmeans=2)
    colours = np.array(image.getpalette(), np.int16).reshape(-1, 3)[:CLEAR]
    return np.concatenate([colours, np.tile(colours[:1], (256 - len(colours), 1))])


def _header(width, height, colours):
    """The beginning of a GIF: its size in pixels, the palette of all frames, endless repetition, and a comment."""
    size = np.array([width, height], "<u2").tobytes()
    endless = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    comment = b"!\xfe" + bytes([len(MARK)]) + MARK + b"\0"
    return b"GIF89a" + size + b"\xf7\0\0" + np.uint8(colours).tobytes() + endless + comment
