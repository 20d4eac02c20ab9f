"""From frames to potentials: reward models, judges, sessions, shaping, metrics. No sockets, no robots."""
