"""`python -m tests.bench.throughput`: a batch's tokens per second, beside vLLM's own benchmark.

Belongs here: one vLLM, asked by turns by an agent's batch and by `vllm bench serve`, with the same
prompts, the same grammar and as many at once. Does not belong here: how quick vLLM itself is.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console

from agent_pipelines.agents.batch import run_batch
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.served import observed
from agent_pipelines.agents.spec import AgentSpec, Limits
from agent_pipelines.agents.tasks import Task
from agent_pipelines.local import vllm
from agent_pipelines.local.models import packaged_llm
from agent_pipelines.local.parts import Parts
from agent_pipelines.settings import Settings
from agent_pipelines.state.engine import open_engine
from agent_pipelines.terminal import passed_text, table, waiting
from resources.llm import LlmResource
from tests.scripted_model import MODEL, ScriptedModel, says

#: Of the tokens per second that vLLM's own client gets, what a batch should reach.
_TARGET = 0.95

#: `vllm bench serve` by its module: the script asks for a distribution of another name. Its prompts
#: are given to it, for its own reader of files wants pandas.
_BENCH = """
import json
from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser

def samples(args, tokenizer):
    with open(args.dataset_path) as prompts:
        return [
            SampleRequest(
                prompt=prompt,
                prompt_len=len(tokenizer(prompt).input_ids),
                expected_output_len=args.custom_output_len,
            )
            for prompt in map(json.loads, prompts)
        ]

serve.get_samples = samples
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""

#: What a prompt is made of: words that no prefix cache has seen in this order.
_WORDS = (
    *("pod", "node", "disk", "alert", "queue", "replica", "backup", "volume", "secret", "cluster"),
    *("because", "while", "after", "before", "each", "some", "every", "of", "in", "without"),
    *("grows", "fails", "waits", "moves", "restarts", "slowly", "again", "never", "often", "once"),
)


@dataclass(frozen=True)
class Turn:
    """One run of one of the two."""

    who: str
    requests: int
    prompt_tokens: int
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


def agent(concurrency: int, tokens: int) -> AgentSpec:
    """One reply each, of about so many tokens: as many letters, whatever the model makes of it."""
    letters = 4 * tokens
    return AgentSpec(
        name="bench",
        instructions="Continue the text.",
        output_schema={
            "type": "object",
            "properties": {
                "answer": {"type": "string", "minLength": letters, "maxLength": letters}
            },
            "required": ["answer"],
        },
        limits=Limits(turns=1, completion_tokens=letters + 64, seconds=600),
        concurrency=concurrency,
    )


def tasks(count: int, words: int) -> list[Task]:
    """Texts of so many words, all different, the same in every run."""
    chance = random.Random(7)
    return [
        Task(f"t{n}", {"question": " ".join(chance.choices(_WORDS, k=words))}) for n in range(count)
    ]


async def batch(spec: AgentSpec, some: list[Task], base_url: str, folder: Path) -> Turn:
    """The tasks as a batch, with a state database of its own on disk."""
    engine = open_engine(f"sqlite:///{folder / f'{time.monotonic_ns()}.db'}")
    async with LlmResource(base_url=base_url).open() as model:
        started = time.perf_counter()
        opened = open_batch(engine, spec, some, model=model.name)
        async with observed(model.server):
            report = await run_batch(spec, batch=opened, model=model, tools=None, engine=engine)
        seconds = time.perf_counter() - started
    if report.outcomes != {"ok": len(some)}:
        raise RuntimeError(f"not all replies are answers: {report.outcomes}")
    return Turn("batch", len(some), report.prompt_tokens, report.completion_tokens, seconds)


def requests_of(spec: AgentSpec, some: list[Task], folder: Path) -> list[dict[str, Any]]:
    """What a batch sends for these tasks, in their order."""
    alone = spec.model_copy(update={"concurrency": 1})
    letters = spec.output_schema["properties"]["answer"]["maxLength"]
    with ScriptedModel(lambda _body: says({"answer": "x" * letters})) as server:
        asyncio.run(batch(alone, some, server.base_url, folder))
    assert len(server.requests) == len(some)
    return server.requests


def client(
    sent: list[dict[str, Any]], model: Path, base_url: str, concurrency: int, folder: Path
) -> Turn:
    """The same requests from vLLM's own benchmark client; its start is not in its time."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = folder / "prompts.jsonl"
    # As the server renders them, so that token for token it is the same prompt.
    rendered = (
        tokenizer.apply_chat_template(
            request["messages"], tokenize=False, add_generation_prompt=True
        )
        for request in sent
    )
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in rendered))
    options = {
        "--backend": "openai",
        "--base-url": base_url.removesuffix("/v1"),
        "--model": sent[0]["model"],
        "--tokenizer": str(model),
        "--dataset-name": "custom",
        "--dataset-path": str(prompts),
        "--custom-output-len": str(sent[0]["max_completion_tokens"]),
        "--num-prompts": str(len(sent)),
        "--max-concurrency": str(concurrency),
        "--temperature": str(sent[0]["temperature"]),
        "--extra-body": json.dumps({"response_format": sent[0]["response_format"]}),
        "--result-dir": str(folder),
        "--result-filename": "result.json",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-c", _BENCH, *(part for pair in options.items() for part in pair)),
            *("--disable-tqdm", "--save-result"),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"vLLM's benchmark failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        )
    result = json.loads((folder / "result.json").read_text())
    if result["completed"] != len(sent):
        raise RuntimeError(f"vLLM's benchmark completed {result['completed']} of {len(sent)}")
    return Turn(
        "vllm bench serve",
        len(sent),
        result["total_input_tokens"],
        result["total_output_tokens"],
        result["duration"],
    )


app = typer.Typer(add_completion=False)


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 3,
    requests: Annotated[int, typer.Option(min=1, help="In each turn.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="At once.")] = 8,
    words: Annotated[int, typer.Option(min=1, help="Of a prompt.")] = 150,
    tokens: Annotated[int, typer.Option(min=16, help="Of a reply.")] = 64,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model; default: the packaged one.")
    ] = None,
) -> None:
    """Measure both by turns against one vLLM. Exit code 1: the batch gets less than 95 %.

    The server keeps no prefix cache: otherwise whoever comes second would find the prompts there.
    The batch's time has everything from opening it to its last row in the state database; that of
    vLLM's client is its own figure.
    """
    console = Console(stderr=True)
    spec, some = agent(concurrency, tokens), tasks(requests, words)
    turns: list[Turn] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        Parts(Path(name)) as parts,
        waiting(console, "throughput:") as say,
    ):
        folder = Path(name)
        weights = model or packaged_llm(Settings().cache_dir, say)
        sent = requests_of(spec, some, folder)
        at = parts.ensure(
            "vllm",
            lambda: vllm.launch(
                weights,
                folder,
                served_name=MODEL,
                compiled=True,
                extra_args=("--no-enable-prefix-caching",),
            ),
            progress=say,
        )
        say("warming up")
        asyncio.run(batch(spec, some[:concurrency], at["url"], folder))
        askers: list[Callable[[], Turn]] = [
            lambda: asyncio.run(batch(spec, some, at["url"], folder)),
            lambda: client(sent, weights, at["url"], concurrency, folder),
        ]
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            # First one, then the other is first: a machine does not keep its pace.
            turns += [ask() for ask in (askers if number % 2 == 0 else reversed(askers))]
    rates = {
        who: mean(turn.rate for turn in turns if turn.who == who)
        for who in ("batch", "vllm bench serve")
    }
    share = rates["batch"] / rates["vllm bench serve"]
    rows = [
        (
            turn.who,
            f"{turn.requests}",
            f"{turn.prompt_tokens:,}",
            f"{turn.tokens:,}",
            f"{turn.seconds:.1f}",
            f"{turn.rate:.1f}",
        )
        for turn in turns
    ]
    columns = ("asked by", "requests", "prompt tokens", "tokens", "seconds", "tokens/s")
    shown = Console(width=100)
    shown.print(table(columns, rows, title=f"{concurrency} at once"))
    passed = share >= _TARGET
    shown.print(f"a batch reaches {share:.1%} of it, target {_TARGET:.0%}:", passed_text(passed))
    if not passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
