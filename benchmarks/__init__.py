"""Measurements that stand behind the documentation's numbers; not part of the wheel."""
