"""Observation to action chunk: LeRobot policies, small networks."""
