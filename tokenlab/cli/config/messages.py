"""Says in one line what argparse and jsonargparse say in a page."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenlab.schema.arguments import suggest

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "Iterable": "a list",
    "NoneType": "null",
}
_PADDING = ("Expected a", "Does not validate", "Not a valid subclass", "- a ", "Subtypes", "Errors", "Given value")


def short_message(message: str, options: Iterable[str]) -> str:
    """The message in one line that begins with the key, as the config spells it.

    Args:
        message: What the parser says.
        options: The options there are, to suggest one for a misspelt one.
    """
    unknown = re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
    if unknown:
        return _unknown_option(unknown[1], options)
    key = re.match(r'(?:Parser key|key) "([^"]+)":\s*', message, re.IGNORECASE)
    if not key:
        return message
    rest = message[key.end() :]
    lines = [line.strip().removeprefix("- ") for line in rest.splitlines()]
    telling = [line for line in lines if line and not line.startswith((*_PADDING, "a "))]
    if telling:
        return f"{key[1]}: {' '.join(telling[: 2 if telling[0].endswith(':') else 1])}"
    types: list[str] = [name.rpartition(".")[2] for name in re.findall(r"Expected a <class '([\w.]+)'>", rest)]
    expected: list[str] = [_WORDS.get(name, name) for name in types]
    if "Expected a dot import path" in rest:
        expected.insert(0, "a class path such as package.module.Class")
    value = re.search(r"(?:Given|Got) value: (.*)", rest)
    if not (expected and value):
        return f"{key[1]}: {rest}"
    return f"{key[1]}: must be {' or '.join(dict.fromkeys(expected))}, got {value[1]}"


def _unknown_option(argument: str, options: Iterable[str]) -> str:
    option = argument.partition("=")[0]
    if not option.startswith("-"):
        return f"{option!r} stands alone: options begin with --, configs are given as --config FILE"
    return f"there is no option {option}{suggest(option, options)}"
