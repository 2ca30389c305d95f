"""What people look at in Grafana: four dashboards, as data.

Belongs here: panels, their queries and their targets, one module per dashboard. Does not belong
here: the metrics themselves, or alerts (`health/alerts.py`).
"""
