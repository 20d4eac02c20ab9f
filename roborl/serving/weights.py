"""Weights from the trainer to its actors: the newest set only, whole or not at all, whenever an actor joins.

A set travels in chunks that the subscriber asks on by acknowledging; while one is under way newer ones replace each
other at the publisher, so a slow link always carries the newest set it can, and a set once begun is finished. On an
``ipc://`` link the bytes do not travel: the subscriber copies each chunk out of the publisher's memory, under the same
checks.
"""

from roborl.serving.weights_publisher import WeightsPublisher
from roborl.serving.weights_subscriber import WeightsSubscriber

__all__ = ["WeightsPublisher", "WeightsSubscriber"]
