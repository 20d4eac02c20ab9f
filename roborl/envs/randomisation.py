"""Varies the looks of a scene: light, colours, camera poses. Never its physics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import mujoco
import numpy as np


@dataclass(frozen=True, kw_only=True)
class _Range:
    light: float
    """Relative change of brightness."""
    colour: float
    """Change of each colour channel."""
    camera_m: float
    camera_rad: float


class Strength(StrEnum):
    """How much the looks of a scene vary from episode to episode."""

    OFF = "off"
    MILD = "mild"
    STRONG = "strong"


_RANGES = {
    Strength.OFF: None,
    Strength.MILD: _Range(light=0.15, colour=0.06, camera_m=0.006, camera_rad=0.015),
    Strength.STRONG: _Range(light=0.4, colour=0.18, camera_m=0.02, camera_rad=0.05),
}


class Appearance:
    """Draws new looks for a model, always from the looks it was compiled with.

    Objects keep their hue apart (a red cube stays red): what the instruction names must remain what is seen.
    """

    def __init__(self, model: mujoco.MjModel, strength: Strength) -> None:
        self._model = model
        self._range = _RANGES[strength]
        self._geoms, self._materials = model.geom_rgba.copy(), model.mat_rgba.copy()
        self._lamp = model.light_diffuse.copy()
        self._lamp_direction = model.light_dir.copy()
        self._head = np.concatenate([model.vis.headlight.ambient, model.vis.headlight.diffuse])
        self._camera_pos, self._camera_quat = model.cam_pos.copy(), model.cam_quat.copy()

    def vary(self, rng: np.random.Generator) -> None:
        """Draw new looks. Takes the same number of draws whatever the strength, so starts stay comparable."""
        model = self._model
        light = rng.uniform(-1, 1, 2)
        direction = rng.uniform(-1, 1, self._lamp_direction.shape)
        geoms = rng.uniform(-1, 1, (len(self._geoms), 3))
        materials = rng.uniform(-1, 1, (len(self._materials), 3))
        shift = rng.uniform(-1, 1, self._camera_pos.shape)
        turn = rng.uniform(-1, 1, self._camera_pos.shape)
        if self._range is None:
            return
        strength = self._range
        model.light_diffuse[:] = np.clip(self._lamp * (1 + strength.light * light[0]), 0, 1)
        model.light_dir[:] = self._lamp_direction + strength.light * direction
        model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)
        head = np.clip(self._head * (1 + strength.light * light[1]), 0, 1)
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = head[:3], head[3:]
        # A geom with a material takes its colour from there, unless its own differs from the default.
        bare = model.geom_matid < 0
        model.geom_rgba[bare, :3] = np.clip(self._geoms[bare, :3] + strength.colour * geoms[bare], 0, 1)
        model.mat_rgba[:, :3] = np.clip(self._materials[:, :3] + strength.colour * materials, 0, 1)
        model.cam_pos[:] = self._camera_pos + strength.camera_m * shift
        for camera, axis_angle in enumerate(strength.camera_rad * turn):
            small, turned = np.zeros(4), np.zeros(4)
            angle = float(np.linalg.norm(axis_angle))
            mujoco.mju_axisAngle2Quat(small, axis_angle / max(angle, 1e-9), angle)
            mujoco.mju_mulQuat(turned, self._camera_quat[camera], small)
            model.cam_quat[camera] = turned
