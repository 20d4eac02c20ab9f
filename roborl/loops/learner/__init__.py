"""The learner's processes on one run folder: store, labeller, trainer."""
