"""The lab's test protocol: a film of each test sequence from its first frame and its poses, and the submission file."""

from pathlib import Path

import numpy as np

from cvae_tf.config import check_ranges
from cvae_tf.data import images
from cvae_tf.data.film import to_uint8, write_gif
from cvae_tf.data.sequences import sequence_folders, split_folder
from cvae_tf.errors import InputError, say
from cvae_tf.files import check_paths, check_writable, write_csv
from cvae_tf.inference.exported_model import folder_of, newest_model, open_model


def list_test_sequences(data_dir, split="test"):
    """List the sequences of a split by their folders, ``*_img/NAME`` and ``*_label/NAME``.

    The first image of a sequence is the given frame. The first pose counts as the given frame's pose, whatever its
    number, as in the lab.

    Returns:
        A list of (name, path of the given frame, paths of the poses), in the order of the sequences' numbers.

    Raises:
        InputError: a folder is missing or empty, or a sequence has fewer than two poses or a gap in their numbers.
    """
    found = []
    for name, frames, poses in sequence_folders(split_folder(data_dir, split)):
        first, pose_paths = images.list_images(frames)[0], images.list_images(poses)
        if len(pose_paths) < 2:
            raise InputError(f"{poses}: only one pose, the given frame's own; give at least one more")
        runs = images.uncut(pose_paths)
        if len(runs) > 1:
            raise InputError(f"{poses}: the numbers have a gap after {pose_paths[runs[0][1] - 1].name}; a sequence has "
                             "one frame given and consecutive poses")
        if first.name != pose_paths[0].name:
            say(f"{poses}: {pose_paths[0].name} is taken for the pose of the given frame, {first.name}")
        found.append((name, first, pose_paths))
    return found


def predict_split(model=None, data_dir=None, split="test", out="predictions", csv=None, *, seed=0, temperature=1.0,
                  fps=20, scale=4, overwrite=False):
    """Generate every sequence of a split, and write its film ``pred_seqNAME.gif`` and the submission file.

    The film and the rows of a sequence begin with the given frame, so the lab's 630 poses give 630 rows. A row holds
    its ``id``, counted over all sequences, and the frame's pixel values from 0 to 255 in the order channel, height,
    width. Unlike in the lab, values are clipped before they are rounded.

    Args:
        model: folder of an exported model, or an `ExportedModel`; None: the newest in ``saved_models/``.
        data_dir: folder of the data set in the lab's layout.
        split: ``"test"``, ``"val"``, or a folder that holds ``*_img`` and ``*_label``.
        out: folder of the films.
        csv: submission file; None: none is written.
        seed: seed of the latents, 0 or more.
        temperature: factor on the deviation of z from the prior's mean, from 0 to 100.
        fps: frames per second, from 1 to 50.
        scale: width and height in the film of each frame pixel, from 1 to 32 pixels.
        overwrite: replace films and a submission file that the program did not make.

    Raises:
        InputError: a value is out of range, an input is missing or unreadable, or an output cannot be written.
    """
    check_ranges(dict(seed=(0, 2**31 - 1), temperature=(0, 100), fps=(1, 50), scale=(1, 32)), seed=seed,
                 temperature=temperature, fps=fps, scale=scale)
    out = Path(out)
    if csv is not None:
        folder = Path(csv).absolute().parent
        if folder != out.absolute() and not folder.is_dir():
            raise InputError(f"{csv}: there is no folder {folder}; make it, or choose another --csv")
    path = newest_model() if model is None else model
    place = split_folder(data_dir, split)
    gifs = [out / f"pred_seq{name}.gif" for name, *_ in sequence_folders(place)]
    check_paths({"--model": folder_of(path), "--data_dir": data_dir, "--split": place}, {"--out": gifs, "--csv": csv})
    for gif in gifs:
        check_writable(gif, "--out", overwrite)
    if csv is not None:
        check_writable(csv, "--csv", overwrite)  # any program's table looks like ours
    model = open_model(path, chosen=model is None)
    sequences = list_test_sequences(data_dir, split)
    size, films = (model.height, model.width), []
    for _, first, poses in sequences:
        images.check_shapes(first, poses[0], *size)
    for name, first, poses in sequences:
        given = images.to_float(images.read_image(first, *size))
        generated = model.generate(given, images.read_images(poses, *size)[1:], seed, temperature)
        film = to_uint8(np.concatenate([given[None], generated]))
        gif = out / f"pred_seq{name}.gif"
        write_gif(gif, film, fps=fps, scale=scale)
        say(f"{gif}: {len(film)} frames by {model.path}")
        films.append(film)
    if csv is not None:
        pixels = np.concatenate(films).transpose(0, 3, 1, 2)
        rows = pixels.reshape(len(pixels), -1)
        write_csv(csv, ["id", *range(rows.shape[1])], ([i, *row.tolist()] for i, row in enumerate(rows)))
        print(f"{csv}: {len(rows)} rows of {rows.shape[1]} values")
