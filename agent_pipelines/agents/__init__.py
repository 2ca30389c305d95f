"""Tasks in, answers out: agents, the conversations they hold and the batches they run in.

Belongs here: plain asyncio on top of what is handed in (a model, a tool session, the state
database's engine). Does not belong here: opening connections (`resources`), Dagster
(`components`), or whether an index is true (`health`).
"""
