"""What operators read, computed from one view of the store: tasks, services, nodes, secrets.

Pure: tables, the placement loop's reasons and the time in, messages out.
"""
