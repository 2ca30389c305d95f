"""The agents of the assets folder over HTTP, one task at a time, for whoever waits for the answer.

Belongs here: whose turn it is, what a caller is told, and how a conversation ends when its caller
goes. Does not belong here: the conversation itself and its journal (`agents`), opening connections
(handed in), or sockets, TLS and the drain (`toolservers/shell`, shared with tool servers).
"""
