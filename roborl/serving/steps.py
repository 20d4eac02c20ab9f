"""Steps from actors to the store: nothing lost, nothing twice, nobody waits.

The actor's ring is the memory: each record in it has a sequence number, and leaves the ring once the receiver has said
that everything up to it is durable. The sender keeps a bounded window of records on their way and goes back to the
first one that was not acknowledged after any interruption; the receiver hands each record out once, in order.
"""

from roborl.serving.steps_receiver import ReceivedStep, RingState, StepsReceiver
from roborl.serving.steps_sender import StepsSender

__all__ = ["ReceivedStep", "RingState", "StepsReceiver", "StepsSender"]
