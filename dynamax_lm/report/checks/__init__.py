"""What `report --verify` holds against what: a module for each kind of relation between the files.

Each check takes what was read, and adds to `found`. None of them writes, or needs a model.
"""
