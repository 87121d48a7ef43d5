"""Enlarged clips: a window around the person, enlarged to the size of the frame.

They show the person nearer to the camera and at other places in the frame than the footage does. The context frame is
enlarged in the same way, so the background can still be copied from it.
"""

import numpy as np
from PIL import Image

OFF_CENTRE = 0.25  # largest distance of the person from the middle of the window, as a fraction of the window
INK = 8  # smallest difference between the channels of a pixel that belongs to a drawn limb


def zoomed(frames, poses, context, random, largest):
    """Enlarge a clip.

    A drawn line would become wider by the factor of the enlargement. Its ink is made paler by the same factor, so that
    there is as much of it as in a drawing of a near person.

    Args:
        frames, poses: (T, H, W, 3) uint8, one clip.
        context: (H, W, 3) uint8, its context frame.
        random: `numpy.random.Generator`.
        largest: largest factor, at least 1. Factors from 1 to ``largest`` are drawn evenly on a logarithmic scale.

    Returns:
        ``(frames, poses, context)``, enlarged, of the same shapes.
    """
    height, width = frames.shape[1:3]
    factor = largest ** random.random()
    size = np.array([width, height]) / factor
    pose = poses[random.integers(len(poses))].astype(int)
    y, x = np.nonzero(np.ptp(pose, axis=-1) > INK)
    middle = np.array([x.mean(), y.mean()] if len(x) else [width / 2, height / 2])
    corner = middle + random.uniform(-OFF_CENTRE, OFF_CENTRE, 2) * size - size / 2
    left, top = np.clip(corner, 0, (width, height) - size)
    box = left, top, left + size[0], top + size[1]

    def enlarged(image):
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))

    paler = np.stack([255 - (255.0 - enlarged(pose)) / factor for pose in poses])
    return np.stack([enlarged(frame) for frame in frames]), np.uint8(np.rint(paler)), enlarged(context)
