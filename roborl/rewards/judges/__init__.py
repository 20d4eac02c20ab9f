"""Judges that answer questions about pictures: a local network, an endpoint, a fake."""
