"""The motion of the studio's person: a script of actions, frame by frame, and the resulting 3D joints."""

import numpy as np

# Channels of the script, lengths in body heights, angles in radians. Yaw 0 faces the camera, +pi/2 faces right. An arm
# is raised sideways (side), swung forward (front) and bent (elbow).
CHANNELS = ("x", "z", "yaw", "squat", "lean", "left_side", "left_front", "left_elbow", "right_side", "right_front",
            "right_elbow")
REST = dict(x=0.0, z=0.0, yaw=0.0, squat=0.0, lean=0.03, left_side=0.12, left_front=0.0, left_elbow=0.2,
            right_side=0.12, right_front=0.0, right_elbow=0.2)
NEAR, AWAY = 1.7, 2.1  # z near the camera, x outside the frame
SPEED = 0.034  # of walking, in body heights per frame


class _Script:
    """The targets of all channels; the actions append one row per frame."""

    def __init__(self, random):
        self.random = random
        self.state = dict(REST, x=random.uniform(-0.5, 0.5))
        self.rows = []

    def hold(self, frames, **targets):
        self.state.update(targets)
        self.rows += [[self.state[name] for name in CHANNELS]] * int(frames)

    def turn_to(self, yaw):
        """Turn to an angle, the shorter way round."""
        now = self.state["yaw"]
        self.hold(self.random.integers(12, 20), yaw=now + (yaw - now + np.pi) % (2 * np.pi) - np.pi)

    def walk_to(self, **goal):
        """Turn towards a place on the floor and walk there."""
        start = np.array([self.state["x"], self.state["z"]])
        way = np.array([goal.get("x", start[0]), goal.get("z", start[1])]) - start
        self.turn_to(np.arctan2(way[0], way[1]))
        steps = max(1, int(np.hypot(*way) / SPEED))
        for i in range(1, steps + 1):
            x, z = start + way * i / steps
            self.hold(1, x=x, z=z)

    def stand(self):
        self.hold(self.random.integers(10, 30))

    def walk(self):
        self.walk_to(x=self.random.uniform(0.35, 1.4) * (-1 if self.state["x"] > 0 else 1),
                     z=self.random.uniform(-0.3, 0.5))

    def turn(self):
        self.turn_to(self.random.choice([0.0, 0.6, -0.6, np.pi / 2, -np.pi / 2, np.pi]))
        self.stand()

    def raise_arms(self):
        self.turn_to(self.random.uniform(-0.5, 0.5))
        for side in (self.random.uniform(1.4, 1.7), self.random.uniform(2.6, 2.9)):
            self.hold(self.random.integers(14, 24), left_side=side, right_side=side, left_elbow=0.1, right_elbow=0.1)
        self.hold(16, left_side=0.12, right_side=0.12, left_elbow=0.2, right_elbow=0.2)

    def reach(self):
        self.turn_to(self.random.choice([-1, 1]) * self.random.uniform(0.8, 1.6))
        arm = self.random.choice(["left", "right"])
        self.hold(self.random.integers(16, 30), **{f"{arm}_front": 1.5, f"{arm}_elbow": 0.1})
        self.hold(14, **{f"{arm}_front": 0.0, f"{arm}_elbow": 0.2})

    def wave(self):
        self.turn_to(self.random.uniform(-0.4, 0.4))
        arm = self.random.choice(["left", "right"])
        for _ in range(3):
            self.hold(9, **{f"{arm}_side": 1.6, f"{arm}_elbow": 0.6})
            self.hold(9, **{f"{arm}_side": 1.6, f"{arm}_elbow": 1.7})
        self.hold(14, **{f"{arm}_side": 0.12, f"{arm}_elbow": 0.2})

    def squat(self):
        self.turn_to(self.random.choice([0.0, np.pi / 2, -np.pi / 2]) + self.random.uniform(-0.3, 0.3))
        self.hold(self.random.integers(18, 30), squat=1.0, lean=0.55, left_front=1.0, right_front=1.0)
        self.hold(18, squat=0.0, lean=0.03, left_front=0.0, right_front=0.0)

    def come_near(self):
        self.walk_to(z=self.random.uniform(NEAR - 0.3, NEAR), x=self.random.uniform(-0.3, 0.3))
        self.stand()
        self.walk_to(z=0.0)

    def leave(self):
        side = -1 if self.state["x"] < 0 else 1
        self.walk_to(x=side * AWAY)
        self.stand()
        self.walk_to(x=side * self.random.uniform(0.2, 0.8))


def write_script(random, length):
    """The smoothed script, a dict of channels (length,); all actions occur once before any recurs."""
    script = _Script(random)
    actions = [script.stand, script.walk, script.turn, script.raise_arms, script.reach, script.wave, script.squat,
               script.come_near, script.leave, script.walk]
    while len(script.rows) < length:
        for action in random.permutation(np.array(actions, object)):
            action()
    rows = np.array(script.rows[:length], float)
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 4.0) ** 2)
    padded = np.pad(rows, ((12, 12), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T], 1)
    return dict(zip(CHANNELS, smooth.T, strict=True))


THIGH, SHIN, TORSO, NECK, UPPER_ARM, FOREARM, FOOT = 0.245, 0.245, 0.30, 0.10, 0.16, 0.15, 0.11  # body heights
HALF_HIPS, HALF_SHOULDERS = 0.06, 0.115


def skeleton(script):
    """The 3D joints for a script.

    Args:
        script: dict of channels (T,), from `write_script`.

    Returns:
        A dict from the name of a joint to its positions (T, 3) in body heights: x to the right, y up from the floor, z
        towards the camera; and ``"forward"``, the unit vectors (T, 3) of the direction that the person faces.
    """
    x, z, yaw, squat, lean = (script[name] for name in ("x", "z", "yaw", "squat", "lean"))
    zero = np.zeros_like(x)
    forward = np.stack([np.sin(yaw), zero, np.cos(yaw)], 1)
    left = np.stack([np.cos(yaw), zero, -np.sin(yaw)], 1)
    up = np.array([0.0, 1.0, 0.0])
    speed = np.hypot(np.gradient(x), np.gradient(z))
    stride = np.minimum(1.0, speed / SPEED)
    phase = np.cumsum(speed) * 2 * np.pi / 0.95  # two steps take a little less than a body height

    def bent(angle, sideways=None):
        """Unit vectors that hang down at angle 0 and point forward at pi/2, turned by ``sideways``: (angle, axis)."""
        direction = np.sin(angle)[:, None] * forward - np.cos(angle)[:, None] * up
        if sideways is None:
            return direction
        amount, axis = sideways
        return np.cos(amount)[:, None] * direction + np.sin(amount)[:, None] * axis

    joints = {}
    for name, sign, shift in (("left", 1, 0.0), ("right", -1, np.pi)):
        swing = np.sin(phase + shift)
        hip_angle = 0.5 * stride * swing + 1.25 * squat
        knee_angle = 0.12 + 0.75 * stride * np.maximum(0, np.cos(phase + shift)) + 2.1 * squat
        hip = sign * HALF_HIPS * left
        knee = hip + THIGH * bent(hip_angle)
        ankle = knee + SHIN * bent(hip_angle - knee_angle)
        toe = ankle + FOOT * (0.95 * forward - 0.2 * up)
        joints |= {f"{name}_hip": hip, f"{name}_knee": knee, f"{name}_ankle": ankle, f"{name}_foot_index": toe}
    spine = np.sin(lean)[:, None] * forward + np.cos(lean)[:, None] * up
    joints["pelvis"] = np.zeros_like(forward)
    joints["neck"] = TORSO * spine
    joints["head"] = joints["neck"] + NECK * 1.1 * spine
    joints["nose"] = joints["head"] + 0.055 * forward
    for name, sign, shift in (("left", 1, np.pi), ("right", -1, 0.0)):
        swing = 0.45 * stride * np.sin(phase + shift)
        side, front, elbow = (script[f"{name}_{part}"] for part in ("side", "front", "elbow"))
        shoulder = joints["neck"] + sign * HALF_SHOULDERS * left - 0.02 * spine
        elbow_joint = shoulder + UPPER_ARM * bent(front + swing, (side, sign * left))
        raised = np.clip(side / 1.2, 0, 1)  # a hanging arm bends its elbow forward, a raised one upward
        wrist = elbow_joint + FOREARM * bent(front + swing + (1 - raised) * elbow, (side + raised * elbow, sign * left))
        joints |= {f"{name}_shoulder": shoulder, f"{name}_elbow": elbow_joint, f"{name}_wrist": wrist}
    lowest = np.minimum(joints["left_ankle"][:, 1], joints["right_ankle"][:, 1]) - 0.04
    root = np.stack([x, -lowest, z], 1)
    return {name: position + root for name, position in joints.items()} | {"forward": forward}
