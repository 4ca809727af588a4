"""Decisions only: who gets which arm, with which probability, and who shadows it. No I/O, no clock, no Ray."""

from router.planner import Plan, Planner
from router.revision import revise

__all__ = ["Plan", "Planner", "revise"]
