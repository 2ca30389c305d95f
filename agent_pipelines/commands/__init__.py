"""What each command does, one file per command that is more than a few lines.

Belongs here: the steps of a command and how its result is shown. Does not belong here: arguments
and exit codes (`cli.py`).
"""
