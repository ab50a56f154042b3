"""Derives everything that has to agree with the charters: the rules of proxy, bus, database and cache, alerts and dashboards, and the data map.

Every renderer is a pure function of the charters and a small `Topology`, so that the same charters give the same
bytes on every machine. `tallystick.fabric.render` writes them to files.
"""
