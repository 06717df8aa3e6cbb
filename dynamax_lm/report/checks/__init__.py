"""The checks of `report --verify`: a module for each kind of relation between the files.

Each check adds its findings to `found`. None of them writes, or needs a model.
"""
