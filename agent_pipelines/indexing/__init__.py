"""Source → documents → chunks → vectors → a Weaviate collection that agents search.

Belongs here: the engine that keeps an index in step with its source, as plain Python that can be
tested without Dagster. It opens no connection: stores, embedders and engines are handed in.
"""
