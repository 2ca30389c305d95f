"""What is indexed: two corpora as folders of files, and the changes made to them between phases.

Belongs here: getting or making the files, once, before any contender runs. Does not belong here:
cutting them into chunks, which is each contender's own work.
"""

import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent_pipelines.errors import UserError
from tests.bench.drivers import synthetic

#: Debian packages whose documentation is the corpus of real text.
_PACKAGES = ("postgresql-doc-15", "git-doc")

#: Part of the folder's name: raised when the conversion changes.
_CONVERSION = 1

#: A paragraph worth editing.
_PARAGRAPH_LENGTH = 60

Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """A folder of .md and .txt files."""

    name: str
    title: str
    folder: Path

    def files(self) -> list[Path]:
        return files_of(self.folder)


def files_of(folder: Path) -> list[Path]:
    """Every file below the folder, in a fixed order."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def docs(cache_dir: Path, say: Say) -> Corpus:
    """The manuals of PostgreSQL 15 and git: about 1,400 files, 4 MB, 10,000 chunks.

    Raises:
        UserError: the packages cannot be downloaded.
    """
    folder = cache_dir / "bench" / f"docs-{_CONVERSION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as new:
            say(f"downloading {' and '.join(_PACKAGES)} (4 MB)")
            _download(Path(new))
            say("converting them to Markdown")
            _convert(Path(new) / "usr/share/doc", Path(new) / "made")
            (Path(new) / "made").rename(folder)
    return Corpus("docs", "PostgreSQL and git manuals", folder)


def synthetic_corpus(cache_dir: Path, documents: int, say: Say) -> Corpus:
    """Documents of ten chunks each, the same on every machine."""
    folder = cache_dir / "bench" / f"synthetic-{documents}x{synthetic.PARAGRAPHS}"
    if not folder.exists():
        say(f"writing {documents:,} documents")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as new:
            for number in range(documents):
                path = Path(new) / "made" / synthetic.document_id(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(synthetic.text_of(number), encoding="utf-8")
            (Path(new) / "made").rename(folder)
    return Corpus("synthetic", f"{documents:,} generated documents", folder)


def copy(corpus: Corpus, into: Path, *, every: int = 1) -> None:
    """A copy to change: every file, or every tenth."""
    for path in corpus.files()[::every]:
        target = into / path.relative_to(corpus.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def edit(folder: Path, share: float, seed: int) -> list[str]:
    """Change one paragraph in the middle of this share of the documents; their ids."""
    files = files_of(folder)
    edited = []
    for path in random.Random(seed).sample(files, len(files)):
        if len(edited) >= max(1, round(share * len(files))):
            break
        parts = path.read_text(encoding="utf-8").split("\n\n")
        long = [n for n, part in enumerate(parts) if len(part) > _PARAGRAPH_LENGTH]
        if not long:
            continue
        parts[long[len(long) // 2]] += f" This sentence is edit {len(edited)} of the benchmark."
        path.write_text("\n\n".join(parts), encoding="utf-8")
        edited.append(path.relative_to(folder).as_posix())
    return edited


def delete(folder: Path, share: float, seed: int) -> list[str]:
    """Delete this share of the documents; their ids."""
    files = files_of(folder)
    gone = random.Random(seed).sample(files, max(1, round(share * len(files))))
    for path in gone:
        path.unlink()
    return [path.relative_to(folder).as_posix() for path in gone]


def _download(into: Path) -> None:
    try:
        done = subprocess.run(
            ["apt-get", "download", *_PACKAGES], cwd=into, capture_output=True, text=True
        )
        reason = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        reason = "there is no apt-get"
    if reason:
        raise UserError(
            f"{' and '.join(_PACKAGES)} cannot be downloaded: {reason}",
            remedy="run `apt-get update` first, on a Debian that has them (12), or leave this "
            "corpus out with --only synthetic",
        )
    for package in into.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(into)], check=True)


def _convert(docs: Path, into: Path) -> None:
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    pages = docs / _PACKAGES[0] / "html"
    (into / "postgresql").mkdir(parents=True)
    for page in sorted(pages.glob("*.html")):
        soup = BeautifulSoup(page.read_bytes(), "html.parser")
        # Navigation, and tables of contents: text that stands on every page.
        for unwanted in soup.select("head, .navheader, .navfooter, .toc"):
            unwanted.decompose()
        text = MarkdownConverter(heading_style="ATX").convert_soup(soup.body)
        if text.strip():
            (into / "postgresql" / f"{page.stem}.md").write_text(text.strip() + "\n", "utf-8")
    # Every page of git's is there twice, as HTML and as the text it was made of.
    for page in sorted((docs / _PACKAGES[1]).rglob("*.txt")):
        target = into / "git" / page.relative_to(docs / _PACKAGES[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        if text := page.read_text("utf-8", errors="replace").strip():
            target.write_text(text + "\n", "utf-8")
