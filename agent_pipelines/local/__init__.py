"""The embedded default: the outside parts a laptop needs, on loopback and never left behind.

Nothing is re-exported here: importing this package must cost nothing.
"""
