"""The simulated tasks: objects, starts, success, progress. One file per task."""
