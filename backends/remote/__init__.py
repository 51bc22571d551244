"""Models behind inference APIs, called over HTTP.

What names a server is here; what calls it is imported when it is needed.
"""

from __future__ import annotations

from blackbox_delta.backends.remote.endpoint import Access, Endpoint

__all__ = ["Access", "Endpoint"]
