"""BVH files: forward kinematics against pybvh and by hand, the names of many rigs, the camera, and bad files."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from mutations import FILES, damage, damaged, in_memory, outcome

from cvae_tf.errors import InputError
from cvae_tf.pose import bvh
from cvae_tf.pose.keypoints import KeyPoints

CHAIN = """HIERARCHY
ROOT base
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT middle
  {
    OFFSET 0 2 0
    CHANNELS 3 %s
    End Site
    {
      OFFSET 1 0 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.04
0 0 0 0 0 0 0 0 0
%s
"""
# A person in a T-pose who faces +z, with y up: name, parent, offset.
PERSON = (("Hips", None, (0, 0, 0)), ("LeftUpLeg", "Hips", (1, 0, 0)), ("LeftLeg", "LeftUpLeg", (0, -4, 0)),
          ("LeftFoot", "LeftLeg", (0, -4, 0)), ("LeftToeBase", "LeftFoot", (0, -0.5, 1.5)),
          ("RightUpLeg", "Hips", (-1, 0, 0)), ("RightLeg", "RightUpLeg", (0, -4, 0)),
          ("RightFoot", "RightLeg", (0, -4, 0)), ("RightToeBase", "RightFoot", (0, -0.5, 1.5)),
          ("Spine", "Hips", (0, 3, 0)), ("LeftShoulder", "Spine", (0.5, 2, 0)),
          ("LeftArm", "LeftShoulder", (1.5, 0, 0)), ("LeftForeArm", "LeftArm", (3, 0, 0)),
          ("LeftHand", "LeftForeArm", (2.5, 0, 0)),
          ("RightShoulder", "Spine", (-0.5, 2, 0)), ("RightArm", "RightShoulder", (-1.5, 0, 0)),
          ("RightForeArm", "RightArm", (-3, 0, 0)), ("RightHand", "RightForeArm", (-2.5, 0, 0)),
          ("Neck", "Spine", (0, 2, 0)), ("Head", "Neck", (0, 1, 0)))


def _text(joints, values, channels=lambda name: "Zrotation Xrotation Yrotation", seconds=0.1):
    """BVH text of joints (name, parent, offset); the root has positions first, then ``channels``."""
    def tree(name, offset, depth):
        below = [(child, place) for child, parent, place in joints if parent == name]
        own = ("Xposition Yposition Zposition " if depth == 0 else "") + channels(name)
        return "\n".join([f"{'JOINT' if depth else 'ROOT'} {name}", "{", f"OFFSET {offset[0]} {offset[1]} {offset[2]}",
                          f"CHANNELS {len(own.split())} {own}", *(tree(*child, depth + 1) for child in below),
                          *([] if below else ["End Site", "{", "OFFSET 0 0.5 0", "}"]), "}"])
    rows = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in values)
    return (f"HIERARCHY\n{tree(joints[0][0], joints[0][2], 0)}\nMOTION\nFrames: {len(values)}\n"
            f"Frame Time: {seconds}\n{rows}\n")


def _person(path, values=None, turn=None, **options):
    """Write the person, with the rig's axes turned by a matrix."""
    joints = [(name, parent, tuple(turn @ np.array(offset)) if turn is not None else offset)
              for name, parent, offset in PERSON]
    values = np.zeros((3, 3 + 3 * len(PERSON))) if values is None else values
    path.write_text(_text(joints, values, **options))
    return path


# ---------------------------------------------------------------------- forward kinematics

@pytest.mark.parametrize("channels, row, middle, end", [
    ("Zrotation Xrotation Yrotation", "0 0 0 0 0 0 90 0 0", (0, 2, 0), (0, 3, 0)),
    ("Zrotation Xrotation Yrotation", "5 6 7 90 0 0 0 0 0", (3, 6, 7), (3, 7, 7)),
    ("Zrotation Xrotation Yrotation", "0 0 0 90 0 0 90 0 0", (-2, 0, 0), (-3, 0, 0)),
    ("Zrotation Xrotation Yrotation", "0 0 0 0 90 0 0 0 0", (0, 0, 2), (1, 0, 2)),
    ("Zrotation Xrotation Yrotation", "0 0 0 0 0 0 90 90 0", (0, 2, 0), (0, 3, 0)),  # first about x, then about z
    ("Xrotation Zrotation Yrotation", "0 0 0 0 0 0 90 90 0", (0, 2, 0), (0, 2, 1)),  # first about z, then about x
    ("yROTATION Xposition Zrotation", "0 0 0 0 0 0 90 4 0", (4, 2, 0), (4, 2, -1)),  # x in place of the offset's
])
def test_two_bones_by_hand(channels, row, middle, end, tmp_path):
    (tmp_path / "chain.bvh").write_text(CHAIN % (channels, row))
    motion = bvh.read_bvh(tmp_path / "chain.bvh")
    assert motion.names == ("base", "middle", "middle end") and motion.parents == (-1, 0, 1)
    assert motion.fps == pytest.approx(25) and motion.positions.shape == (2, 3, 3)
    np.testing.assert_allclose(motion.positions[1, 1:], [middle, end], atol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pybvh wonders which way is up in a random motion
@pytest.mark.parametrize("order", ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX"])
def test_positions_are_those_of_pybvh(order, tmp_path):
    pybvh = pytest.importorskip("pybvh")
    orders = {name: order if j % 2 else "ZXY" for j, (name, *_) in enumerate(PERSON)}
    values = np.random.default_rng(3).uniform(-180, 180, (7, 3 + 3 * len(PERSON)))
    path = _person(tmp_path / "person.bvh", values,
                   channels=lambda name: " ".join(f"{axis}rotation" for axis in orders[name]))
    motion, other = bvh.read_bvh(path), pybvh.read_bvh_file(str(path))
    assert motion.fps == pytest.approx(other.fps)
    ends = [name.endswith(" end") for name in motion.names]
    assert [name for name, end in zip(motion.names, ends, strict=True) if not end] == list(other.joint_names)
    np.testing.assert_allclose(motion.positions, other.node_positions(), atol=1e-9)
    # The rotation of a joint takes its children's offsets to where they are.
    child, parent = motion.names.index("LeftForeArm"), motion.names.index("LeftArm")
    np.testing.assert_allclose(motion.positions[:, child] - motion.positions[:, parent],
                               motion.rotations[:, parent] @ [3.0, 0, 0], atol=1e-5)


def test_spaces_tabs_windows_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path):
    text = CHAIN % ("Zrotation Xrotation Yrotation", "0 0 0 0 0 0 90 0 0")
    (tmp_path / "a.bvh").write_text(text)
    odd = text.replace("ROOT base\n{", "Root\tbase {").replace(" ", "  ").replace("\n", "\r\n")
    (tmp_path / "b.bvh").write_bytes(b"\xef\xbb\xbf" + odd.encode() + b"\r\n\r\n")
    a, b = (bvh.read_bvh(tmp_path / name) for name in ("a.bvh", "b.bvh"))
    np.testing.assert_array_equal(a.positions, b.positions)
    assert a.names == b.names


# ---------------------------------------------------------------------- names

RIGS = {
    "motion builder": "Hips LeftUpLeg LeftLeg LeftFoot LeftToeBase LeftShoulder LeftArm LeftForeArm LeftHand "
                      "LeftHandIndex1 Head",
    "collar": "Hips LHipJoint LeftHip LeftKnee LeftAnkle LeftToe LeftCollar LeftShoulder LeftElbow LeftWrist lhand "
              "LFingers LThumb Head",
    "mixamo": "mixamorig:Hips mixamorig:LeftUpLeg mixamorig:LeftLeg mixamorig:LeftFoot mixamorig:LeftToeBase "
              "mixamorig:LeftShoulder mixamorig:LeftArm mixamorig:LeftForeArm mixamorig:LeftHand "
              "mixamorig:LeftHandIndex1 mixamorig:Head",
    "poser": "hip lThigh lShin lFoot lToe lCollar lShldr lForeArm lHand lIndex1 head",
    "daz 8": "hip pelvis lThighBend lThighTwist lShin lFoot lToe lCollar lShldrBend lForearmBend lHand lIndex1 head",
    "biped": "Bip01|Bip01 L Thigh|Bip01 L Calf|Bip01 L Foot|Bip01 L Toe0|Bip01 L Clavicle|Bip01 L UpperArm|"
             "Bip01 L Forearm|Bip01 L Hand|Bip01 L Finger1|Bip01 Head",
    "smpl": "Pelvis L_Hip L_Knee L_Ankle L_Foot L_Collar L_Shoulder L_Elbow L_Wrist L_Hand Head",
    "acclaim": "root lhipjoint lfemur ltibia lfoot ltoes lclavicle lhumerus lradius lwrist lhand lfingers head",
    "blender": "hips thigh.L shin.L foot.L toe.L shoulder.L upper_arm.L forearm.L hand.L f_index.01.L head",
    "unreal": "pelvis thigh_l calf_l foot_l ball_l clavicle_l upperarm_l lowerarm_l hand_l index_01_l head",
    "unity": "Hips LeftUpperLeg LeftLowerLeg LeftFoot LeftToes LeftShoulder LeftUpperArm LeftLowerArm LeftHand "
             "LeftIndexProximal Head",
    "vroid": "J_Bip_C_Hips J_Bip_L_UpperLeg J_Bip_L_LowerLeg J_Bip_L_Foot J_Bip_L_ToeBase J_Bip_L_Shoulder "
             "J_Bip_L_UpperArm J_Bip_L_LowerArm J_Bip_L_Hand J_Bip_L_Index1 J_Bip_C_Head",
    "kinect": "SpineBase HipLeft KneeLeft AnkleLeft FootLeft ShoulderLeft ElbowLeft WristLeft HandLeft Head",
    "bandai": "Hips UpperLeg_L LowerLeg_L Foot_L Toes_L Shoulder_L UpperArm_L LowerArm_L Hand_L Index_L Head",
    "shouting": "HIPS LEFT-UP-LEG LEFT-LEG LEFT-FOOT LEFT-TOE LEFT-SHOULDER LEFT-ARM LEFT-FORE-ARM LEFT-HAND "
                "LEFT-HAND-INDEX1 HEAD",
}
# The joints of a rig that stand for hip, knee, ankle, toe, shoulder, elbow, wrist and index, by their place in its row.
PLACES = {"collar": (2, 3, 4, 5, 7, 8, 9, 11), "daz 8": (2, 4, 5, 6, 8, 9, 10, 11), "kinect": (1, 2, 3, 4, 5, 6, 7, 8),
          "acclaim": (2, 3, 4, 5, 7, 8, 9, 11)}
LEFT = ("hip", "knee", "ankle", "foot_index", "shoulder", "elbow", "wrist", "index")


def _right(name):
    for left, right in (("LEFT", "RIGHT"), ("Left", "Right"), ("_L_", "_R_"), ("_L", "_R"), ("_l", "_r"), (".L", ".R"),
                        (" L ", " R "), ("L", "R")):
        if left in name and (len(left) > 1 or name.startswith(left)):
            return name.replace(left, right)
    return "r" + name[1:]


@pytest.mark.parametrize("rig", RIGS)
def test_names_of_many_rigs(rig):
    left = RIGS[rig].split("|") if "|" in RIGS[rig] else RIGS[rig].split()
    places = PLACES.get(rig, (1, 2, 3, 4, 6, 7, 8, 9))
    expected = {f"left_{part}": left[place] for part, place in zip(LEFT, places, strict=True)}
    names = [*left, *(_right(name) for name in left[1:-1])]
    found = {landmark: names[j] for landmark, j in bvh.find_joints(names).items()}
    assert expected.items() <= found.items()
    assert {f"right_{part}": _right(left[place]) for part, place in zip(LEFT, places, strict=True)}.items() \
        <= found.items()
    assert found["head"] == left[-1]


def test_ends_of_toes_and_hands_count_where_no_joint_is_nearer():
    names = ("Hips", "LeftUpLeg", "LeftToeBase", "LeftToeBase end", "LeftHand", "LeftHand end", "foot_r", "foot_r end")
    found = bvh.find_joints(names)
    assert [names[found[name]] for name in ("left_foot_index", "left_index", "right_foot_index")] \
        == ["LeftToeBase end", "LeftHand end", "foot_r end"]


# ---------------------------------------------------------------------- the camera

AXES = {"y up": np.eye(3), "z up": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
        "z up, facing -x": np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
        "y down": np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]])}


@pytest.mark.parametrize("axes", AXES)
def test_left_is_right_in_the_front_view_and_forward_is_right_in_the_side_view(axes, tmp_path):
    path = _person(tmp_path / "person.bvh", turn=AXES[axes])
    front, side = bvh.key_points(path), bvh.key_points(path, "side")
    assert isinstance(front, KeyPoints) and front.size == (512, 512) and len(front) == 3 and front.fps == 10
    front, side = front.joints(), side.joints()
    for part in ("shoulder", "wrist", "hip", "ankle", "eye", "ear", "heel"):
        assert (front[f"left_{part}"][:, 0] > 256).all() and (front[f"right_{part}"][:, 0] < 256).all()
    for view in (front, side):
        heights = [view[name][0, 1] for name in ("nose", "left_shoulder", "left_hip", "left_knee", "left_heel")]
        assert heights == sorted(heights)
    assert (side["nose"][:, 0] > side["left_ear"][:, 0] + 5).all()
    assert (side["left_foot_index"][:, 0] > side["left_ankle"][:, 0] + 5).all()
    assert (side["left_heel"][:, 0] < side["left_ankle"][:, 0] - 5).all()
    np.testing.assert_allclose(side["left_hip"], side["right_hip"], atol=1e-3)
    assert np.isnan(front["left_thumb"]).all()


def test_degrees_lie_between_the_views(tmp_path):
    path = _person(tmp_path / "person.bvh")
    views = [bvh.key_points(path, view) for view in ("front", 0, "0", "side", "90", "-90", "180")]
    for one, same in ((0, 1), (0, 2), (3, 4)):
        np.testing.assert_array_equal(views[one].points, views[same].points)
    x = [view.joints() for view in views]
    assert x[5]["nose"][0, 0] < x[5]["left_ear"][0, 0]  # seen from her left, she faces the left of the picture
    assert x[6]["left_wrist"][0, 0] < x[6]["right_wrist"][0, 0]  # from behind
    lean = bvh.key_points(path, "30").joints()
    width = lean["left_hip"][0, 0] - lean["right_hip"][0, 0]
    height = lean["left_ankle"][0, 1] - lean["left_hip"][0, 1]
    assert width / height == pytest.approx(2 * np.cos(np.radians(30)) / 8, abs=1e-5)


@pytest.mark.parametrize("size", [(512, 512), (320, 640), (900, 200)])
def test_the_whole_motion_fits_with_a_margin_and_keeps_its_shape(size, tmp_path):
    values = np.zeros((5, 3 + 3 * len(PERSON)))
    values[:, 0] = np.linspace(0, 30, 5)  # sideways
    path = _person(tmp_path / "person.bvh", values)
    found = bvh.key_points(path, size=size)
    low, high = np.nanmin(found.points, axis=(0, 1)), np.nanmax(found.points, axis=(0, 1))
    margins = np.concatenate([low, size - high]) / np.tile(size, 2)
    assert margins.min() == pytest.approx(0.1, abs=1e-5)
    np.testing.assert_allclose(low + high, size, rtol=1e-5)
    joints = found.joints()
    thigh = joints["left_knee"][0, 1] - joints["left_hip"][0, 1]
    assert (joints["left_wrist"] - joints["right_wrist"])[0, 0] == pytest.approx(thigh * 15 / 4, rel=1e-5)
    assert (joints["nose"][4] - joints["nose"][0])[0] == pytest.approx(thigh * 30 / 4, rel=1e-5)


def test_frames_per_second_by_linear_interpolation(tmp_path):
    values = np.zeros((4, 3 + 3 * len(PERSON)))
    values[:, 1] = [0, 2, 4, 10]
    path = _person(tmp_path / "person.bvh", values)
    whole, double = bvh.key_points(path), bvh.key_points(path, fps=20)
    assert whole.fps == pytest.approx(10) and double.fps == 20 and len(double) == 8
    np.testing.assert_allclose(double.points[0:7:2], whole.points, atol=1e-4)
    np.testing.assert_allclose(double.points[5], whole.points[2:4].mean(axis=0), atol=1e-4)


def test_the_head_and_the_feet_turn_with_their_joints(tmp_path):
    """Nothing moves for the greater part of the motion; then the head turns to the left, and the left toes rise."""
    values = np.zeros((5, 3 + 3 * len(PERSON)))
    names = [name for name, *_ in PERSON]
    values[4, 3 + 3 * names.index("Head") + 2] = 90
    values[4, 3 + 3 * names.index("LeftFoot") + 1] = -90
    path = _person(tmp_path / "person.bvh", values)
    joints = bvh.key_points(path, "front").joints()
    assert joints["nose"][0, 0] == pytest.approx(256, abs=0.01) and joints["nose"][4, 0] > joints["head"][4, 0] + 5
    np.testing.assert_allclose(joints["left_ear"][4], joints["right_ear"][4], atol=0.01)
    foot = {name: bvh.key_points(path, "side").joints()[f"left_{name}"] for name in ("heel", "ankle", "foot_index")}
    assert foot["foot_index"][4, 1] < foot["ankle"][4, 1] < foot["heel"][4, 1]
    lengths = np.linalg.norm(foot["heel"] - foot["foot_index"], axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-4)


# ---------------------------------------------------------------------- bad input

def _good():
    return _text(PERSON, np.zeros((3, 3 + 3 * len(PERSON))))


@pytest.mark.parametrize("change, message", [
    (lambda text: "", "not a BVH"),
    (lambda text: "MOTION\n", "not a BVH"),
    (lambda text: text.split("MOTION")[0], "not a BVH"),
    (lambda text: text[:text.rindex("0.0") - 900], "of 3 frames"),
    (lambda text: text.replace("Frames: 3", "Frames: 4"), "3 of 4 frames"),
    (lambda text: text.replace("Frames: 3", "Frames: 2"), "3 of 2 frames"),
    (lambda text: text.replace("0.000000", "nan", 1), "NaN"),
    (lambda text: text.replace("0.000000", "inf", 1), "NaN"),
    (lambda text: text.replace("0.000000", "1e300", 1), "beyond"),
    (lambda text: text.replace("0.000000", "x", 1), "text"),
    (lambda text: text.replace("0.000000", "0,5", 1), "text"),
    (lambda text: text.replace("Frames: 3", "Frames: 0"), "no motion"),
    (lambda text: text.replace("Frames: 3", "Frames: many"), "no numbers"),
    (lambda text: text.replace("Time: 0.1", "Time: 0"), "no motion"),
    (lambda text: text.replace("Time: 0.1", "Time: -1"), "no motion"),
    (lambda text: text.replace("Time: 0.1", "Time: nan"), "no motion"),
    (lambda text: text.replace("Time: 0.1", "Time: 1e-320"), "must be in"),
    (lambda text: text.replace("Time: 0.1", "Time: 99"), "must be in"),
    (lambda text: text.replace("CHANNELS 3 Z", "CHANNELS 4 Z", 1), "CHANNELS 4"),
    (lambda text: text.replace("CHANNELS 3 Zrotation", "CHANNELS 3 Zscale", 1), "Zscale"),
    (lambda text: text.replace("3 Zrotation Xrotation", "3 Zrotation Zrotation", 1), "Zrotation Zrotation"),
    (lambda text: text.replace("CHANNELS 3 Zrotation ", "CHANNELS 2 ", 1), "63 values and its joints 62 channels"),
    (lambda text: text.replace("OFFSET 1 0 0", "OFFSET 1 0", 1), "OFFSET"),
    (lambda text: text.replace("OFFSET 1 0 0", "OFFSET 1 0 nan", 1), "OFFSET"),
    (lambda text: text.replace("}\n", "", 1), "cut short"),
    (lambda text: text.replace("{\n", "", 1), "OFFSET"),
    (lambda text: text.replace("JOINT", "LIMB", 1), "LIMB"),
    (lambda text: "HIERARCHY\nMOTION\n" + text.split("MOTION\n")[1], "empty"),
    (lambda text: "HIERARCHY\n" + 2000 * "End Site\n{\n" + "MOTION\n", "at most 1000 joints"),
    (lambda text: text.replace("LeftUpLeg", "Tail"), "no joints for both hips.*Tail"),
    (lambda text: text.replace("Head", "Hat"), "both hips and a head"),
    (lambda text: text.replace("OFFSET 1 0", "OFFSET 0 0").replace("OFFSET -1 0", "OFFSET 0 0"), "in one place"),
])
def test_bad_files_are_refused_with_one_line(change, message, tmp_path):
    path = tmp_path / "bad.bvh"
    path.write_text(change(_good()))
    with pytest.raises(InputError, match=f"bad.bvh: .*{message}") as error:
        bvh.key_points(path)
    assert len(str(error.value).splitlines()) == 1


def test_other_bad_input(tmp_path, monkeypatch):
    for path in (tmp_path, tmp_path / "none.bvh"):
        with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
            bvh.read_bvh(path)
    path = _person(tmp_path / "person.bvh")
    for view in ("back", "nan", "1000", None):
        with pytest.raises(InputError, match="view must be"):
            bvh.key_points(path, view)
    for fps in (0, -1, np.nan, 1e9):
        with pytest.raises(InputError, match="fps: "):
            bvh.key_points(path, fps=fps)
    monkeypatch.setattr(bvh, "MOST_FRAMES", 2)
    with pytest.raises(InputError, match="at most 2 frames"):
        bvh.read_bvh(path)
    monkeypatch.setattr(bvh, "LARGEST", 100)
    with pytest.raises(InputError, match="larger than"):
        bvh.read_bvh(path)


@pytest.fixture(scope="module")
def folder():
    with in_memory() as folder:
        yield folder


@settings(max_examples=FILES)
@example([("swap", 0, "MOTION", "[" * 3000)])
@given(damage("Frames: 3", "0.1", "CHANNELS", "OFFSET", "JOINT", "{", "}", "0.000000", "LeftUpLeg", "3 ", "MOTION"))
def test_damaged_files_give_key_points_or_one_line(folder, changes):
    path = folder / "damaged.bvh"
    path.write_bytes(damaged(_good().encode(), changes))
    found = outcome(bvh.key_points, path)
    if found is not None:
        assert found.present.all() and (np.abs(found.points[~np.isnan(found.points)]) < 1e6).all()
