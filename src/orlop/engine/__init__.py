"""The engine: one module a noun. Its verbs are the Python API, and what every face calls."""
