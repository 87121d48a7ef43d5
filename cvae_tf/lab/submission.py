"""The lab's test protocol: a film of each test sequence from one frame and its poses, and the submission file.

``python predict.py --model saved_models/NAME --data_dir ROOT --split test --out DIR [--csv submission.csv]``
"""

from pathlib import Path

import numpy as np

from cvae_tf.data import images
from cvae_tf.data.film import to_uint8, write_gif
from cvae_tf.data.sequences import sequence_folders, split_folder
from cvae_tf.errors import InputError
from cvae_tf.files import check_writable, write_csv
from cvae_tf.inference.predict import Generator, newest_model


def test_sequences(data_dir, split):
    """(name, path of the given frame, paths of the poses) of each sequence, in the order of their numbers.

    They are found by their folders, ``*_img/NAME`` and ``*_label/NAME``; of the images, the first is the given frame.
    The first pose is the given frame's own, wherever the numbers start, as in the lab.

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
            print(f"{poses}: {pose_paths[0].name} is taken for the pose of the given frame, {first.name}", flush=True)
        found.append((name, first, pose_paths))
    return found


def predict_split(args):
    """Generate every sequence of a split and write its film, ``pred_seqNAME.gif``, and with ``--csv`` the file.

    Film and rows of a sequence begin with the given frame: 630 rows for the lab's 630 poses. A row is its ``id``,
    counted over all sequences, and the frame's values from 0 to 255 in the order channel, height, width. Differs from
    the lab: values are clipped before they are rounded.

    Raises:
        InputError: an input is missing or unreadable, or an output cannot be written.
    """
    if args.csv is not None:
        folder = Path(args.csv).absolute().parent
        if folder != Path(args.out).absolute() and not folder.is_dir():
            raise InputError(f"{args.csv}: there is no folder {folder}; make it, or choose another --csv")
        check_writable(args.csv, "--csv")
    check_writable(Path(args.out) / "pred_seq0.gif", "--out")
    path = Path(args.model) if args.model else newest_model()
    sequences = test_sequences(args.data_dir, args.split)
    generate = Generator(path)
    films = []
    for name, first, poses in sequences:
        given = images.to_float(images.read_image(first, generate.height, generate.width))
        drawn = images.to_float(images.read_images(poses, generate.height, generate.width))
        film = to_uint8(np.concatenate([given[None], generate(given, drawn[1:], args.seed, args.temperature)]))
        gif = Path(args.out) / f"pred_seq{name}.gif"
        write_gif(gif, film, fps=args.fps, scale=args.scale)
        print(f"{gif}: {len(film)} frames by {path}", flush=True)
        films.append(film)
    if args.csv is not None:
        pixels = np.concatenate(films).transpose(0, 3, 1, 2)
        rows = pixels.reshape(len(pixels), -1)
        write_csv(args.csv, ["id", *range(rows.shape[1])], ([i, *row.tolist()] for i, row in enumerate(rows)))
        print(f"{args.csv}: {len(rows)} rows of {rows.shape[1]} values")
