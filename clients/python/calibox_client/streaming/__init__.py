"""Frames of a video over the server's WebSocket: bookkeeping, the network, and a form for callers without asyncio."""
