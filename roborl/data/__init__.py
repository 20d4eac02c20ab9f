"""The store of experience, and the data sets read and written."""
