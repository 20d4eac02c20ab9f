"""Off-screen pictures of a MuJoCo scene, fast (no shadows, no reflections, no anti-aliasing) or handsome."""

from __future__ import annotations

import atexit
import weakref

import mujoco

from roborl.envs import gl
from roborl.types import Image

_PLAIN_FLAGS = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_HAZE,
)
_open: weakref.WeakSet[Pictures] = weakref.WeakSet()
_exit_handlers: list[object] = []


class Pictures:
    """Draws one model; holds a GL context per picture size until it is closed.

    Use it from one thread: GL contexts belong to the thread that made them.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._renderers: dict[tuple[int, int, bool], mujoco.Renderer] = {}
        _open.add(self)

    def draw(
        self, data: mujoco.MjData, camera: str, height_px: int, width_px: int, *, handsome: bool = False
    ) -> Image:
        """Return what ``camera`` sees, uint8 (height, width, 3), owned by the caller.

        Args:
            data: State to draw.
            camera: Name of a camera of the model.
            height_px: Picture height.
            width_px: Picture width.
            handsome: With shadows and drawn at twice the size, then averaged: for videos, several times slower.

        Raises:
            RobotError: If no renderer works on this machine.
        """
        renderer = self._renderer(height_px, width_px, handsome)
        renderer.update_scene(data, camera)
        picture: Image = renderer.render()
        if handsome:
            blocks = picture.reshape(height_px, 2, width_px, 2, 3).astype("uint16")
            picture = (blocks.sum(axis=(1, 3)) // 4).astype("uint8")
        return picture

    def close(self) -> None:
        """Free the GL contexts. A later ``draw`` makes new ones."""
        while self._renderers:
            self._renderers.popitem()[1].close()

    def _renderer(self, height_px: int, width_px: int, handsome: bool) -> mujoco.Renderer:
        key = (height_px, width_px, handsome)
        if key not in self._renderers:
            scale = 2 if handsome else 1
            try:
                renderer = mujoco.Renderer(self._model, height_px * scale, width_px * scale)
            except Exception as error:  # each GL binding has its own error types, and none is public
                raise gl.no_renderer(error) from error
            for flag in _PLAIN_FLAGS:
                renderer.scene.flags[flag] = int(handsome and flag != mujoco.mjtRndFlag.mjRND_HAZE)
            self._renderers[key] = renderer
            # After the first context, because exit handlers run last in, first out: the GL binding shuts its display
            # down in one of its own, registered when that context was made, and ours must come before it.
            if not _exit_handlers:
                _exit_handlers.append(atexit.register(_close_all))
        return self._renderers[key]


def _close_all() -> None:
    for pictures in list(_open):
        pictures.close()
