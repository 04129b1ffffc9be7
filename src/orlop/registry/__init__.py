"""The registry room: both ends of the OCI distribution specification v1.1, a client and a server.

Importing this package imports nothing else: `registry.client` is for pulls and pushes, `registry.server.program` is the
process behind `orlop registry serve`.
"""

from __future__ import annotations
