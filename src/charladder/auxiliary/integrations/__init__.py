"""Auxiliary losses in training frameworks. A module for each framework, which it imports; nothing else here does."""
