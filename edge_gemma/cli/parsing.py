"""How the command line is read: the parser of all verbs, its help, and its errors.

An error is one line that names the verb, says what is wrong, and suggests the word that was probably meant. Arguments and
options may be mixed in any order. Lines of the help are broken between words.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from .terminal import print_error

WRONG_USAGE = 2
WIDEST = 100  # columns of the help; longer lines are hard to read
OPTIONS = "[OPTION ...]"
_COMMANDS = ("edge-gemma", "git", "printf", "arecord", "ffmpeg", "eval")  # with which examples begin
_MESSAGES = (  # argparse's sentences, and ours
    (r"expected one argument", "{name} needs a value"),
    (r"expected at least one argument", "{name} needs at least one value"),
    (r"expected at most one argument", "{name} takes one value at most"),
    (r"ignored explicit argument (.*)", "{name} takes no value, but {0} was given"),
    (r"not allowed with argument (.*)", "{name} cannot be used with {0}"),
)


def suggestion(word: str, words: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: "; did you mean X?" with the words that are similar, or a full stop."""
    known = {known.lower(): known for known in words}
    found = [known[name] for name in difflib.get_close_matches(word.lower(), known, n=2, cutoff=0.6)]
    return f"; did you mean {' or '.join(found)}?" if found else "."


def file_path(text: str) -> str:
    """The name of a file, with `~` expanded: in --model=~/x.gguf the shell leaves it as it is."""
    return os.path.expanduser(text)


def plain_text(text: str) -> str:
    """A text for the model. Where the locale is not UTF-8 and Python could not decode the argument, it is taken for UTF-8."""
    if not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return os.fsencode(text).decode("utf-8", "replace")


def usage(parser: Parser) -> str:
    """The usage line of a parser: its name, that it has options, and its arguments."""
    return " ".join([parser.prog, OPTIONS, *map(placeholder, parser.positionals())])


def placeholder(action: argparse.Action) -> str:
    """What stands for the values of an action in its usage, such as "FILE [FILE ...]"; "" for a flag."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, str):
        word = action.metavar
    else:
        word = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    forms: dict[Any, str] = {"?": f"[{word}]", "*": f"[{word} ...]", "+": f"{word} [{word} ...]", "A...": f"{word} ..."}
    return forms.get(action.nargs, word)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only. Lines of examples end with a backslash where they are broken."""

    def __init__(self, prog: str) -> None:
        """Takes the width of the terminal, but at most WIDEST columns."""
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, WIDEST) - 1)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_prose, group in itertools.groupby(text.splitlines(), lambda line: line[:1].strip() != ""):
            # Prose is broken anew. Lines that are indented are examples and lists, and stay lines.
            members = list(group)
            lines += (
                _filled(members, width) if is_prose else [part for line in members for part in _broken(line, width)]
            )
        return "\n".join(lines)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        return " ".join(filter(None, (", ".join(action.option_strings), placeholder(action))))


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """The lines of a text, broken between words; `indent` begins all but the first."""
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _filled(lines: list[str], width: int) -> list[str]:
    """A paragraph, whose first line may be a title."""
    title = [lines.pop(0)] if lines[0].endswith(":") else []
    return [*title, *wrap(" ".join(lines), width)]


def _broken(line: str, width: int) -> list[str]:
    """An indented line, broken between words: an example with backslashes, an entry of a list within its column."""
    if len(line) <= width:
        return [line]
    begin = line[: len(line) - len(line.lstrip())]
    if line.split()[0] not in _COMMANDS:
        column = re.match(r" *\S.*?\S {2,}", line)
        start = column.end() if column else len(begin)
        return [
            line[:start] + part if i == 0 else " " * start + part
            for i, part in enumerate(wrap(line[start:], width - start))
        ]
    lines = [begin]
    for word in re.findall(r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'])+", line):  # as the shell splits them
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append(begin + "   ")
        lines[-1] += word if lines[-1] == begin else f" {word}"
    return lines


class _Argument(str):
    """A word behind `--`, which is no option. argparse forgets that when arguments and options are mixed."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with a suggestion."""

    _actions: list[argparse.Action]
    _action_groups: list[Any]
    _group_actions: list[argparse.Action]  # of a group

    def __init__(self, *args: Any, **options: Any) -> None:
        """Options as those of ArgumentParser."""
        super().__init__(*args, **{"formatter_class": Formatter, **options})
        self._given: Sequence[str] = ()

    def positionals(self) -> list[argparse.Action]:
        """The arguments that are no options."""
        return [action for action in self._actions if not action.option_strings]

    def options(self) -> list[argparse.Action]:
        """The options that the help shows."""
        return [action for action in self._actions if action.option_strings and action.help != argparse.SUPPRESS]

    def sections(self) -> list[tuple[str, list[argparse.Action]]]:
        """The groups of arguments and options in the order of the help: title and actions."""
        found = []
        for group in self._action_groups:
            members: list[argparse.Action] = group._group_actions
            if shown := [action for action in members if action.help != argparse.SUPPRESS]:
                found.append((group.title or "", shown))
        return found

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses arguments and options in any order. Prints an error and raises SystemExit when they are wrong."""
        self._given = argv
        self._set_usage()  # before argparse takes the arguments away, to read the options first
        if "--" in argv:
            end = list(argv).index("--")
            argv = [*argv[:end], *map(_Argument, argv[end + 1 :])]
        return self.parse_intermixed_args(argv)

    def _parse_optional(self, arg_string: str) -> Any:
        return None if isinstance(arg_string, _Argument) else super()._parse_optional(arg_string)

    def format_help(self) -> str:
        """The help. Its usage line names the arguments only: the options are listed below it."""
        self._set_usage()
        return super().format_help()

    def _set_usage(self) -> None:
        if self.usage is None:
            self.usage = usage(self).replace("%", "%%")

    def error(self, message: str) -> NoReturn:
        """Prints a sentence and leaves with the exit status of wrong usage."""
        print_error(f"{self._sentence(message)} See {self.prog} --help.", self.prog)
        self.exit(WRONG_USAGE)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            text = f"{value!r} is not one of {', '.join(choices)}{suggestion(str(value), choices)}"
            raise argparse.ArgumentError(action, text)

    def _sentence(self, message: str) -> str:
        """argparse's message as a sentence."""
        if found := re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL):
            return self._unknown(found[1])
        if found := re.fullmatch(r"the following arguments are required: (.*)", message):
            names = [name.split("/")[0] for name in found[1].split(", ")]
            return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing."
        if found := re.fullmatch(r"ambiguous option: (\S+) could match (.*)", message):
            return f"{found[1]} could be {found[2].replace(', ', ' or ')}."
        if found := re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL):
            name, text = max(found[1].split("/"), key=len), found[2]
            if text == "expected one argument" and (value := self._value_with_dash(found[1].split("/"))):
                return f"{name} needs a value; one that begins with a dash is written {name}={value}."
            for pattern, sentence in _MESSAGES:
                if match := re.fullmatch(pattern, text, re.DOTALL):
                    return sentence.format(*match.groups(), name=name) + "."
            return f"{name}: {text}" + "." * (text[-1:] not in ".?!")
        return message + "." * (message[-1:] not in ".?!")

    def _value_with_dash(self, names: list[str]) -> str | None:
        """What follows an option if it looks like another option, but is none of this verb."""
        known = {option for action in self._actions for option in action.option_strings}
        pairs = zip(self._given, self._given[1:], strict=False)
        return next((then for word, then in pairs if word in names and then[:1] == "-" and then not in known), None)

    def _unknown(self, words: str) -> str:
        """The sentence about arguments that no action takes."""
        wrong = next((word for word in self._given if word.startswith("-") and word in words.split(" ")), words)
        if not wrong.startswith("-"):
            return f"{wrong!r} is one argument too many."
        name = wrong.split("=")[0]
        known = [option for action in self.options() for option in action.option_strings]
        return f"there is no option {name}{suggestion(name, [o for o in known if o.startswith('--')])}"
