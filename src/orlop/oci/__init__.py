"""The OCI and Docker specifications as pure values: bytes in, values out, no I/O."""

from __future__ import annotations
