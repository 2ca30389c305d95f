"""Text that nobody wrote: the same on every machine, and cut into ten chunks by every splitter.

Belongs here: a document as a function of its number. Does not belong here: writing it to disk.
"""

import random

#: Chunks that a document is made to be cut into.
PARAGRAPHS = 10

#: Words of a paragraph: two of them are more than a chunk of 200 tokens, one is less.
_WORDS_OF_PARAGRAPH = 150
_WORDS_OF_SENTENCE = 15

#: Each is one token of MiniLM's vocabulary.
_VOCABULARY = (
    "time person year way day thing man world life hand part child eye woman place work week case "
    "point company number group problem fact house water room mother area money story month lot "
    "right study book word business issue side kind head service friend father power hour game "
    "line end member law car city community name team minute idea body information back parent "
    "face level office door health art war history party result change morning reason research "
    "girl guy moment air teacher force education foot boy age policy music market sense land"
)


def document_id(number: int) -> str:
    """The id, which is the file's name where it becomes a file."""
    return f"{number // 1000:03d}/document-{number:07d}.md"


def text_of(number: int, paragraphs: int = PARAGRAPHS) -> str:
    """The document with this number, as Markdown."""
    chosen, vocabulary = random.Random(number), _VOCABULARY.split()
    parts = [f"# Document {number}"]
    for _ in range(paragraphs):
        words = chosen.choices(vocabulary, k=_WORDS_OF_PARAGRAPH)
        parts.append(
            " ".join(
                " ".join(words[start : start + _WORDS_OF_SENTENCE]).capitalize() + "."
                for start in range(0, len(words), _WORDS_OF_SENTENCE)
            )
        )
    return "\n\n".join(parts) + "\n"
