"""Auxiliary losses: schedules, and terms that are sums over counts. Imports torch and nothing of charladder."""

from charladder.auxiliary import schedules
from charladder.auxiliary.terms import Report, TermReport, merge

__all__ = ["Report", "TermReport", "merge", "schedules"]
