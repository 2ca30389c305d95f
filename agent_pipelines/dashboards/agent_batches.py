"""*Agent batches*: do they finish, how well, how quickly, and how their model server is doing.

Belongs here: rows and answers as the exporter and the API count them, and vLLM's own metrics.
"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from agent_pipelines.agents.targets import COMPLETION, PROFILES
from agent_pipelines.dashboards.panels import NONE, Target, board, choice, number, series, states

_OF = 'agent=~"$agent"'
_ROWS = "agent_pipelines_batch_rows"
_GPU = PROFILES["gpu"]
_TTFT = Target(_GPU.ttft_p95_seconds, "below")
_PER_STREAM = Target(_GPU.stream_tokens_per_second, "above")
_QUEUE = Target(_GPU.waiting, "below")

_COMPLETION = (
    f'sum by (agent) ({_ROWS}{{{_OF},outcome="ok"}})'
    f' / (sum by (agent) ({_ROWS}{{{_OF},outcome!="open"}}) > 0)'
)


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "agent-batches",
        "Agent batches",
        "Every agent's newest batch, the API beside it, and the model server that both use.",
        {
            "Now": [
                number(
                    "Answered well",
                    "Of the rows that the newest batches have ended, the share with outcome ok.",
                    f"min({_COMPLETION})",
                    unit="percentunit",
                    target=Target(COMPLETION, "above"),
                    span=6,
                ),
                number(
                    "Open rows",
                    "Rows of the newest batches that have no answer yet.",
                    f'sum({_ROWS}{{{_OF},outcome="open"}})',
                    unit="short",
                    span=6,
                ),
                number(
                    "Waiting batches",
                    "Batches that wait for what is down; they resume by themselves.",
                    f"sum(agent_pipelines_batch_waiting{{{_OF}}})",
                    unit="short",
                    target=NONE,
                    span=6,
                ),
                number(
                    "First token, p95",
                    "Time to the first token that 95% of the requests do not exceed.",
                    _quantile("vllm:time_to_first_token_seconds", 0.95, "$__range"),
                    unit="s",
                    target=_TTFT,
                    span=6,
                ),
            ],
            "Batches": [
                series(
                    "Rows by outcome",
                    "Of the newest batch of each agent.",
                    {"{{agent}} {{outcome}}": f"sum by (agent, outcome) ({_ROWS}{{{_OF}}})"},
                    unit="short",
                ),
                series(
                    "Answered well",
                    "Of the rows that have ended, the share with outcome ok.",
                    {"{{agent}}": _COMPLETION},
                    unit="percentunit",
                    target=Target(COMPLETION, "above"),
                ),
                series(
                    "Seconds per row, p95",
                    "From a row's first turn to its answer, what it waited for others left out.",
                    {"{{agent}}": f"agent_pipelines_batch_row_p95_seconds{{{_OF}}}"},
                    unit="s",
                ),
                series(
                    "Tokens of the newest batch",
                    "Prompt and completion tokens of its answers.",
                    {"{{agent}} {{kind}}": f"agent_pipelines_batch_tokens{{{_OF}}}"},
                    unit="short",
                ),
                states(
                    "At work",
                    "Whether an agent's newest batch has open rows, and whether it waits.",
                    {
                        "{{agent}}": (
                            f'sum by (agent) ({_ROWS}{{{_OF},outcome="open"}} > bool 0)'
                            f" + sum by (agent) (agent_pipelines_batch_waiting{{{_OF}}})"
                        )
                    },
                    named=[(0, "ended", "good"), (1, "open", "unknown"), (2, "waits", "bad")],
                    height=6,
                ),
            ],
            "Model server": [
                series(
                    "Time to first token",
                    "vLLM's own measure, by quantile.",
                    {
                        f"p{round(100 * q)}": _quantile("vllm:time_to_first_token_seconds", q, "5m")
                        for q in (0.5, 0.95)
                    },
                    unit="s",
                    target=_TTFT,
                ),
                series(
                    "Tokens per second of one stream",
                    "One over the time between two tokens of one request: half, and 95% of the "
                    "tokens come at least as quickly.",
                    {
                        f"p{round(100 * q)}": (
                            "1 / " + _quantile("vllm:inter_token_latency_seconds", q, "5m")
                        )
                        for q in (0.5, 0.95)
                    },
                    unit="short",
                    target=_PER_STREAM,
                ),
                series(
                    "Tokens per second",
                    "Of all requests together.",
                    {
                        "generated": "sum(rate(vllm:generation_tokens_total[5m]))",
                        "prompt": "sum(rate(vllm:prompt_tokens_total[5m]))",
                    },
                    unit="short",
                ),
                series(
                    "Requests",
                    "What waits has no place in the KV cache yet: batches send less when it grows.",
                    {
                        "running": "sum(vllm:num_requests_running)",
                        "waiting": "sum(vllm:num_requests_waiting)",
                    },
                    unit="short",
                    target=_QUEUE,
                ),
                series(
                    "KV cache",
                    "How full the fullest server's is, and the share of prompts found in it.",
                    {
                        "used": "max(vllm:kv_cache_usage_perc)",
                        "prefixes found": (
                            "sum(rate(vllm:prefix_cache_hits_total[5m]))"
                            " / (sum(rate(vllm:prefix_cache_queries_total[5m])) > 0)"
                        ),
                    },
                    unit="percentunit",
                ),
                series(
                    "Preemptions",
                    "Requests that were thrown out for want of KV cache, and begin again.",
                    {"per second": "sum(rate(vllm:num_preemptions_total[5m]))"},
                    unit="short",
                ),
            ],
            "Agent API": [
                series(
                    "Answers",
                    "Tasks that were answered per second, by outcome.",
                    {
                        "{{agent}} {{outcome}}": (
                            "sum by (agent, outcome) (rate(agent_api_answers_total[5m]))"
                        )
                    },
                    unit="reqps",
                ),
                series(
                    "Seconds per task, p95",
                    "From taking a task to its answer, waiting included.",
                    {
                        "{{agent}}": (
                            "histogram_quantile(0.95, sum by (agent, le) "
                            "(rate(agent_api_task_duration_seconds_bucket[5m])))"
                        )
                    },
                    unit="s",
                ),
                series(
                    "Held and waiting",
                    "Conversations, and tasks that wait for their turn.",
                    {
                        "conversations": "sum(agent_api_conversations)",
                        "waiting": "sum(agent_api_tasks_waiting)",
                    },
                    unit="short",
                ),
                series(
                    "Refused",
                    "Requests that reached no agent, by reason.",
                    {"{{reason}}": "sum by (reason) (rate(agent_api_requests_refused_total[5m]))"},
                    unit="reqps",
                ),
            ],
        },
        choices=[choice("agent", _ROWS)],
    )


def _quantile(histogram: str, quantile: float, window: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate({histogram}_bucket[{window}])))"
