"""Fakes and conformance checks that users can run on their own parts."""
