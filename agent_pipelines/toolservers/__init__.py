"""The MCP servers shipped here, one module each, and the shell they share.

Belongs here: tools and how they are served. Does not belong here: what the tools read (handed in)
or who calls them (`agents`, any MCP client).
"""
