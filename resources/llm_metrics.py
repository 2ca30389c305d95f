"""What vLLM tells of itself: its Prometheus metrics, beside its `/v1`.

Belongs here: asking for them and what they are called. Does not belong here: what they amount to
(`agents/served.py`) or what follows from them.

Counters and gauges of several engines (data parallelism) are added up; nothing is told apart by
model, for a vLLM serves one, under one name or several. Names: vLLM's `v1/metrics/loggers.py` and
https://docs.vllm.ai/en/stable/usage/metrics/.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import httpx2

from agent_pipelines.agents.load import Load
from agent_pipelines.agents.served import Counters, Histogram, Reading

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

_Read = TypeVar("_Read")

#: Seconds for an answer: a server that is busy answers, for this is not its engine's work.
_TIMEOUT = 5.0

_WAITING = "vllm:num_requests_waiting"
_KV_CACHE = "vllm:kv_cache_usage_perc"
_PREEMPTIONS = "vllm:num_preemptions"
_LOAD = (_WAITING, _KV_CACHE, _PREEMPTIONS)

#: A line of settings, of which the KV cache's size is one.
_SETTINGS = "vllm:cache_config_info"
_SIZE = "kv_cache_size_tokens"

_TTFT = "vllm:time_to_first_token_seconds"
_INTER_TOKEN = "vllm:inter_token_latency_seconds"  # noqa: S105
_GENERATED = "vllm:generation_tokens"
_PREFIX_QUERIES = "vllm:prefix_cache_queries"
_PREFIX_HITS = "vllm:prefix_cache_hits"
_COUNTERS = (
    *(_TTFT, _INTER_TOKEN, _GENERATED),
    *(_PREFIX_QUERIES, _PREFIX_HITS),
)


def address(base_url: str) -> str:
    """Of the metrics that belong to a `/v1`: beside it, where there is one."""
    return base_url.rstrip("/").removesuffix("/v1") + "/metrics"


@dataclass(frozen=True)
class VllmMetrics:
    """Reads the metrics of one server, with the client that its completions are asked with."""

    client: httpx2.AsyncClient
    url: str

    async def load(self) -> Load | None:
        """How busy it is; None where it does not tell or does not answer."""
        text = await self._text()
        return None if text is None else _or_none(parsed_load, text)

    async def read(self) -> Reading | None:
        """The load, and what it has done since it was started."""
        text = await self._text()
        return None if text is None else _or_none(parsed, text)

    async def _text(self) -> str | None:
        try:
            answer = await self.client.get(self.url, timeout=_TIMEOUT)
        except httpx2.HTTPError:
            return None
        return answer.text if answer.is_success else None


def _or_none(parse: "Callable[[str], _Read | None]", text: str) -> "_Read | None":
    """A line that is no metric, as of a gateway, says as little as no answer."""
    try:
        return parse(text)
    except ValueError:
        return None


def parsed_load(text: str) -> Load | None:
    """From the text of `/metrics`; None where it is not vLLM's."""
    return _load(_Families(text, _LOAD))


def parsed(text: str) -> Reading | None:
    """From the text of `/metrics`; None where it is not vLLM's."""
    found = _Families(text, (*_LOAD, *_COUNTERS, _SETTINGS))
    load = _load(found)
    return Reading(load, _counters(found), _kv_cache_tokens(found)) if load else None


def _load(found: "_Families") -> Load | None:
    if not found.values(_WAITING):
        return None
    return Load(
        waiting=int(found.total(_WAITING)),
        kv_cache=max(found.values(_KV_CACHE), default=0.0),
        preemptions=int(found.total(_PREEMPTIONS)),
    )


def _counters(found: "_Families") -> Counters:
    return Counters(
        ttft=found.histogram(_TTFT),
        inter_token=found.histogram(_INTER_TOKEN),
        generated=found.total(_GENERATED),
        prefix_queries=found.total(_PREFIX_QUERIES),
        prefix_hits=found.total(_PREFIX_HITS),
        preemptions=found.total(_PREEMPTIONS),
    )


def _kv_cache_tokens(found: "_Families") -> int | None:
    """Of all engines together."""
    sizes = [size for size in found.labels(_SETTINGS, _SIZE) if size.isdigit()]
    return sum(map(int, sizes)) or None


class _Families:
    """The samples of some metrics, by name."""

    def __init__(self, text: str, names: Iterable[str]) -> None:
        # Imported here: definitions load without it.
        from prometheus_client.parser import text_string_to_metric_families

        wanted = frozenset(names)
        # vLLM tells a thousand lines, of which the parser takes its time for each.
        lines = "\n".join(_lines_of(text, tuple(wanted)))
        self._samples: dict[str, list[Sample]] = {
            family.name: family.samples
            for family in text_string_to_metric_families(lines + "\n")
            if family.name in wanted
        }

    def values(self, name: str) -> list[float]:
        """Of every engine. Of a counter not the moment of its creation, which is told as well."""
        return [
            sample.value
            for sample in self._samples.get(name, ())
            if sample.name in (name, f"{name}_total")
        ]

    def labels(self, name: str, label: str) -> list[str]:
        """What stands there, of every engine that says so."""
        return [sample.labels.get(label, "") for sample in self._samples.get(name, ())]

    def total(self, name: str) -> float:
        return sum(self.values(name))

    def histogram(self, name: str) -> Histogram:
        buckets: dict[float, float] = {}
        total = 0.0
        for sample in self._samples.get(name, ()):
            if sample.name == f"{name}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            elif sample.name == f"{name}_sum":
                total += sample.value
        return Histogram(buckets, total)


def _lines_of(text: str, names: tuple[str, ...]) -> Iterator[str]:
    """Samples of these metrics, and of those whose names begin alike, with their types."""
    for line in text.splitlines():
        if line.startswith(names) or (
            line.startswith("# TYPE ") and line.removeprefix("# TYPE ").startswith(names)
        ):
            yield line
