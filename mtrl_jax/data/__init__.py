"""Datasets on disk and the windows that agents learn from: learning histories."""
