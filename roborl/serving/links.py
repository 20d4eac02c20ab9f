"""The two ends of every link: greeting, heartbeats, notes, and refusal of what does not fit.

A client connects, greets with its :class:`Handshake` until it is welcomed, and greets again whenever the server does
not know it any more. Both sides beat five times a second; each beat carries a *note*, the newest small map that one
side wants the other to know (its state, not a command, so losing one costs nothing). All calls return at once or after
the given time; one thread owns a link.
"""

from roborl.serving.client_link import ClientLink
from roborl.serving.server_link import Peer, ServerLink

__all__ = ["ClientLink", "Peer", "ServerLink"]
