"""Vector indexes that prove they are true, and batches of LLM agents that rely on them.

Only the version lives here: importing the package must cost nothing.
"""

__version__ = "0.1.0"
