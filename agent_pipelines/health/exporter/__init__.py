"""The watcher outside the watched: every subject on its own clock, shown to Prometheus.

Belongs here: when subjects are looked at, how old a reading may be, and what a scrape gets. Does
not belong here: what is looked at (`commands/exporter.py` hands it in) or any judgement of it.
"""
