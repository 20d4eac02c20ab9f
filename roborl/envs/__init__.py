"""MuJoCo scenes, tasks and scripted experts; a LeRobot robot as an environment; cameras; safety."""

from roborl.envs import gl as gl  # chooses the renderer before any module of ours imports MuJoCo
