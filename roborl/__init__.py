"""Reinforcement learning for robot arms, with a vision-language model watching."""
