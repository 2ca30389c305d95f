"""What stands in for vLLM and its GPU, where a test has neither: a Python as in the image for GPUs.

Belongs here: the virtual environment that pods run, and the model server that a run starts in it.
Does not belong here: what a test makes of what was asked, or the claim that the GPU comes from.

Everything but vLLM is what the tests themselves run, by links to it. vLLM's CPU build is left out,
and what is there in its place answers `python -m vllm.entrypoints.openai.api_server`. NVIDIA's
driver gives a container the files of the devices that it was allocated; here they are made by the
Python that starts in a container with an allocated fake device.
"""

import json
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

#: Where the tests keep what it was asked, and say how slow it is: a folder.
FOLDER = "STANDIN_VLLM"

_SITE = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

_FILES = {
    "vllm/__init__.py": "",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/openai/__init__.py": "",
    "vllm/entrypoints/openai/api_server.py": "from tests.cluster.standin_vllm import serve\n"
    "serve()\n",
    "vllm-0.32.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n",
    "sitecustomize.py": """
import os, pathlib
if os.environ.get("NVIDIA_VISIBLE_DEVICES"):
    pathlib.Path("/dev/nvidiactl").touch()
    for number, _ in enumerate(os.environ["NVIDIA_VISIBLE_DEVICES"].split(",")):
        pathlib.Path(f"/dev/nvidia{number}").touch()
""",
}


def write_environment(folder: Path) -> Path:
    """A virtual environment like the one that runs the tests, but for vLLM; its Python."""
    ours = Path(sysconfig.get_path("purelib"))
    site = folder / _SITE
    site.mkdir(parents=True)
    for entry in ours.iterdir():
        # The project itself is found by PYTHONPATH, and nowhere else.
        if not entry.name.startswith(("vllm", "_editable_impl", "sitecustomize")):
            (site / entry.name).symlink_to(entry)
    for name, text in _FILES.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    (folder / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    return python


class Standin:
    """What the model servers of all pods were asked, as the tests see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.delay(0.0)

    def delay(self, seconds: float) -> None:
        """Every reply takes so long from now on."""
        new = self.folder / ".delay"
        new.write_text(str(seconds))
        new.rename(self.folder / "delay")

    @property
    def asked(self) -> list[dict[str, Any]]:
        """By which pod, with which GPU, about which task, after how many messages; in order."""
        lines = [
            json.loads(line)
            for file in self.folder.glob("*.jsonl")
            for line in file.read_text().splitlines()
        ]
        return sorted(lines, key=lambda line: line["at"])


def serve() -> None:
    """Answer as vLLM would, where its command line says."""
    import uvicorn
    from starlette.applications import Starlette

    from tests.scripted_model import ScriptedModel, Turn, calls, says

    folder = Path(os.environ[FOLDER])
    log = folder / f"{os.environ['POD']}.jsonl"

    def reply(body: dict[str, Any]) -> Turn:
        question, messages = body["messages"][1]["content"], len(body["messages"])
        asked = {
            "at": time.time(),
            "pod": os.environ["POD"],
            "gpu": os.environ.get("NVIDIA_VISIBLE_DEVICES"),
            "node": os.environ.get("FAKE_GPU_NODE"),
            "task": question,
            "messages": messages,
        }
        with log.open("a") as file:
            file.write(json.dumps(asked) + "\n")
        delay = float((folder / "delay").read_text())
        if not body.get("tools"):
            return says({"answer": "It was restarted."}, delay=delay)
        if messages == 2:
            turn = calls(
                ("search", {"query": question}),
                ("list_pods", {"namespace": os.environ["NAMESPACE"]}),
            )
            return Turn(tool_calls=turn.tool_calls, delay=delay)
        found = body["messages"][3]["content"]
        return says({"answer": found[:200], "citations": ["c1"]}, delay=delay)

    port = int(sys.argv[sys.argv.index("--port") + 1])
    app = Starlette(routes=ScriptedModel(reply).routes())
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
