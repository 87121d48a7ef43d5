"""Reading videos: files by the program ffmpeg, and folders of images as videos.

`probe` describes a video; `Video.frames` reads it at a constant frame rate, with one frame at a time in memory.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np
from PIL import Image

from cvae_tf.data import images
from cvae_tf.errors import InputError, say
from cvae_tf.files import plain

PLAYLISTS = {"hls", "concat", "dash", "imf", "sdp", "rtsp"}  # ffmpeg would read the other files that these formats name
NO_VIDEOS = {"tty", "lavfi", "image2"}  # texts, descriptions of filters, and series of images whose names fit a %d
FOLDER_FPS = 20
WAIT = 120  # seconds that ffmpeg may take to read the header of a file
# As `-i` prints them. Metadata, which could hold the same words, is indented by four spaces or more.
DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.M)
STREAM = re.compile(r"^  Stream #\S+ (?P<kind>\w+): (?P<about>.*)(?P<more>(?:\n {4}.*)*)", re.M)
SIZE = re.compile(r", (\d+)x(\d+)(?:,? \[?SAR (\d+):(\d+))?")
RATE = re.compile(r", ([\d.]+)(k?) fps")
ROTATION = re.compile(r"display ?matrix: rotation of (-?[\d.]+)", re.I)
PREFIX = re.compile(r"^(\[[^]]*\] )*(Error opening input: )?")  # of a line that ffmpeg prints


def ffmpeg():
    """Path of the program ffmpeg: that of the package imageio-ffmpeg, or else the system's.

    Raises:
        InputError: there is none.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # RuntimeError: the package without its program
        path = shutil.which("ffmpeg")
    if path is None:
        raise InputError("reading videos, and writing MP4 or WebM, needs ffmpeg: pip install imageio-ffmpeg")
    return path


@dataclass(frozen=True)
class Video:
    """A video, as `probe` found it.

    Attributes:
        path: path of the file, or of the folder of images.
        width, height: size in pixels of the picture as it is shown: upright, with square pixels.
        fps: average frame rate in frames per second.
        duration: in seconds, as the file declares it.
        count: number of frames, estimated from frame rate and duration.
        rotation: degrees (0, 90, 180 or 270) by which the stored picture is turned clockwise to stand upright.
        images: paths of the frames if the video is a folder.
    """

    path: Path
    width: int
    height: int
    fps: float
    duration: float
    count: int
    rotation: int = 0
    images: tuple = ()

    def expected(self, fps):
        """The number of frames to expect at ``fps`` frames per second, by the declared duration."""
        return max(1, round(self.duration * fps))

    def frames(self, fps=None, box=None, size=None):
        """Read the video at a constant frame rate. Frames of a faster video are left out; those of a slower one repeat.

        A line is printed if frames are lost or damaged, for example because the end of the file is missing.

        Args:
            fps: frames per second to read; None: the video's own, on average.
            box: part (x, y, width, height) of the picture to read, in whole pixels; None: the whole picture.
            size: (width, height) in pixels to which the part is scaled, each new pixel the mean of the area that it
                covers; None: the size of the part.

        Returns:
            An iterator of frames, (H, W, 3) uint8, RGB, read-only. Closing the iterator ends the reading.

        Raises:
            InputError: an argument is out of range, at once; or no frame can be read, at the first frame.
        """
        fps = self.fps if fps is None else fps
        box = (0, 0, self.width, self.height) if box is None else tuple(map(int, box))
        size = box[2:] if size is None else tuple(map(int, size))
        if not 0 < fps <= 1000:
            raise InputError(f"{self.path}: cannot be read at {fps} frames per second; give a number above 0, and at "
                             "most 1000")
        x, y, width, height = box
        if not (0 <= x < x + width <= self.width and 0 <= y < y + height <= self.height):
            raise InputError(f"{self.path}: the box {box} does not lie in the picture of {self.width}x{self.height} "
                             "pixels; give x, y, width and height within it")
        if min(size) < 1:
            raise InputError(f"{self.path}: frames of {size[0]}x{size[1]} pixels; give a size of 1x1 or more")
        return _read_images(self, fps, box, size) if self.images else _read_file(self, fps, box, size)


def probe(path, fps=FOLDER_FPS):
    """Find out the size, the frame rate and the length of a video.

    Args:
        path: a video file that ffmpeg can read, or a folder of PNG and JPEG images in the order of the numbers in
            their names.
        fps: frame rate of a folder of images; without effect on a file, which has its own.

    Returns:
        A `Video`.

    Raises:
        InputError: there is no video at ``path``, or no ffmpeg to read it.
    """
    path = Path(path)
    if path.is_dir():
        return _probe_folder(path, fps)
    try:
        plain(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a video, or a folder of images") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or error) from error
    said = run(_input(path)).stderr
    kinds = re.search(r"^Input #0, (.*?), from ", said, re.M)
    if not kinds:
        raise _unreadable(path, reason(said))
    kinds = set(kinds[1].split(","))
    if kinds & PLAYLISTS:
        raise _unreadable(path, "a list of other files")
    if kinds & NO_VIDEOS or any(kind.endswith("_pipe") for kind in kinds):
        raise _unreadable(path, "a picture or a text")
    return _parse(path, said)


def _parse(path, said):
    """The first `Video` in a file, from the text ``said`` that ffmpeg prints; cover pictures of sound do not count."""
    stream = next((s for s in STREAM.finditer(said) if s["kind"] == "Video" and "(attached pic)" not in s["about"]),
                  None)
    if not stream:
        raise _unreadable(path, "it has sound only" if "Audio:" in said else "it has no pictures")
    size, rate = SIZE.search(stream["about"]), RATE.search(stream["about"])
    if not size:
        raise _unreadable(path, "its pictures have no size")
    if not rate:
        raise _unreadable(path, "a still picture, or pictures without times")
    width, height, *aspect = (int(number or 1) for number in size.groups())
    rotation = round(-float((ROTATION.search(stream["more"]) or (0, 0))[1]) / 90) * 90 % 360
    width = max(1, round(width * aspect[0] / aspect[1])) if all(aspect) else width
    if rotation % 180:
        width, height = height, width
    fps, duration, count = _times(path, DURATION.search(said), float(rate[1]) * (1000 if rate[2] else 1))
    return Video(path, width, height, fps, duration, count, rotation)


def _times(path, declared, fps):
    """(frames per second, duration in seconds, number of frames) of a file.

    Args:
        path: path of the file.
        declared: the match of `DURATION` in what ffmpeg prints, or None.
        fps: the declared frame rate.
    """
    if declared:
        hours, minutes, seconds = map(float, declared.groups())
        duration = 3600 * hours + 60 * minutes + seconds
        if duration > 0 and fps > 0:
            return fps, duration, max(1, round(duration * fps))
    else:  # as in recordings of a browser: read all packets of the file, without decoding them
        count, time = _packets(path)
        if count > 1 and fps > 0:
            duration = max(time / 1e6, count / fps)
            return count / duration, duration, count
    raise _unreadable(path, "its duration is 0" if declared else "a still picture")


def _packets(path):
    """(number of frames, time of the last one in microseconds), by reading a whole file without decoding it."""
    told = run([*_input(path), "-map", "0:V:0", "-c", "copy", "-f", "null", "-progress", "pipe:1", "-"], None).stdout
    return tuple(int(([0] + re.findall(rf"^{name}=\s*(\d+)", told, re.M))[-1]) for name in ("frame", "out_time_us"))


def count_frames(video):
    """The exact number of frames of a `Video`; `Video.count` is an estimate, which longer sound raises."""
    return video.count if video.images else _packets(video.path)[0] or video.count


def _probe_folder(folder, fps):
    if not 0 < fps <= 1000:
        raise InputError(f"{folder}: images at {fps} frames per second; give a number above 0, and at most 1000")
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg")
                 and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    paths.sort(key=images.number_of)
    if not paths:
        raise InputError(f"{folder}: no PNG or JPEG images in this folder; give a video, or a folder of images")
    for one, other in zip(paths, paths[1:], strict=False):
        if images.number_of(one) == images.number_of(other):
            raise InputError(f"{folder}: {one.name} and {other.name} have the same number; remove one of them")
    width, height = images.image_size(paths[0])
    return Video(folder, width, height, float(fps), len(paths) / fps, len(paths), images=tuple(paths))


def default_rate(videos):
    """Frames per second for some videos: the slowest video's rate, divided by a whole number so that it is at most 30.

    A whole divisor keeps the time between frames even.
    """
    slowest = min(video.fps for video in videos)
    return float(slowest / ceil(slowest / 30.5))


def shown_at(count, from_fps, to_fps):
    """The numbers of the frames of a video that are shown at another frame rate, as ``Video.frames`` reads them.

    Each new frame shows the last frame that is nearest to it or to an earlier one.

    Args:
        count: number of frames of the video.
        from_fps: its frame rate.
        to_fps: the other frame rate.
    """
    ratio, late = from_fps / to_fps, _late(from_fps, to_fps)
    new = max(1, floor((count + late) / ratio + 0.5))
    return [max(0, min(count - 1, ceil((t + 0.5) * ratio - late) - 1)) for t in range(new)]


def _late(from_fps, to_fps):
    """By how many frames the frames of a video are taken late, to leave some of them out.

    At half the rate, two frames are equally near to a new one. Rounded times would choose now one, now the other.
    """
    return 0.25 if to_fps < from_fps else 0.0


def _read_images(video, fps, box, size):
    """The generator of `Video.frames` for a folder. It repeats and leaves out images as ffmpeg's filter fps does."""
    x, y, width, height = box
    number = image = None
    for shown in shown_at(video.count, video.fps, fps):
        if shown != number:
            number = shown
            image = images.read_image(video.images[number], video.height, video.width, (video.width, video.height))
            image = image[y:y + height, x:x + width]
            if (width, height) != size:
                image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        yield image


def _read_file(video, fps, box, size):
    """The generator of `Video.frames` for a file."""
    x, y, width, height = box
    filters = [
        f"setpts=PTS-STARTPTS+{_late(video.fps, fps) / video.fps:.9f}/TB", f"fps={fps:.6f}",
        f"scale={video.width}:{video.height}",  # makes pixels square; most videos pass through
        f"crop={width}:{height}:{x}:{y}:exact=1",
        f"scale={size[0]}:{size[1]}:flags=area+accurate_rnd+full_chroma_int",
    ]
    command = [ffmpeg(), *_input(video.path), "-v", "error", "-map", "0:V:0", "-vf", ",".join(filters),
               "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    length, count = 3 * size[0] * size[1], 0
    # Errors go to a file, because they are not read before the end of the frames: a full pipe would block ffmpeg.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        try:
            while len(pixels := process.stdout.read(length)) == length:
                count += 1
                yield np.frombuffer(pixels, np.uint8).reshape(size[1], size[0], 3)
            process.wait()
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        errors.seek(0)
        said = errors.read(1 << 16).decode("utf-8", "replace")
    if not count:
        raise _unreadable(video.path, reason(said))
    expected = video.expected(fps)
    if count < expected - max(2, 0.02 * expected):
        say(f"{video.path}: only {count} of about {expected} frames could be read; the end of the file may be missing ("
            + (reason(said) if said else "or its sound lasts longer than its pictures") + ")")
    elif said or process.returncode:
        say(f"{video.path}: {count} frames were read, but some may be damaged ({reason(said)})")


def _input(path):
    """Arguments with which ffmpeg opens ``path``: nothing but this file, whatever its name and content."""
    return ["-hide_banner", "-nostdin", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]


def run(arguments, timeout=WAIT):
    """Run ffmpeg to its end.

    Args:
        arguments: what follows the program's name.
        timeout: seconds after which ffmpeg is ended; None: never.

    Returns:
        A `subprocess.CompletedProcess` with all that was printed, as text.

    Raises:
        InputError: ffmpeg is missing, cannot be started, or took too long.
    """
    try:
        return subprocess.run([ffmpeg(), *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                              encoding="utf-8", errors="replace")
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{arguments[-1]}: ffmpeg found no video in it within {WAIT} seconds") from error
    except OSError as error:
        raise InputError(f"{error.filename}: ffmpeg cannot be started ({error.strerror}); pip install imageio-ffmpeg"
                         ) from error


def reason(said):
    """The first line of the error messages of ffmpeg that names a cause."""
    lines = [PREFIX.sub("", line).strip() for line in said.splitlines()]
    return next((line for line in lines if line and "low score" not in line), "ffmpeg gives no reason")


def _unreadable(path, cause):
    return InputError(f"{path}: not a readable video ({cause}); give a whole video file, or a folder of images")
