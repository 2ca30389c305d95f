"""How many tokens a text takes, without running the tokenizer over all of it.

Belongs here: counting by remembered words. Does not belong here: what is cut because of it.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: What every tokenizer takes for space, for use within a regex's brackets. Not `\s`: BERT's drops
#: U+0085 and its like, joining what stands on both sides of them.
SPACE = r" \t\n\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

_WORDS = re.compile(rf"[^{SPACE}]+")
_WORDS_AND_SPACE = re.compile(rf"[{SPACE}]?[^{SPACE}]+|[{SPACE}]+")

#: A longer word is likely read as one unknown token, whatever its length (BERT's tokenizer knows
#: none beyond 100 characters). It is counted as if this many of its characters made a token, or a
#: chunk could hold any amount of it.
_LONG_WORD = 100
_CHARACTERS_PER_TOKEN = 4

#: Words remembered at most; some 15 MiB.
_MEMORY = 2**17


class TokenCounter:
    """Counts tokens, special ones left out.

    A language has few words, and a word has the same number of tokens wherever it stands: text is
    counted some ten times as fast as it is tokenised.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.exact_by_word = _reads_word_by_word(tokenizer)
        """Whether `by_word` is what the tokenizer says of any text without long words.

        Else (BPE, Unigram) it is an estimate: there a word's tokens may depend on the space and the
        words beside it.
        """
        self._words = _WORDS if self.exact_by_word else _WORDS_AND_SPACE
        self._sizes: dict[str, int] = {}

    def by_word(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text, as the sum over its words."""
        words = [self._words.findall(text) for text in texts]
        sizes = self._sizes
        if new := list({word for text in words for word in text if word not in sizes}):
            if len(sizes) + len(new) > _MEMORY:
                # Another dict: other threads go on with theirs.
                sizes = self._sizes = {w: sizes[w] for text in words for w in text if w in sizes}
            sizes |= zip(new, map(_at_least, new, self.exact(new)), strict=True)
        return [sum(map(sizes.__getitem__, text)) for text in words]

    def exact(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text, as the tokenizer has it."""
        return [
            len(encoding)
            for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]


def _at_least(word: str, tokens: int) -> int:
    return max(tokens, len(word) // _CHARACTERS_PER_TOKEN if len(word) > _LONG_WORD else 0)


def _reads_word_by_word(tokenizer: "Tokenizer") -> bool:
    """Whether this tokenizer splits at space before anything else, as BERT's does."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return (
        isinstance(tokenizer.normalizer, BertNormalizer | None)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and not any(
            re.search(rf"[{SPACE}]", added.content)
            for added in tokenizer.get_added_tokens_decoder().values()
        )
    )
