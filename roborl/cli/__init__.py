"""Command line: one file per verb, each a frozen config dataclass and ``main``."""
