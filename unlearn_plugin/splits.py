"""Splits: forget, retain, and the two halves of the held-out data; Need: what a method asks for."""

import enum

__all__ = ["Need", "Splits"]


class Need(enum.Flag):
    """What a method must be given."""

    FORGET = enum.auto()
    RETAIN = enum.auto()
    RECORD = enum.auto()
    TUNING = enum.auto()
