"""Is it true? Signals, their evaluation at two depths, and the record of since when.

Belongs here: judging indexes and batches from the outside world. Does not belong here: changing
anything; a repair is a run that `components/` starts.
"""
