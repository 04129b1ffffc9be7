"""The server: an ASGI application over a folder of content, and the process that serves it.

This is the one part of the room where asyncio is at home.
"""

from __future__ import annotations
