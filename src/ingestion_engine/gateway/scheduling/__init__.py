"""Order of the waiting requests: flows, bands, weights and caps. Pure: no event loop, no clock (time is an argument).

What does not belong: servers and HTTP. The dispatcher asks for the next ticket and says which ones have a server.
"""
