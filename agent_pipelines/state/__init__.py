"""The state database: one schema for ledger, snapshots, signals, answers and journals.

Belongs here: tables, their migrations, and opening an engine for a URL. Does not belong here:
queries; each room keeps its own, beside the code that needs them.
"""
