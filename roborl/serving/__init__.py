"""Transport alone: messages, links, security. The only importer of zmq; no torch, no lerobot, no rewards.

Every *link* has two ends, ``client_link`` and ``server_link``: greeting, heartbeats, notes, and refusal of what does not
fit. A client connects, greets with its ``Handshake`` until it is welcomed, and greets again whenever the server does not
know it any more. Both sides beat five times a second; each beat carries a *note*, the newest small map that one side wants
the other to know (its state, not a command, so losing one costs nothing). All calls return at once or after the given
time; one thread owns a link. Three things travel on such links:

* *Steps* from actors to the store, ``steps_sender`` to ``steps_receiver``: nothing lost, nothing twice, nobody waits. The
  actor's ring is the memory: each record in it has a sequence number, and leaves the ring once the receiver has said that
  everything up to it is durable. The sender keeps a bounded window of records on their way and goes back to the first one
  that was not acknowledged after any interruption; the receiver hands each record out once, in order.
* *Weights* from the trainer to its actors, ``weights_publisher`` to ``weights_subscriber``: the newest set only, whole or
  not at all, whenever an actor joins. A set travels in chunks that the subscriber asks on by acknowledging; while one is
  under way newer ones replace each other at the publisher, so a slow link always carries the newest set it can, and a set
  once begun is finished. On an ``ipc://`` link the bytes do not travel: the subscriber copies each chunk out of the
  publisher's memory, under the same checks.
* *Scores* from a reward server to whoever shows it frames, ``scores`` to ``score_client``: by session and frame id.
"""
