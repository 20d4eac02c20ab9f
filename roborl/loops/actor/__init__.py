"""The processes beside the robot: control, inference, I/O, and whoever takes over or watches; they wait for no learner."""
