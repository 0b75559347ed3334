"""Engines move messages between a phase's functions, in one process or over a network; nothing else differs."""

from zowarmup.engines.base import Engine
from zowarmup.engines.local import Local

__all__ = ["Engine", "Local"]
