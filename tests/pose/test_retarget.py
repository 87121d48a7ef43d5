import dataclasses
import json

import numpy as np
import pytest

from cvae_tf.errors import InputError
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.retarget import Person, measure, retarget
from cvae_tf.pose.skeleton import LANDMARKS
from cvae_tf.studio import scene

FPS = 25
# A person who faces the camera: sideways and up from the floor, in body heights.
STICK = {"nose": (0, 0.98), "left_ear": (0.04, 1), "left_shoulder": (0.1, 0.85), "left_elbow": (0.1, 0.67),
         "left_wrist": (0.1, 0.5), "left_index": (0.1, 0.44), "left_hip": (0.06, 0.5), "left_knee": (0.06, 0.26),
         "left_ankle": (0.06, 0), "left_heel": (0.06, -0.03), "left_foot_index": (0.08, -0.05)}
STICK |= {name.replace("left", "right"): (-x, y) for name, (x, y) in STICK.items() if "left" in name}
LIMBS = {"trunk": 0.35, "head": 0.15, "shoulder": 0.1, "upper_arm": 0.18, "forearm": 0.17, "hand": 0.06, "hip": 0.06,
         "thigh": 0.24, "shank": 0.26, "foot": np.hypot(0.02, 0.05)}
NEAR_PERSON = Person(0.9, 0.7, 0.7, 0.4, 0.1, LIMBS)


def _stick(ground, height, x=320, size=(640, 480), lift=0.0, stick=STICK):
    """Key points of a stick person, whose ground and body height (T,) and x are in pixels and lift in body heights."""
    ground, height, x, lift = np.broadcast_arrays(ground, height, x, lift)
    joints = {name: np.stack([x + a * height, ground - (b + lift) * height], 1) for name, (a, b) in stick.items()}
    return KeyPoints.from_joints(joints, size, FPS)


def _walk(places):
    """Places (T,) at which the person stands for four seconds each, in the middle of which nothing is smoothed."""
    return np.repeat(np.float64(places), 100), np.arange(50, 100 * len(places), 100)


def _joint(key_points, name):
    return key_points.joints()[name].astype(float)


def test_a_person_twice_as_tall_and_100_pixels_lower():
    driver, target = (_stick(np.full(50, ground), height, x) for ground, height, x in
                      ((300, 150, 300 + np.arange(50)), (400, 300, 200)))
    driver.points[7, 3] = driver.points[9] = np.nan
    result = retarget(driver, measure(driver), measure(target), target.size)
    middle = 300 + np.mean(np.arange(50)[np.arange(50) != 9])
    expected = np.float32([200, 400]) + 2 * (driver.points - np.float32([middle, 300]))
    np.testing.assert_allclose(result.points, expected, atol=0.05)  # NaN where the driver's points are
    assert np.isnan(result.points[9]).all() and result.size == (640, 480) and result.points.dtype == np.float32
    np.testing.assert_array_equal(result.confidence, driver.confidence)


def test_the_formula_of_the_paper_between_far_and_near():
    target = Person(0.85, 0.8, 0.6, 0.5, -0.2, {})
    positions, frames = _walk([0.7, 0.75, 0.8, 0.85, 0.9])  # from far to near, in heights of the picture
    heights = 0.4 + (positions - 0.7) / 0.2 * 0.3
    x = 320 + 480 * 0.1 + 30 * np.sin(np.arange(500))
    driver = _stick(480 * positions, 480 * heights, x)
    result = retarget(driver, NEAR_PERSON, target, (400, 200))
    share = (positions - 0.7) / (0.9 - 0.7)
    scale = 0.5 / 0.4 + share * (0.6 / 0.7 - 0.5 / 0.4)
    ankle = 0.8 + share * (0.85 - 0.8)
    nose = ankle + scale * (_joint(driver, "nose")[:, 1] / 480 - positions)
    np.testing.assert_allclose(_joint(result, "nose")[frames, 1], 200 * nose[frames], atol=1e-3)
    np.testing.assert_allclose(_joint(result, "left_ankle")[frames, 1], 200 * ankle[frames], atol=1e-3)
    assert result.size == (400, 200)
    across = -0.2 + scale * (x - 320 - 48) / 480
    np.testing.assert_allclose(_joint(result, "nose")[frames, 0], 200 + 200 * across[frames], atol=1e-3)
    np.testing.assert_allclose(result.joints()["nose"][frames[[0, -1]], 1] / 200, [0.8 - 0.49, 0.85 - 0.98 * 0.6],
                               atol=1e-5)  # the target's own height at both ends


def test_beyond_near_and_far_the_size_stays():
    positions, frames = _walk([0.6, 0.7, 0.9, 0.95])
    result = retarget(_stick(480 * positions, 240), NEAR_PERSON, Person(0.85, 0.8, 0.35, 0.2, 0, {}), (640, 480))
    ankle, nose = (_joint(result, name)[frames, 1] / 480 for name in ("left_ankle", "nose"))
    np.testing.assert_allclose(ankle, [0.8 - 0.05, 0.8, 0.85, 0.85 + 0.025], atol=1e-5)
    np.testing.assert_allclose(ankle - nose, 0.98 * 0.25, atol=1e-5)


@pytest.mark.parametrize("limbs", [False, True])
def test_a_driver_who_is_the_target_stays_as_he_is(limbs):
    t = np.arange(300)
    lift = np.where((t >= 100) & (t < 110), 0.2, 0)
    driver = _stick(400 + 40 * np.sin(t / 40), 250 + 20 * np.sin(t / 40), 300 + 50 * np.cos(t / 30), lift=lift)
    driver.points[40:50] = np.nan
    person = measure(driver)
    assert person.near_ground > person.far_ground
    np.testing.assert_allclose(retarget(driver, person, person, driver.size, limbs).points, driver.points, atol=1e-3)


@pytest.mark.parametrize("driver_far, target_far, ankle", [(0.9, 0.7, 0.8), (0.9, 0.9, 0.9), (0.7, 0.9, 0.9)])
def test_a_person_who_never_comes_nearer(driver_far, target_far, ankle):
    driver, target = (Person(0.9, far, 0.5, 0.5, 0, {}) for far in (driver_far, target_far))
    positions, frames = _walk([(0.9 + driver_far) / 2])
    result = retarget(_stick(480 * positions, 240), driver, target, (640, 480))
    np.testing.assert_allclose(_joint(result, "left_ankle")[frames, 1] / 480, ankle, atol=1e-6)


@pytest.mark.parametrize("limbs", [False, True])
def test_a_jump_keeps_its_height_in_body_heights(limbs):
    t = np.arange(200)
    lift = np.maximum(0, 0.25 - ((t - 100) / 8) ** 2 / 4)  # 0.64 seconds in the air
    driver = _stick(np.full(200, 400), 200, lift=lift)
    bent = STICK | {"left_knee": (0.06, 0.2), "right_knee": (-0.06, 0.2)}
    target = measure(_stick(np.full(50, 440), 100, stick=bent))
    assert measure(driver).near_ground == pytest.approx(400 / 480, abs=1e-6)  # not the ankles in the air
    result = retarget(driver, measure(driver), target, (640, 480), limbs)
    np.testing.assert_allclose((440 - _joint(result, "left_ankle")[:, 1]) / 100, lift, atol=1e-3)


def test_measured_between_near_and_far():
    horizon, camera = 150, 1.2  # a camera at 1.2 body heights: the ankles are that far below the horizon
    ground = np.interp(np.arange(420), [0, 150, 210, 360, 420], [300, 450, 450, 300, 300])
    height = (ground - horizon) / camera
    random = np.random.default_rng(0)
    key_points = _stick(ground, height, 400)
    key_points.points[:] += random.normal(0, 0.5, key_points.points.shape)
    joints = {name: k for k, name in enumerate(LANDMARKS)}
    for side in ("left", "right"):  # arms up, knees bent towards the camera, jumps
        key_points.points[20:60, joints[f"{side}_wrist"], 1] -= 200
        squat = np.arange(170, 200)
        key_points.points[squat[:, None], [joints[f"{side}_{part}"] for part in ("hip", "shoulder", "ear")], 1] += 60
    key_points.points[100:112, :, 1] -= 60
    key_points.points[230:240, joints["left_ankle"], 1] = 479  # unsure points in wrong places
    key_points.confidence[230:240, joints["left_ankle"]] = 0.1
    key_points.points[250:260, :, 1] += 200  # the feet leave the picture
    key_points.points[380] = np.nan
    person = measure(key_points)
    found = [person.near_ground, person.far_ground, person.near_height, person.far_height]
    np.testing.assert_allclose(480 * np.array(found), [450, 300, 250, 125], rtol=0.02)
    assert person.centre == pytest.approx((400 - 320) / 480, rel=0.02)
    assert person.limbs == pytest.approx(LIMBS, rel=0.1, abs=0.005)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_studios_person_has_the_height_that_his_camera_gives(number):
    """The ankles are 0.04 body heights above the floor, and the head is 0.9 above the ankles."""
    person = measure(scene.key_points(number, 480, 960))
    assert person.near_ground > person.far_ground + 0.1
    horizon = 0.87 - scene.PERSON * scene.CAMERA_HEIGHT
    for ground, height in ((person.near_ground, person.near_height), (person.far_ground, person.far_height)):
        assert height == pytest.approx(0.9 * (ground - horizon) / (scene.CAMERA_HEIGHT - 0.04), rel=0.03)
    for limb, length in dict(upper_arm=0.16, forearm=0.15, thigh=0.245, shank=0.245, foot=0.11, shoulder=0.115).items():
        assert person.limbs[limb] == pytest.approx(length / 0.9, rel=0.06)


def test_a_person_who_does_not_grow_does_not_come_nearer():
    nods, sways = 40 * np.sin(np.arange(200) / 30), 3 * np.sin(np.arange(200) / 30)
    for key_points in (_stick(380 + nods, 200), _stick(380 + sways, 200 + sways)):  # the camera; a standing person
        person = measure(key_points)
        assert person.near_ground == person.far_ground and person.near_height == person.far_height


def test_the_measures_of_one_frame_are_exact():
    person = measure(_stick(np.full(1, 384), 240, 368))
    assert dataclasses.astuple(person)[:5] == pytest.approx((0.8, 0.8, 0.5, 0.5, 0.1), rel=1e-6)
    assert person.limbs == pytest.approx(LIMBS, rel=1e-5)


def test_a_person_from_the_side_with_one_half_hidden():
    key_points = _stick(np.full(30, 384), 240)
    hidden = [k for k, name in enumerate(LANDMARKS) if name.startswith("right")]
    key_points.confidence[:, hidden] = 0.2
    person = measure(key_points)
    assert person.near_height == pytest.approx(0.5, rel=0.03) and "hip" not in person.limbs


@pytest.mark.parametrize("hide", [
    lambda kp: dataclasses.replace(kp, points=np.full_like(kp.points, np.nan)),
    lambda kp: dataclasses.replace(kp, points=kp.points + np.float32([0, 200])),  # the feet are below the picture
    lambda kp: dataclasses.replace(kp, confidence=np.full_like(kp.confidence, 0.3)),
    lambda kp: kp[:0],
], ids=["nobody", "no feet", "unsure", "no frames"])
def test_without_a_whole_person_there_are_no_measures(hide):
    with pytest.raises(InputError, match=r"a\.mp4: .*head to ankle"):
        measure(hide(_stick(np.full(10, 400), 200)), "a.mp4")


def test_a_driver_without_feet_is_put_on_the_floor():
    driver = _stick(np.full(10, 384), 240)
    driver.confidence[:, 27:] = 0
    result = retarget(driver, Person(0.9, 0.7, 0.5, 0.5, 0, {}), Person(0.9, 0.7, 0.25, 0.25, 0, {}), (640, 480))
    np.testing.assert_allclose(_joint(result, "left_ankle")[:, 1] / 480, 0.8, atol=1e-6)


@pytest.mark.parametrize("limbs", [False, True])
def test_one_frame_with_feet_in_a_wrong_place_or_none_does_not_move_the_body(limbs):
    driver = _stick(np.full(60, 400), 200)
    target = Person(0.9, 0.6, 0.7, 0.2, 0, LIMBS | {"shank": 0.3})
    ankles = [LANDMARKS.index(f"{side}_ankle") for side in ("left", "right")]
    driver.points[30, ankles, 1] += 70
    driver.points[40, ankles] = np.nan
    nose = _joint(retarget(driver, NEAR_PERSON, target, (640, 480), limbs), "nose")
    nose = np.delete(nose, 30 if limbs else [], axis=0)  # where the legs are longer than measured
    np.testing.assert_allclose(nose, np.broadcast_to(nose[0], nose.shape), atol=1e-3)


def test_limbs_take_the_targets_lengths_and_keep_their_directions():
    driver = _stick(np.full(40, 400), 200)
    random = np.random.default_rng(1)
    driver.points[:] += random.normal(0, 5, driver.points.shape)
    driver.points[3, LANDMARKS.index("left_elbow")] = np.nan
    driver.points[4, LANDMARKS.index("left_ankle")] = np.nan
    ratios = dict(trunk=1.2, head=0.8, shoulder=1.3, upper_arm=0.9, forearm=1.1, hand=0.7, hip=1.4, thigh=0.75,
                  shank=1.25, foot=1.5)
    target = Person(0.9, 0.9, 0.25, 0.25, 0, {limb: ratios[limb] * length for limb, length in LIMBS.items()})
    source = Person(400 / 480, 400 / 480, 0.5, 0.5, 0, LIMBS)
    plain, result = (retarget(driver, source, target, (640, 480), limbs=limbs).joints() for limbs in (False, True))
    for a, b, limb in (("pelvis", "neck", "trunk"), ("neck", "head", "head"), ("head", "nose", "head"),
                       ("neck", "right_shoulder", "shoulder"), ("left_shoulder", "left_elbow", "upper_arm"),
                       ("right_elbow", "right_wrist", "forearm"), ("right_wrist", "right_index", "hand"),
                       ("pelvis", "left_hip", "hip"), ("left_hip", "left_knee", "thigh"),
                       ("right_knee", "right_ankle", "shank"), ("right_ankle", "right_heel", "foot"),
                       ("left_ankle", "left_foot_index", "foot")):
        np.testing.assert_allclose(result[b] - result[a], ratios[limb] * (plain[b] - plain[a]), atol=1e-3, err_msg=limb)
    low_before, low_after = (np.fmax(joints["left_ankle"][:, 1], joints["right_ankle"][:, 1])
                             for joints in (plain, result))
    np.testing.assert_allclose(low_after, low_before, atol=1e-3)
    assert np.isnan(result["left_elbow"][3]).all() and not np.isnan(result["left_wrist"][3]).any()


def test_no_limb_changes_more_than_a_body_can():
    driver = _stick(np.full(40, 400), 200)
    source = measure(driver)
    target = dataclasses.replace(source, limbs=LIMBS | {"hand": 10 * LIMBS["hand"], "hip": 0.1 * LIMBS["hip"]})
    joints = retarget(driver, source, target, driver.size, limbs=True).joints()
    np.testing.assert_allclose(joints["left_index"] - joints["left_wrist"], [(0, 1.5 * 12)] * 40, atol=1e-3)
    np.testing.assert_allclose(joints["left_hip"] - joints["pelvis"], [(12 / 1.5, 0)] * 40, atol=1e-3)
    assert len(retarget(driver[:0], source, target, driver.size, limbs=True)) == 0


def test_a_person_survives_a_file():
    person = Person.from_dict(json.loads(json.dumps(NEAR_PERSON.to_dict())), "a.json")
    assert person == NEAR_PERSON


@pytest.mark.parametrize("change", [
    lambda c: c.pop("centre"), lambda c: c.update(more=1), lambda c: c.update(near_height=0),
    lambda c: c.update(near_height=float("nan")), lambda c: c.update(far_ground=0.95), lambda c: c.update(centre="x"),
    lambda c: c.update(near_ground=1e9), lambda c: c.update(limbs=[1]), lambda c: c.update(limbs={"tail": 0.1}),
    lambda c: c.update(limbs={"foot": -0.1}), lambda c: c.update(limbs={"foot": None}),
])
def test_a_damaged_description_is_refused(change):
    content = json.loads(json.dumps(NEAR_PERSON.to_dict()))
    change(content)
    with pytest.raises(InputError, match="a.json: does not describe a person"):
        Person.from_dict(content, "a.json")


@pytest.mark.parametrize("content", [None, [], 3, "person"])
def test_what_is_no_description_is_refused(content):
    with pytest.raises(InputError, match="a.json"):
        Person.from_dict(content, "a.json")
