"""MuJoCo scenes, tasks and scripted experts; a LeRobot robot as an environment; cameras; safety."""
