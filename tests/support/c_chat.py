"""A conversation of the C library, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import edge_gemma as eg
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.engine.native import check, ffi, lib, new_struct


class CChat:
    """A conversation of the C library."""

    def __init__(self, model: eg.Model, stops: tuple[str, ...] = (), **fields: Any) -> None:
        self.err, params = new_struct("eg_error"), new_struct("eg_chat_params")
        kept = [ffi.new("char[]", stop.encode()) for stop in stops]
        array = ffi.new("const char *[]", kept)
        params.stops, params.n_stops = array, len(kept)
        for name in ("system", "tools"):
            if (value := fields.pop(name, None)) is not None:
                kept.append(ffi.new("char[]", (value if isinstance(value, str) else json.dumps(value)).encode()))
                setattr(params, name, kept[-1])
        for name, value in fields.items():
            setattr(params, name, value)
        out = ffi.new("eg_chat **")
        self.do("open", model.pointer, params, out, chat=False)
        self.raw, self.model = ffi.gc(out[0], lib.eg_chat_close), model

    def do(self, name: str, *arguments: Any, chat: bool = True) -> None:
        """Calls eg_chat_NAME; raises its error."""
        given = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
        check(getattr(lib, f"eg_chat_{name}")(*([self.raw] if chat else []), *given, self.err), self.err)

    def add(self, message: dict[str, Any]) -> None:
        self.do("add_json", json.dumps(message))

    def prompt(self) -> str:
        text, length = ffi.new("const char **"), ffi.new("size_t *")
        self.do("prompt", text, length)
        return ffi.buffer(text[0], length[0])[:].decode()

    def events(self, **sampling: Any) -> Iterator[tuple[str, Any]]:
        """The answer to the last message."""
        options, event = new_struct("eg_sampling"), new_struct("eg_reply_event")
        for name, value in sampling.items():
            setattr(options, name, value)
        self.do("begin")
        while True:
            self.do("next", options, event)
            text = ffi.buffer(event.text, event.text_length)[:].decode()
            if event.kind == lib.EG_EVENT_DONE:
                yield "done", (int(event.stop), text)
                return
            if event.kind in (lib.EG_EVENT_CALL, lib.EG_EVENT_BROKEN_CALL):
                yield "call", (ffi.string(event.name).decode(), json.loads(ffi.string(event.arguments)))
            else:
                yield ("text" if event.kind == lib.EG_EVENT_TEXT else "thinking"), text

    @property
    def history(self) -> list[Any]:
        return [json.loads(ffi.string(lib.eg_chat_get(self.raw, n))) for n in range(lib.eg_chat_count(self.raw))]

    @property
    def session(self) -> Any:
        return lib.eg_chat_session(self.raw)

    @property
    def tokens(self) -> list[int]:
        ids = ffi.new("int32_t[]", max(lib.eg_session_position(self.session), 1))
        return list(ids[0 : lib.eg_session_get_tokens(self.session, 0, ids, len(ids))])

    @property
    def fed(self) -> int:
        """Tokens that were fed since it was opened."""
        stats = new_struct("eg_stats")
        check(lib.eg_session_get_stats(self.session, stats, self.err), self.err)
        return int(stats.prefill_tokens)


def home_chats(model: eg.Model, home: Home) -> tuple[CChat, eg.Chat]:
    """A conversation with a home in C and the same of the package, both to be drawn from greedily."""
    chat = CChat(model, system=INSTRUCTIONS, tools=Toolbox(home.tools).schemas, context=2048)
    options = {"context": 2048, "template": BUILTIN_TEMPLATE, "constrain": False}
    return chat, model.chat(INSTRUCTIONS, home.tools, sampling=eg.Sampling(temperature=0), **options)
