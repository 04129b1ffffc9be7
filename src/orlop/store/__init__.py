"""Content by digest, names for it, and the state of everything: what is on disk and survives every kill."""

from __future__ import annotations
