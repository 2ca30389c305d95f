"""Versions of the state schema, oldest first; applied by `state.engine` when a database is opened.

Add one with a new file in `versions/`; a test compares their sum with `state.tables`.
"""
