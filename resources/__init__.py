"""What the pipelines talk to: Dagster resources, one outside system per file.

Belongs here: opening, closing and speaking to outside systems, behind the protocols of the engine
rooms. Does not belong here: any decision about indexes or agents.
"""
