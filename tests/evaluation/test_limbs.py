"""Limbs are counted by hand here, with a stand-in for the pose detector; the true one sees a few frames."""

import json

import numpy as np
import pytest
from PIL import Image

from cvae_tf.data.sequences import Sequence
from cvae_tf.evaluation import evaluate as evaluation
from cvae_tf.evaluation import limbs, report
from cvae_tf.evaluation.evaluate import evaluate, evaluate_sequence
from cvae_tf.evaluation.summary import report_of
from cvae_tf.inference import exported_model
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.skeleton import LANDMARKS
from cvae_tf.studio import scene as studio

SIZE = (32, 64)
PLACE = {name: k for k, name in enumerate(LANDMARKS)}


@pytest.fixture(autouse=True)
def _every_tenth(monkeypatch):
    """Every tenth frame of short films too, so that three frames can be counted by hand."""
    monkeypatch.setattr(limbs, "FEWEST", 1)


def _film(*shades, size=SIZE):
    """A film (T, H, W, 3) of frames of one shade each, by which `_Find` tells them apart."""
    return np.broadcast_to(np.uint8(shades)[:, None, None, None], (len(shades), *size, 3))


class _Find:
    """Stands for the detector: finds ``points[shade]``, given in pixels of the film, in the enlarged frame."""

    def __init__(self, points, factor=8):
        self.points, self.factor, self.seen = points, factor, []

    def __call__(self, frame):
        self.seen.append(frame)
        points = self.points.get(int(frame[0, 0, 0]))
        return None if points is None else (np.float32(points) * self.factor, np.ones(33, np.float32))


def _person(x=32.0, y=4.0, height=20.0):
    """Points (33, 2) on a slant line in a box of ``height``, narrower than high: the nose on top, a foot below."""
    share = np.linspace(0, 1, 33)[:, None]
    return np.array([x, y]) + share * np.array([height / 4, height])


def _key_points(*people):
    """Key points of a film with the given points, each ten times, for the frames 0, 10, ... that are searched."""
    points = np.repeat(np.float32(people), limbs.EVERY, axis=0)
    return KeyPoints(points, np.float32(~np.isnan(points[..., 0])), SIZE[::-1], 20)


def _moved(points, **moves):
    points = points.copy()
    for name, move in moves.items():
        points[PLACE[name]] += move
    return points


def test_counts_by_hand():
    third = _moved(_person(), right_ankle=np.nan, left_elbow=(-60, 0), left_hip=(0, -60), right_hip=(0, 60))
    driving = _key_points(_person(), _person(), third)
    found = {0: _moved(_person() + (1, 0), left_wrist=(0.25, 0), right_knee=(0, 2)),  # 5 % of 20 pixels is 1 pixel
             20: _moved(third, left_wrist=(0, 1.25), left_knee=(0.5, 0.5))}
    found[20][PLACE["right_ankle"]] = 30
    counts = limbs.count_limbs(_Find(found), {"truth": _film(*range(30))}, driving)
    assert counts == {"driving_pose": "key points", "rows": {"truth": {
        "frames": 3, "found": 2, "people": 3,
        "joints": 12 + 12 + 8, "joints_near": 10 + 0 + 7, "ends": 4 + 4 + 3, "ends_near": 3 + 0 + 2}}}
    assert limbs.shares([counts])["rows"]["truth"] == {"found": 2 / 3, "joints": 17 / 32, "hands_and_feet": 5 / 11}


def test_a_driving_pose_without_a_person_in_the_picture_counts_no_joint():
    away, missing = _person(x=200), np.full((33, 2), np.nan)
    driving = _key_points(away, missing, _person())
    counts = limbs.count_limbs(_Find(dict.fromkeys(range(30), _person())), {"truth": _film(*range(30))}, driving)
    assert counts["rows"]["truth"] == {"frames": 3, "found": 3, "people": 1, "joints": 12, "joints_near": 12, "ends": 4,
                                       "ends_near": 4}
    for nobody in (_key_points(missing, missing), _key_points(away, away)):
        counts = limbs.count_limbs(_Find({}), {"truth": _film(*range(20))}, nobody)
        assert limbs.shares([counts]) == {"driving_pose": "key points", "searched_frames": 2, "frames_with_person": 0,
                                          "rows": {"truth": {"found": 0, "joints": None, "hands_and_feet": None}}}


@pytest.mark.parametrize("people", [
    [_person(height=10), _person(height=40), _person(height=20)],  # the median
    [_person(x=12)[:, ::-1]] * 3,  # lying, the longer side is the width
    [_person(), np.full((33, 2), np.nan), _person()],  # of the frames with a person
])
def test_the_body_height_is_the_median_longer_side_of_the_box(people):
    for distance, near in ((0.99, True), (1.01, False)):  # 5 % of 20 pixels is 1 pixel
        found = {10 * t: points + (0, distance) for t, points in enumerate(people) if not np.isnan(points).all()}
        row = limbs.count_limbs(_Find(found), {"truth": _film(*range(30))}, _key_points(*people))["rows"]["truth"]
        assert row["joints"] >= 12 and row["joints_near"] == near * row["joints"]


def test_without_key_points_the_driving_pose_is_found_in_the_true_frames():
    films = {"truth": _film(*range(30)), "prior": _film(*range(100, 130))}
    found = {0: _person(), 10: None, 20: _person(x=20), 100: _person(), 110: _person(), 120: _person()}
    counts = limbs.count_limbs(_Find(found), films)
    assert counts["driving_pose"] == "detector"
    assert counts["rows"]["truth"] == {"frames": 3, "found": 2, "people": 2, "joints": 0, "joints_near": 0, "ends": 0,
                                       "ends_near": 0}
    assert counts["rows"]["prior"] == {"frames": 3, "found": 3, "people": 2, "joints": 24, "joints_near": 12, "ends": 8,
                                       "ends_near": 4}


def test_sequences_count_by_their_joints():
    one = limbs.count_limbs(_Find({0: _person()}), {"truth": _film(0)}, _key_points(_person())[:1])
    nothing = limbs.count_limbs(_Find({}), {"truth": _film(*range(30))}, _key_points(*[_person()] * 3))
    assert limbs.shares([one, nothing]) == {
        "driving_pose": "key points", "searched_frames": 4, "frames_with_person": 4,
        "rows": {"truth": {"found": 1 / 4, "joints": 12 / 48, "hands_and_feet": 4 / 16}}}


def test_every_tenth_frame_is_searched_more_of_a_short_film_and_fewer_of_a_long_one(monkeypatch):
    monkeypatch.undo()
    for count, number, step in ((2, 2, 1), (9, 9, 1), (19, 19, 1), (63, 11, 6), (99, 11, 9), (300, 30, 10),
                                (629, 63, 10), (10_000, 63, 159)):
        frames = limbs.searched(count)
        assert len(frames) == number and frames[0] == 0 and frames[-1] < count and set(np.diff(frames)) == {step}


@pytest.mark.parametrize("size, expected", [((32, 64), (256, 512)), ((100, 30), (300, 90)), ((256, 20), (256, 20)),
                                            ((300, 40), (300, 40))])
def test_small_frames_are_enlarged_by_a_whole_number(size, expected):
    factor = expected[0] // size[0]
    points = np.tile([5.0, 7.0], (33, 1))
    points[0] = (5, 27)  # 20 pixels high
    key_points = KeyPoints(np.float32([points]), np.ones((1, 33)), size[::-1], 20)
    find = _Find({8: points}, factor)
    row = limbs.count_limbs(find, {"truth": _film(8, size=size)}, key_points)["rows"]["truth"]
    assert find.seen[0].shape == (*expected, 3) and row["joints_near"] == 12


def test_a_still_film_is_searched_once():
    find = _Find({5: _person()})
    row = limbs.count_limbs(find, {"truth": _film(*[5] * 100)}, _key_points(*[_person()] * 10))["rows"]["truth"]
    assert len(find.seen) == 1 and (row["found"], row["joints_near"]) == (10, 120)


# ---------------------------------------------------------------------- the true detector

@pytest.fixture(scope="module")
def sequence():
    return Sequence("one", *studio.sequence(0, *SIZE, length=31), key_points=studio.key_points(0, *SIZE, length=31))


class _Model:
    """Its samples are grey, and its posterior is the truth."""

    height, width = SIZE
    path = "saved_models/stand_in"

    def generate(self, first_frame, poses, seed, temperature=1.0):
        return np.full_like(poses, 0.5)

    def reconstruct(self, frames, poses):
        return frames[1:], np.ones(len(frames) - 1), np.zeros((len(frames) - 1, 2))


def test_the_detector_sees_the_studios_person_and_none_in_grey(sequence):
    find, ends = limbs.open_detector(), []
    result = evaluate_sequence(_Model(), sequence, samples=2, progress=lambda: ends.append(1), find=find)
    rows = result.limbs["rows"]
    assert len(ends) == 2 + 2 + 1 and list(rows) == list(limbs.ROWS)
    assert rows["truth"]["frames"] == rows["truth"]["found"] == rows["truth"]["people"] == 3
    assert rows["truth"]["joints_near"] > 18 and rows["posterior"] == rows["truth"]
    assert rows["prior"] == rows["truth"] | {"found": 0, "joints_near": 0, "ends_near": 0}
    assert rows["copy_first"]["found"] == 3


def test_each_frame_is_searched_anew(sequence):
    find = limbs.open_detector()
    large = [np.asarray(Image.fromarray(frame).resize((512, 256))) for frame in sequence.frames[[0, 30]]]
    alone = find(large[1])
    find(large[0])
    for after, before in zip(find(large[1]), alone, strict=True):
        np.testing.assert_array_equal(after, before)


# ---------------------------------------------------------------------- the report

@pytest.fixture
def short(sequence, monkeypatch):
    """The studio is one short sequence, and the detector finds nothing; the list of detectors that were opened."""
    opened = []
    monkeypatch.setattr(evaluation, "load_sequences", lambda *_, **__: [sequence])
    monkeypatch.setattr(limbs, "open_detector", lambda: opened.append(1) or _Find({}))
    return opened


def test_the_report_has_the_section_limbs(short, tmp_path, capsys):
    made = evaluate(_Model(), samples=1, out=tmp_path / "out", pose_detector=True)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    nobody = {"found": 0, "joints": 0, "hands_and_feet": 0}
    assert written["limbs"] == made["limbs"] == written["sequences"][0]["limbs"] == {
        "driving_pose": "key points", "searched_frames": 3, "frames_with_person": 3,
        "rows": dict.fromkeys(limbs.ROWS, nobody)}
    page, text = (tmp_path / "out" / "report.html").read_text(), capsys.readouterr().out
    for shown in (page, text):
        assert "truth (the yardstick)" in shown and "5% of the body height" in shown and "3 of 30 frames" in shown
    assert "<h2>Limbs</h2>" in page


def test_shares_are_percent_and_what_is_not_counted_is_a_dash(sequence):
    result = evaluate_sequence(_Model(), Sequence("one", sequence.frames, sequence.poses), samples=1, find=_Find({}))
    made = report_of([result], {"frame": SIZE})
    made["limbs"]["rows"]["prior"] = {"found": 1.0, "joints": 0.125, "hands_and_feet": None}
    text = report.as_text(made)
    (line,) = [line for line in text.splitlines() if "first sample" in line]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["100.0", "12.5", "-"]
    (line,) = [line for line in text.splitlines() if "the yardstick)" in line]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["0.0", "-", "-"]
    assert "finds in the true frame" in text


@pytest.mark.parametrize("given, installed, on", [(None, True, True), (None, False, False), (True, False, True),
                                                  (False, True, False)])
def test_the_search_is_on_if_its_package_is_installed_or_if_it_is_asked_for(given, installed, on, short, tmp_path,
                                                                            monkeypatch):
    monkeypatch.setattr(limbs, "is_installed", lambda: installed)
    monkeypatch.setattr(report, "write", lambda *_: None)
    made = evaluate(_Model(), samples=1, out=tmp_path / "out", pose_detector=given)
    assert len(short) == on and (made["limbs"] is not None) == on


@pytest.mark.parametrize("flags, expected", [([], None), (["--pose_detector"], True), (["--no-pose-detector"], False)])
def test_the_flag_forces_the_search(flags, expected, end_of, monkeypatch):
    given = []
    monkeypatch.setattr(evaluation, "evaluate", lambda model, **options: given.append(options["pose_detector"]))
    monkeypatch.setattr(exported_model, "use_one_thread_if_light", lambda path: None)
    monkeypatch.setattr(exported_model, "open_model", lambda path, chosen: path)
    assert end_of("evaluate", "--model", "some", *flags).code == 0
    assert given == [expected]
