"""Relabelling of recorded episodes: sources in, rows and videos out, networks asked in between."""
