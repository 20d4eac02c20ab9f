"""Transport alone: messages, links, security. The only importer of zmq; no torch, no lerobot, no rewards."""
