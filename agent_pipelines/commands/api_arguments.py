"""What `api` says of itself on the command line.

Belongs here: its help. Does not belong here: what it does (`api.py`). Imported with the command
line, so nothing heavy here.
"""

HELP = """Answer tasks one at a time, over HTTP, for whoever waits: every agent of the folder.

    agent-pipelines api --port 8080
    curl localhost:8080/agents
    curl localhost:8080/agents/librarian/tasks --json '{"question": "What is tenacity for?"}'
    curl -N -H 'accept: text/event-stream' localhost:8080/agents/librarian/tasks --json …

The same loop, tools, limits, journal and index policy as a batch, and the same rows in the state
database. It needs what a batch needs: `agent-pipelines dev` running here, or LLM_BASE_URL,
SEARCH_TOOL_URL and STATE_DATABASE_URL. `/openapi.json` describes it; `/health`, `/ready` and
`/metrics` are served beside it.

With a `task_id` of yours a task can be asked for again: it is answered once, and what was cut off
(you hung up, the server ended) goes on where it was.

With mTLS the API is for who has a certificate of that CA, with tokens for who has one; each name is
a tenant, tenants share the places fairly, and none sees another's tasks:

    API_TLS_CERT=tls.crt API_TLS_KEY=tls.key API_TLS_CLIENT_CA=ca.crt API_TOKEN_FILE=tokens \\
    API_ALLOWED_HOSTS=agents.example.com:8443 \\
    agent-pipelines api --host 0.0.0.0 --port 8443

The token file has a line for each tenant, `name token`. Renewed files are taken up while it runs.

Further variables: `API_MAX_CONCURRENT` (32 conversations at once), `API_MAX_WAITING` (128 tasks in
the queue; more are told 429 and when to come back), `API_DRAIN_SECONDS` (28: at SIGTERM, for
conversations to end; the rest can be resumed), `API_MAX_REQUEST_BYTES`, `API_ALLOWED_ORIGINS`.
"""
