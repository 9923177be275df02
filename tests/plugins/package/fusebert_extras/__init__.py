"""Modalities and tasks for fusebert, from outside."""
