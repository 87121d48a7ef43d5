"""Key points of other programs: small files written by hand for each kind, bad ones, and damaged ones."""

import csv
import io
import json
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from mutations import FILES, damage, damaged, in_memory, outcome

from cvae_tf.errors import InputError
from cvae_tf.pose import bvh, formats
from cvae_tf.pose.formats import BODY_25, OPENPOSE_18, read_key_points
from cvae_tf.pose.keypoints import KeyPoints, write_poses
from cvae_tf.pose.skeleton import COCO, LANDMARKS

# Where the joints of a person are: each has a place of its own, (100 + 7 k, 50 + 5 k) for the landmark k.
PLACES = {name: (100 + 7 * k, 50 + 5 * k) for k, name in enumerate(LANDMARKS)}
SAME = {"left_big_toe": "left_foot_index", "right_big_toe": "right_foot_index"}


def _person(names, x=0, score=0.5, scale=1):
    """Rows [x, y, score] of a person; points that are no landmarks lie among the others."""
    rows = [PLACES.get(SAME.get(name, name), (150, 60)) for name in names]
    return [[scale * a + x, scale * b, score] for a, b in rows]


def _flat(rows):
    return [value for row in rows for value in row]


def _check(found, names, x=0, frame=0, score=0.5):
    """One frame has the person of `_person`, and nothing else."""
    assert isinstance(found, KeyPoints) and found.points.dtype == found.confidence.dtype == np.float32
    landmarks = {SAME.get(name, name) for name in names} & {*LANDMARKS}
    for k, name in enumerate(LANDMARKS):
        if name in landmarks:
            assert found.points[frame, k].tolist() == [PLACES[name][0] + x, PLACES[name][1]]
            assert found.confidence[frame, k] == np.float32(score)
        else:
            assert np.isnan(found.points[frame, k]).all() and found.confidence[frame, k] == 0


def _write_openpose(folder, frames, names=BODY_25, first=0):
    """A folder of OpenPose; ``frames`` are lists of people, None for a frame without a file."""
    folder.mkdir(exist_ok=True)
    for number, people in enumerate(frames, first):
        if people is not None:
            content = {"version": 1.3, "people": [
                {"person_id": [-1], "pose_keypoints_2d": _flat(person), "face_keypoints_2d": []} for person in people]}
            (folder / f"film2_{number:012d}_keypoints.json").write_text(json.dumps(content))
    return folder


# ---------------------------------------------------------------------- OpenPose

@pytest.mark.parametrize("names", [BODY_25, OPENPOSE_18])
def test_openpose(names, tmp_path):
    folder = _write_openpose(tmp_path / "json", [[_person(names)], [_person(names, 3)]], names)
    (folder / "notes.txt").write_text("not a frame")
    found = read_key_points(folder)
    assert len(found) == 2 and found.fps == 30
    _check(found, names)
    _check(found, names, x=3, frame=1)
    joints = found.joints()
    high = max(PLACES[SAME.get(name, name)][0] for name in names if SAME.get(name, name) in LANDMARKS)
    assert found.size == (high + 3, 50 + (high - 100) // 7 * 5)
    assert joints["left_ankle"][0].tolist() == list(PLACES["left_ankle"])
    assert read_key_points(folder, fps=12).fps == 12


def test_openpose_order_gaps_and_frames_without_a_person(tmp_path):
    frames = [[_person(BODY_25, x)] for x in range(12)]
    frames[3], frames[5] = None, []
    found = read_key_points(_write_openpose(tmp_path / "json", frames, first=95))
    assert len(found) == 12  # 95 to 106, which is no order of the alphabet without zeros
    assert found.present.tolist() == [t not in (3, 5) for t in range(12)]
    nose = found.joints()["nose"][:, 0] - PLACES["nose"][0]
    np.testing.assert_array_equal(nose, [np.nan if t in (3, 5) else t for t in range(12)])
    for file in (tmp_path / "json").iterdir():
        file.rename(file.with_name(f"{int(file.name.split('_')[1])}_keypoints.json"))
    np.testing.assert_array_equal(read_key_points(tmp_path / "json").points, found.points)


def test_points_with_confidence_0_are_missing(tmp_path):
    person = _person(BODY_25)
    person[BODY_25.index("left_wrist")] = [0, 0, 0]
    person[BODY_25.index("nose")] = [900, 900, 0]
    found = read_key_points(_write_openpose(tmp_path / "json", [[person]]))
    _check(found, [name for name in BODY_25 if name not in ("left_wrist", "nose")])


def test_the_largest_person_is_followed(tmp_path):
    """The followed person comes second at first, is smaller later, is hidden, and is found again."""
    def person(x, scale=1):
        return _person(BODY_25, x, scale=scale)

    other = person(900, 0.5)
    frames = [[other, person(0)], [person(5), other], [other, person(10, 0.7)], [other], [other, person(15)]]
    x = read_key_points(_write_openpose(tmp_path / "json", frames)).joints()["nose"][:, 0]
    np.testing.assert_array_equal(x, [100, 105, 80, np.nan, 115])


def test_a_person_who_is_alone_may_jump(tmp_path):
    x = read_key_points(_write_openpose(tmp_path / "json", [[_person(BODY_25, x)] for x in (0, 9000, 3)])).joints()
    np.testing.assert_array_equal(x["nose"][:, 0], [100, 9100, 103])


# ---------------------------------------------------------------------- COCO

def _coco(people, names=COCO, **more):
    """COCO's content of frames, each a list of people, given as dicts that are added to an annotation."""
    images = [{"id": 70 - t, "file_name": f"a/frame{t + 8}.png", "width": 640, "height": 480}
              for t in range(len(people))]
    annotations = [{"id": 10 * t + n, "image_id": 70 - t, "category_id": 1, **person}
                   for t, frame in enumerate(people) for n, person in enumerate(frame)]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": list(names)}], **more}


def _keypoints(names=COCO, x=0, visibility=2):
    return {"keypoints": _flat(_person(names, x, visibility))}


def test_coco_takes_the_largest_person_of_each_image_in_the_order_of_the_numbers(tmp_path):
    content = _coco([[_keypoints(x=1) | {"bbox": [0, 0, 2, 2]}, _keypoints(x=2) | {"bbox": [0, 0, 9, 9]}],
                     [_keypoints(x=4) | {"area": 80}, _keypoints(x=5) | {"area": 70}], [],
                     [_keypoints(x=6, visibility=1), _keypoints(visibility=0) | {"area": 1e6}]], info={"fps": 24})
    content["images"].reverse()
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    found = read_key_points(path)
    assert found.size == (640, 480) and found.fps == 24
    assert found.present.tolist() == [True, True, False, True]
    for frame, x in ((0, 2), (1, 4), (3, 6)):
        _check(found, COCO, x, frame, score=1)
    assert len(read_key_points(path, fps=12)) == 2


def test_coco_with_the_points_in_another_order(tmp_path):
    names = COCO[::-1]
    (tmp_path / "coco.json").write_text(json.dumps(_coco([[_keypoints(names)]], names)))
    _check(read_key_points(tmp_path / "coco.json"), COCO, score=1)


def test_our_own_file_keeps_all_landmarks(tmp_path):
    random = np.random.default_rng(0)
    points = random.uniform(10, 400, (4, 33, 2)).round(2).astype(np.float32)
    confidence = random.uniform(0.1, 1, (4, 33)).round(3).astype(np.float32)
    points[1], confidence[1] = np.nan, 0
    points[2, 5], confidence[2, 5] = np.nan, 0
    whole = KeyPoints(points, confidence, (640, 480), 25.0)
    write_poses(tmp_path / "poses.json", whole, [f"{t:06d}.png" for t in range(4)])
    found = read_key_points(tmp_path / "poses.json")
    np.testing.assert_array_equal(found.points, points)
    np.testing.assert_array_equal(found.confidence, confidence)
    assert found.size == (640, 480) and found.fps == 25


@pytest.mark.parametrize("identity", [lambda t: t, lambda t: f"{t}.jpg", lambda t: f"film_{t:05d}.mp4"])
def test_results_of_a_detector(identity, tmp_path):
    results = [{"image_id": identity(t), "category_id": 1, "score": 0.9, "keypoints": _flat(_person(COCO, t))}
               for t in (11, 9, 10, 13)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = read_key_points(tmp_path / "results.json", fps=25)
    assert len(found) == 5 and found.fps == 25 and found.present.tolist() == [True, True, True, False, True]
    for frame in (0, 1, 2, 4):
        _check(found, COCO, 9 + frame, frame)


# ---------------------------------------------------------------------- BlazePose and NumPy

@pytest.mark.parametrize("row, score", [(lambda x, y: [x, y], 1), (lambda x, y: [x, y, -40.5], 1),
                                        (lambda x, y: [x, y, 7, 0.5], 0.5)])
def test_lists_of_frames_of_blazepose(row, score, tmp_path):
    frames = [[row(x, y) for x, y, _ in _person(LANDMARKS)], [], None, [row(x, y) for x, y, _ in _person(LANDMARKS, 2)]]
    (tmp_path / "dump.json").write_text(json.dumps(frames))
    found = read_key_points(tmp_path / "dump.json")
    assert found.present.tolist() == [True, False, False, True]
    _check(found, LANDMARKS, score=score)
    _check(found, LANDMARKS, x=2, frame=3, score=score)


@pytest.mark.parametrize("names", [COCO, OPENPOSE_18, BODY_25, LANDMARKS])
def test_numpy(names, tmp_path):
    people = np.array([_person(names), _person(names, 1)])
    np.savez(tmp_path / "a.npz", keypoints=people)
    np.savez_compressed(tmp_path / "b.npz", anything=people[..., :2].astype(np.float32), size=[1920, 1080], fps=50)
    np.savez(tmp_path / "c.npz", points=people[:, ::-1, :2], confidence=people[:, :, 2], names=names[::-1])
    a, b, c = (read_key_points(tmp_path / f"{name}.npz") for name in "abc")
    for found, score in ((a, 0.5), (b, 1), (c, 0.5)):
        _check(found, names, score=score)
        _check(found, names, x=1, frame=1, score=score)
    assert (b.size, b.fps, a.fps) == ((1920, 1080), 50, 30)
    people[0, 0] = np.nan
    people[1, :2] = 0
    np.savez(tmp_path / "d.npz", people[..., :2])
    missing = np.isnan(read_key_points(tmp_path / "d.npz").points[:, LANDMARKS.index("nose"), 0])
    assert missing.tolist() == [True, True]


# ---------------------------------------------------------------------- SLEAP and DeepLabCut

SPELLINGS = {
    "plain": lambda side, part: f"{side}_{part}", "capitals": lambda side, part: f"{side} {part}".title(),
    "camel": lambda side, part: side + "".join(word.title() for word in part.split("_")),
    "letter": lambda side, part: f"{side[0].upper()}{part.title()}", "suffix": lambda side, part: f"{part}_{side[0]}",
    "dot": lambda side, part: f"{part}.{side.title()}",
}
BODY = tuple(name for name in COCO if name != "nose")


def _spelt(spelling):
    return ["Nose", *(SPELLINGS[spelling](*name.split("_", 1)) for name in BODY)]


def _csv(path, *rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_sleap_csv(spelling, tmp_path):
    names = [*_spelt(spelling), "tail"]
    person = [*_person(["nose", *BODY], 4), ["", "", ""]]
    header = ["track", "frame_idx", "instance.score", *(f"{name}.{c}" for name in names for c in ("x", "y", "score"))]
    found = read_key_points(_csv(tmp_path / "a.csv", header, ["track_0", 7, 0.9, *_flat(person)],
                                 ["track_0", 9, "", *_flat(person)]))
    assert found.present.tolist() == [False] * 7 + [True, False, True]  # the first frame has the number 0
    _check(found, COCO, x=4, frame=7)


def test_csv_without_numbers_of_frames_or_scores(tmp_path):
    names = _spelt("plain")
    rows = [[value for row in _person(["nose", *BODY], x) for value in row[:2]] for x in range(3)]
    found = read_key_points(_csv(tmp_path / "a.csv", [f"{name}_{c}" for name in names for c in "xy"], *rows))
    _check(found, COCO, x=2, frame=2, score=1)


@pytest.mark.parametrize("individuals", [False, True])
@pytest.mark.parametrize("place", [[], ["labeled-data", "film"]])
def test_deeplabcut_csv(individuals, place, tmp_path):
    names = ["nose", *BODY, "tailbase"]
    who = ["anna", "ben"] if individuals else ["anna"]
    blank = [""] * len(place)
    heads = [("scorer", *blank, *["net"] * (3 * len(names) * len(who)))]
    if individuals:
        heads.append(("individuals", *blank, *[person for person in who for _ in range(3 * len(names))]))
    heads += [("bodyparts", *blank, *[name for _ in who for name in names for _ in range(3)]),
              ("coords", *blank, *["x", "y", "likelihood"] * (len(names) * len(who)))]
    rows = [(*place, f"img{t:03d}.png" if place else t, *_flat(_person(names[:-1], t)), "", "", "",
             *(_flat(_person(names, 700, scale=0.3)) if individuals else ())) for t in range(4)]
    found = read_key_points(_csv(tmp_path / "dlc.csv", *heads, *rows))
    assert len(found) == 4
    for t in range(4):
        _check(found, COCO, x=t, frame=t)


def _write_sleap(path, names=("nose", *BODY), tracks=None, **more):
    h5py = pytest.importorskip("h5py")
    people = np.array([[_person(names, t), _person(names, 900, scale=0.3)] for t in range(3)])  # frames, tracks, K, 3
    with h5py.File(path, "w") as file:
        file["tracks"] = people[..., :2].transpose(1, 3, 2, 0) if tracks is None else tracks
        file["point_scores"] = people[..., 2].transpose(1, 2, 0)
        file["node_names"] = [name.encode() for name in names]
        for name, value in more.items():
            file[name] = value
    return path


def test_sleap_hdf5(tmp_path):
    found = read_key_points(_write_sleap(tmp_path / "sleap.analysis.h5"))
    assert len(found) == 3
    for t in range(3):
        _check(found, COCO, x=t, frame=t)


def test_bvh_by_its_content(tmp_path):
    text = _bvh()
    for name in ("a.bvh", "a.txt"):
        (tmp_path / name).write_text(text)
        found = read_key_points(tmp_path / name, fps=20, view="side")
        np.testing.assert_array_equal(found.points, bvh.key_points(tmp_path / name, "side", 20).points)


def _bvh():
    joints = "".join(f"JOINT {name}\n{{\nOFFSET {x} {y} 0\nCHANNELS 3 Zrotation Xrotation Yrotation\nEnd Site\n{{\n"
                     "OFFSET 0 1 0\n}\n}\n" for name, x, y in (("LeftHip", 1, 0), ("RightHip", -1, 0), ("Head", 0, 6)))
    rows = "\n".join(" ".join(["0.5"] * 15) for _ in range(3))
    return ("HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\nCHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation "
            f"Yrotation\n{joints}}}\nMOTION\nFrames: 3\nFrame Time: 0.1\n{rows}\n")


# ---------------------------------------------------------------------- bad input

def _blaze(frames=2, **change):
    return [[[x, y, 0] for x, y, _ in _person(LANDMARKS)] for _ in range(frames)]


BAD_JSON = {
    "not JSON": ("{", "no readable key points"),
    "empty": ("", "known format"),
    "an empty list": ([], "no frames"),
    "too deep": ("[" * 100_000, "RecursionError"),
    "a number of 5000 digits": ("[[[" + "9" * 5000 + "]]]", "no readable"),
    "one frame of OpenPose": ({"people": []}, "folder of all frames"),
    "another dict": ({"frames": [], "shape": 1}, "images.*found frames, shape"),
    "no dict in it": ({}, "found nothing"),
    "no annotations": (_coco([[]]), "no annotation with keypoints in its 1 images"),
    "another skeleton of COCO": (_coco([[{"keypoints": [1, 2, 2] * 14}]], [f"p{k}" for k in range(14)]),
                                 "unknown skeleton, with 14 points .*p0, p1.*expected"),
    "a mouse": (_coco([[{"keypoints": [1, 2, 2] * 4}]], ["nose", "left_ear", "right_ear", "tail"]), "unknown skeleton"),
    "another number of points": (_coco([[{"keypoints": [1, 2, 2] * 16}]]), "48 numbers, expected 51"),
    "an unknown image": ({**_coco([[_keypoints()]]), "images": [{"id": 1, "file_name": "1.png"}]}, "image 70"),
    "two sizes": ({**_coco([[_keypoints()]]), "images": [
        {"id": 70, "file_name": "1.png", "width": 5, "height": 5}, {"id": 2, "file_name": "2.png"}]}, "differ in size"),
    "a size of nothing": ({**_coco([[_keypoints()]]), "images": [
        {"id": 70, "file_name": "1.png", "width": 0, "height": 5}]}, "picture of 0x5"),
    "nobody": (_coco([[_keypoints(visibility=0)]]), "no point with a confidence"),
    "no rate": (_coco([[_keypoints()]], info={"fps": 0}), "0 frames per second"),
    "words": (_coco([[{"keypoints": ["a"] * 51}]]), "no readable key points"),
    "images of another type": ({"images": 5, "annotations": []}, "no list images"),
    "results without an image": ([{"keypoints": [1, 2, 2] * 17}], "image_id"),
    "results without a number": ([{"image_id": "x", "keypoints": [1, 2, 2] * 17}], "has no number"),
    "results far apart": ([{"image_id": n, "keypoints": [9, 8, 2] * 17} for n in (1, 10**9)], "at most 1000000"),
    "results of another skeleton": ([{"image_id": 1, "keypoints": [1, 2, 2] * 26}], "skeleton of 26 points"),
    "lists of another skeleton": ([[[1, 2, 3]] * 20], "skeleton of 20 points"),
    "lists of different lengths": ([*_blaze(), _blaze()[0][:32]], "not all 33 points"),
    "lists of five numbers": ([[[1, 2, 3, 4, 5]] * 33], "not all 33 points"),
    "lists without points": ([[], []], "skeleton of 0 points"),
    "numbers": ([1, 2], "no readable key points"),
    "texts": (["abc"], "skeleton of 3 points"),
    "infinite": ([[[1e400, 2, 3]] * 33], "infinite or beyond"),
    "absurd": ([[[5, 1e7, 3]] * 33], "infinite or beyond"),
    "fractions": ([[[0.5, 0.4, 0.1]] * 33], "fractions of the picture"),
    "nulls": ([[[None, None, None]] * 33], "no point with"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_with_one_line(case, tmp_path):
    content, message = BAD_JSON[case]
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "bad.json").write_text(text.replace("Infinity", "1e400"))
    _refused(tmp_path / "bad.json", message)


def _refused(path, message, **options):
    with pytest.raises(InputError, match=message) as error:
        read_key_points(path, **options)
    assert path.name in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("arrays, message", [
    ({}, "0 arrays"),
    ({"a": np.ones((2, 17, 3)), "b": np.ones((2, 17, 2))}, r"2 arrays.*a \(2, 17, 3\), b"),
    ({"a": np.ones((17, 3))}, "0 arrays"),
    ({"a": np.ones((2, 17, 3), complex)}, "0 arrays"),
    ({"a": np.ones((2, 14, 3))}, "skeleton of 14 points"),
    ({"a": np.zeros((0, 17, 3))}, "no frames"),
    ({"a": np.full((2, 17, 3), np.nan)}, "no point with"),
    ({"a": np.full((2, 17, 3), np.inf)}, "infinite or beyond"),
    ({"a": np.full((2, 17, 3), 9), "names": COCO[:5]}, "does not fit its 5 names"),
    ({"a": np.full((2, 17, 3), 9), "names": [f"p{k}" for k in range(17)]}, "unknown skeleton.*p0, p1"),
    ({"a": np.full((2, 17, 3), 9), "size": [1, 2, 3]}, "no readable"),
    ({"a": np.full((2, 17, 3), 9), "size": [-1, 2]}, "picture of -1x2"),
    ({"a": np.full((2, 17, 3), 9), "fps": [1, 2]}, "no readable"),
    ({"a": np.full((2, 17, 3), 9), "fps": np.nan}, "nan frames per second"),
    ({"a": np.full((2, 17, 3), 9), "confidence": np.ones((3, 17))}, "no readable"),
    ({"a": np.array([None])}, "no readable"),
])
def test_bad_arrays_are_refused_with_one_line(arrays, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    _refused(tmp_path / "bad.npz", message)


HEADER = ",".join(f"{name}.{c}" for name in COCO for c in "xy") + "\n"


@pytest.mark.parametrize("text, message", [
    ("", "no columns such as"),
    ("a,b\n1,2\n", "no columns such as.*found a, b"),
    ("scorer,n,n,n\nbodyparts,nose,nose,nose\n", "no columns such as"),
    ("tail.x,tail.y,paw.x,paw.y\n1,2,3,4\n", "unknown skeleton.*tail, paw"),
    (HEADER, "no frames"),
    (HEADER + "1,2\n", "row 1 below the header"),
    (HEADER + ",".join(["much"] * 34), "row 1 below the header"),
    (HEADER + ",".join(["1e9"] * 34), "infinite or beyond"),
    ("frame," + HEADER + ",".join(["x"] * 35), "number of a frame"),
    ("\0", "no columns|no readable"),
    ('"' + "a" * 200_000, "no readable"),
])
def test_bad_csv_is_refused_with_one_line(text, message, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    _refused(tmp_path / "bad.csv", message)


def test_bad_folders_of_openpose(tmp_path):
    folder = tmp_path / "json"
    folder.mkdir()
    _refused(folder, "no files .*_keypoints.json")
    _write_openpose(folder, [[]])
    _refused(folder, "no person in its 1 frames")
    (folder / "film3_0_keypoints.json").write_text('{"people": []}')
    _refused(folder, "the same number")
    (folder / "film3_0_keypoints.json").unlink()
    _write_openpose(folder, [[_person(BODY_25)], [_person(OPENPOSE_18)]])
    _refused(folder, "54 numbers.*the same in all files|75 numbers.*the same")
    _write_openpose(folder, [[_person(BODY_25[:15])], []])
    _refused(folder, "45 numbers, expected 75")
    for content in ("{", "[]", '{"people": 5}', '{"people": [5]}', '{"people": [{"pose_keypoints_2d": "x"}]}'):
        (folder / "film2_000000000000_keypoints.json").write_text(content)
        with pytest.raises(InputError, match="000_keypoints.json: not a frame"):
            read_key_points(folder)


def test_bad_hdf5(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "bad.h5"
    _refused(_write_sleap(path, tracks=np.zeros((3, 2, 9, 2))), "tracks of shape")
    with h5py.File(path, "w") as file:
        file["df_with_missing/table"] = np.zeros(3)
    _refused(path, "found df_with_missing.*export it as CSV")
    path.write_bytes(path.read_bytes()[:600])
    _refused(path, "cannot be read as HDF5.*export it as CSV")
    for program, message in (("import time; time.sleep(60)", "within 0.5 s"), ("import os; os.abort()", "stopped"),
                             ("raise ImportError(\"No module named 'h5py'\")", "pip install h5py")):
        monkeypatch.setattr(formats, "HDF5_PROGRAM", program)
        monkeypatch.setattr(formats, "HDF5_SECONDS", 60 if message != "within 0.5 s" else 0.5)
        _refused(path, message)


def test_other_bad_input(tmp_path, monkeypatch):
    _refused(tmp_path / "none.json", "no such file")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0 ftypisom")
    _refused(tmp_path / "film.mp4", "known format")
    np.savez(tmp_path / "big.npz", a=np.full((2, 17, 3), 9))
    for fps in (0, -5, 1e9):
        with pytest.raises(InputError, match="fps: "):
            read_key_points(tmp_path / "big.npz", fps)
    monkeypatch.setattr(formats, "LARGEST", 100)
    _refused(tmp_path / "big.npz", "larger than")


# ---------------------------------------------------------------------- damaged files

def _npz():
    stream = io.BytesIO()
    np.savez(stream, keypoints=np.array([_person(COCO)] * 3), size=[640, 480], fps=25.0)
    return stream.getvalue()


def _table():
    rows = [["frame", *(f"{name}.{c}" for name in COCO for c in ("x", "y", "score"))],
            *([t, *_flat(_person(COCO, t))] for t in range(3))]
    return "\n".join(",".join(map(str, row)) for row in rows).encode()


FORMS = {"coco.json": json.dumps(_coco([[_keypoints(), _keypoints()]] * 2, info={"fps": 25})).encode(),
         "results.json": json.dumps([{"image_id": n, "keypoints": _flat(_person(COCO))} for n in range(3)]).encode(),
         "blaze.json": json.dumps(_blaze()).encode(), "a.npz": _npz(), "a.csv": _table(), "a.bvh": _bvh().encode(),
         "openpose": json.dumps({"people": [{"pose_keypoints_2d": _flat(_person(BODY_25))}] * 2}).encode()}
WORDS = ("images", "annotations", "keypoints", "image_id", "70", "file_name", "frame8", "640", "nose", "left_knee",
         ".x", "people", "pose_keypoints_2d", "100", "NUMPY", "<f8", "(3, 17, 3)", "fps", "0.5", "[", "]", "{", ",",
         ":")


@pytest.fixture(scope="module")
def folder():
    with in_memory() as folder:
        yield folder


@pytest.mark.parametrize("name", FORMS)
def test_every_kind_of_the_damaged_files_is_read_whole(name, folder):
    path = _put(folder, name, FORMS[name])
    assert read_key_points(path).present.all()


def _put(folder, name, content):
    path = folder / name
    if name == "openpose":
        path.mkdir(exist_ok=True)
        (path / "1_keypoints.json").write_bytes(content)
    else:
        path.write_bytes(content)
    return path


@settings(max_examples=FILES)
@example("coco.json", [("swap", 0, "[", "[" * 3000)])
@example("a.csv", [("swap", 0, "0.5", "9" * 5000)])
@given(st.sampled_from([*FORMS]), damage(*WORDS))
def test_damaged_files_give_key_points_or_one_line(folder, name, changes):
    found = outcome(read_key_points, _put(folder, name, damaged(FORMS[name], changes)))
    if found is not None:
        present = found.confidence > 0
        assert found.points.shape == (len(found), 33, 2) and present.any()
        assert (np.isnan(found.points[..., 0]) == ~present).all() and (found.confidence <= 1).all()
        assert (np.abs(found.points[present]) <= 1e6).all() and min(found.size) >= 1


@pytest.mark.slow
@settings(max_examples=min(FILES, 1000))
@given(damage("tracks", "node_names", "nose", "TREE", "HEAP", "SNOD"))
def test_damaged_hdf5_gives_key_points_or_one_line(folder, changes):
    path = folder / "sleap.h5"
    if not path.exists():
        _write_sleap(path)
    damaged_path = folder / "damaged.h5"
    damaged_path.write_bytes(damaged(path.read_bytes(), changes))
    with mock.patch.object(formats, "HDF5_SECONDS", 5):  # some of them hang
        found = outcome(read_key_points, damaged_path)
    assert found is None or found.present.any()
