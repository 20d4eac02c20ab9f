"""Chooses MuJoCo's off-screen renderer before MuJoCo is imported: the package imports this module first."""

from __future__ import annotations

import ctypes
import os
import sys

from roborl.errors import RobotError

VARIABLE = "MUJOCO_GL"


def _loads(*names: str) -> bool:
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _choose() -> str:
    """Return the backend to use; "disable" where none is installed, so that state-only work still runs."""
    chosen = os.environ.get(VARIABLE, "").lower()
    if chosen:
        return chosen
    if _loads("libEGL.so.1", "libEGL.so"):
        return "egl"
    if _loads("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        return "osmesa"
    return "disable" if os.name == "posix" and os.uname().sysname == "Linux" else ""


_MUJOCO_CAME_FIRST = "mujoco" in sys.modules
os.environ[VARIABLE] = BACKEND = _choose()
# Mesa's software renderer hands each picture to a pool of threads. For pictures this small that gains nothing on an idle
# machine and costs several milliseconds on a busy one, so it draws in the caller's thread.
os.environ.setdefault("LP_NUM_THREADS", "0")


def no_renderer(reason: object) -> RobotError:
    """Return the error that says why nothing can be drawn and what to install."""
    late = (
        "; MuJoCo was imported before roborl.envs and may have chosen otherwise" if _MUJOCO_CAME_FIRST else ""
    )
    return RobotError(
        "The simulated cameras cannot be drawn",
        seen=f"{VARIABLE}={BACKEND or 'unset'}: {reason}{late}",
        allowed="a working EGL (libegl1 with libgl1-mesa-dri) or OSMesa (libosmesa6)",
        remedy="Install one of them (Debian: apt install libegl1 libgl1-mesa-dri), or set MUJOCO_GL yourself",
    )
