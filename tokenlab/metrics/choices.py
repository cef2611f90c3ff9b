"""Which option an answer chooses: a letter that is said, or an option's text, and nothing that must be guessed.

Scorers that take the first capital letter they find credit "A dog" as A, and what they cannot read they draw at random;
here what is no choice is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from tokenlab.metrics.answers import exact_match

_MARKS = r"(?:\\boxed|[\s\"'*_`\[({$])*"
"""What may stand before a letter: quotes, brackets, Markdown."""
_STATED = r"(?:answer|choice|option)(?:\s+(?:is|would\s+be|should\s+be|must\s+be))?\s*:?"
_SAID = rf"(?:{_STATED}|\b(?:it\s+is|it's|that\s+is|choose|pick|select|say|go\s+with))"
_ENDS = (
    r"(?=[^\S\n]*(?:$|\n|[.):,;*_\"'\]}`]|because\b|since\b|as\b|[-\u2013\u2014]"
    r"|is\s+(?:the\s+)?(?:correct|right|best)\b))"
)
"""What stands behind a letter that is meant: the "A" of "A dog" has none of it."""
_MORE = r"[\s).,/&*\]]*(?:and\b|or\b|&|,|/)?[\s(*\[]*([A-Z])(?=\s*(?:$|[).,;/*\]]|and\b|or\b))"
"""A further letter at once: "A, B", "A and B", "A. B."."""


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """Reads the letter of the option that an answer chooses; None where it chooses none, or several.

    >>> read_choice("The answer is B. Because A is wrong", ["a cat", "a dog"])
    'B'
    >>> read_choice("A dog", ["a cat", "a dog"])
    'B'
    >>> read_choice("A man with a dog", ["a cat", "a dog"])
    """
    letters = ascii_uppercase[: len(options)]
    answer = answer.strip()
    alone = re.fullmatch(rf"{_MARKS}([A-Za-z])[\s.):,*_\"'\]}}`$]*", answer)
    if alone and alone[1].upper() in letters:
        return alone[1].upper()
    for text in (answer, _without_lead(answer)):
        by_text = {letter for letter, option in zip(letters, options, strict=True) if _same_option(text, option)}
        if len(by_text) == 1:
            return by_text.pop()
    if len(set(re.findall(rf"(?:^|\s)\(?([{letters}])[.)]\s", answer))) > 1 and not re.search(_STATED, answer, re.I):
        return None  # says the options again
    leading = re.match(rf"{_MARKS}(?:[Oo]ption\s+)?([{letters}]){_ENDS}", answer)
    said = [*re.finditer(rf"(?i:{_SAID}){_MARKS}([{letters}])(?![\w'])(?!\s+[a-z])", answer)]
    said += [*re.finditer(rf"(?i:{_STATED}){_MARKS}([{letters}]){_ENDS}", answer)]
    for match in ([leading] if leading else []) or sorted(said, key=lambda found: found.start())[-1:]:
        more = re.match(_MORE, answer[match.end() :])
        return None if more and more[1] in letters and more[1] != match[1] else match[1]
    return None


def _without_lead(answer: str) -> str:
    """An answer without the words that lead to it."""
    return re.sub(rf"(?i)^(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)?{_SAID}\s*", "", answer)


def _same_option(text: str, option: str) -> bool:
    def bare(words: str) -> str:
        return re.sub(r"(?i)^(?:an?|the)\s+(?=\S)", "", words.strip().strip("\"'*_`"))

    return exact_match(text, option) or exact_match(bare(text), bare(option))
