"""Reward-aligned behaviour cloning: scoring a dataset, weighing and filtering it by what was scored."""
