"""Questions with options: how they are written into a prompt, and which letter a right answer has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

INSTRUCTION = "Answer with the option's letter from the given choices directly."
"""lmms-eval's sentence for Video-MME and EgoSchema."""

MOST_OPTIONS = len(ascii_uppercase)


def plain_options(options: Sequence[str]) -> tuple[str, ...]:
    """Options without the letters that some data sets write before them.

    >>> plain_options(["A. a cat", "B. a dog"])
    ('a cat', 'a dog')
    >>> plain_options(["A. a cat", "a dog"])
    ('A. a cat', 'a dog')
    """
    texts = [_after_letter(letter, option) for letter, option in _pairs(options)]
    return tuple(option.strip() if None in texts else str(text) for option, text in zip(options, texts, strict=True))


def write_options(question: str, options: Sequence[str]) -> str:
    """The question, an option a line, and what to answer with."""
    lines = [f"{letter}. {option}" for letter, option in _pairs(options)]
    return "\n".join([question, *lines, INSTRUCTION])


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of a right answer that is given as letter, as text, or as both.

    Raises:
        ValueError: If it is none of the options, or two of them.
    """
    answer = answer.strip()
    found = {letter for letter, option in _pairs(options) if answer == option}
    lettered = re.fullmatch(r"\(?([A-Za-z])\s*[.):]?", answer)
    if lettered and lettered[1].upper() in ascii_uppercase[: len(options)]:
        found.add(lettered[1].upper())
    found |= {letter for letter, option in _pairs(options) if _after_letter(letter, answer) == option}
    if len(found) > 1:
        raise ValueError(f"answer {answer!r} may be option {' or '.join(sorted(found))}: give its letter and its text")
    if not found:
        letters = f"{ascii_uppercase[0]} to {ascii_uppercase[len(options) - 1]}"
        raise ValueError(f"answer {answer!r} is none of the options: give a letter ({letters}) or the option's text")
    return found.pop()


def _after_letter(letter: str, text: str) -> str | None:
    """What a text says behind a letter; None where it does not begin with that letter."""
    match = re.match(rf"\(?{letter}\s*[.):]\s*(.*)", text, re.DOTALL)
    return match[1].strip() if match else None


def _pairs(options: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, options, strict=False))
