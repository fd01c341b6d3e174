"""`Model`: an open GGUF file, shared by any number of sessions and chats."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaValueError
from ..hub.resolve import locate, model_files, warn_if_toy
from ..hub.sidecar import sidecar_path
from .audio import AudioEncoder, sound_array
from .config import ModelConfig
from .descriptor import FileDescriptor, FileSource, path_of
from .gguf import GGUFFile, TensorInfo
from .memory import MemoryLimit, check_fits, file_parts, fit, format_bytes
from .native import Handle, check, ffi, file_params, lib, new_struct
from .sampling import Sampling
from .session import Session, kv_type
from .tokenizer import Tokenizer
from .vision import ImageEncoder, image_tokens

if TYPE_CHECKING:
    from ..chat.conversation import Chat
    from ..chat.tools import Tool


class Model(Handle):
    """An open model. Immutable, and safe to share between threads; sessions are what holds state.

    Open with `Model.load(path)`; close with `close()` or a `with` block (or leave it to the garbage collector).
    """

    kind = "model"
    instead = "Model.load() opens the file again, which takes milliseconds and no memory"

    def __init__(self, pointer: Any, path: Path, mmproj: Path | None = None, sidecar: FileSource | None = None) -> None:
        """Takes over an `eg_model *`. Internal: use `load`. `sidecar`: the one that was given."""
        super().__init__(pointer, lib.eg_model_close)
        self._children: weakref.WeakSet[Handle] = weakref.WeakSet()
        self.path, self.mmproj = path, mmproj
        self._parts: dict[str, int] = {}
        # It keeps the engine's model alive, not this object: a cycle would leave gigabytes mapped until it is collected.
        self.tokenizer = Tokenizer(lib.eg_model_tokenizer(self.pointer), owner=self.pointer)
        info, err = new_struct("eg_model_info"), new_struct("eg_error")
        check(lib.eg_model_get_info(self.pointer, info, err), err)
        self.threads: int = info.threads
        #: The file of a leaner head, which is read in place of that of `path`; None if the model was opened without.
        self.sidecar: Path | None = path_of(sidecar or sidecar_path(path)) if info.sidecar else None
        numbers = {field: getattr(info, field) for field in ModelConfig.__dataclass_fields__ if field != "name"}
        self.config = ModelConfig(name=ffi.string(info.name).decode("utf-8", "replace"), **numbers)

    @classmethod
    def load(
        cls,
        path: FileSource | None = None,
        mmproj: FileSource | None = None,
        threads: int | None = None,
        sidecar: FileSource | bool = True,
        *,
        memory_limit: int | str | None = None,
    ) -> Model:
        """Opens a Gemma 4 GGUF file; of a split one, its first part. `mmproj`: the file of the model's encoders. `sidecar`: a
        file with a leaner version of its head, which `edge-gemma prepare` makes; True for X.lean.gguf beside
        X.gguf if it exists, False for none. Each may be a `FileDescriptor` instead of a path.

        "e2b" and other names mean what `edge-gemma pull` downloaded, encoders included; "toy" is the small model that comes
        with the package and knows commands to a home, no more. Without a path it is the model of EDGE_GEMMA_MODEL, else the
        toy, with a warning.

        Weights stay in the file and are mapped, so this takes milliseconds. `threads`: None for the fast cores that this
        process may use.

        `memory_limit`: bytes, or a size such as "8GB", which the process is to stay within; None for what the machine and the
        control groups of the process allow. Weights that do not fit are read when they are needed, and those that are used most
        stay in memory. Results have the same bits.

        Raises EdgeGemmaError (also an OSError or a ValueError) that says what is wrong with the file.
        """
        if threads is not None and threads < 1:
            raise EdgeGemmaValueError("threads must be at least 1.", "argument")
        encoders = None if isinstance(mmproj, FileDescriptor) else mmproj
        if path is None:
            path, encoders = model_files(None, encoders)
            warn_if_toy(path)
        elif not isinstance(path, FileDescriptor):
            path, encoders = locate(path, encoders)
        if not isinstance(mmproj, FileDescriptor):
            mmproj = encoders
        params, out, err = new_struct("eg_model_params"), ffi.new("eg_model **"), new_struct("eg_error")
        params.threads = threads or 0
        params.memory_limit = 0 if memory_limit is None else MemoryLimit.of(memory_limit).bytes
        model_at, encoders_at = file_params(path), None if mmproj is None else file_params(mmproj)
        params.path, params.fd, params.offset, params.length = (
            model_at.path,
            model_at.fd,
            model_at.offset,
            model_at.length,
        )
        if encoders_at is not None:
            params.mmproj, params.mmproj_fd, params.mmproj_offset = encoders_at.path, encoders_at.fd, encoders_at.offset
            params.mmproj_length = _length(mmproj)
        params.no_sidecar = sidecar is False
        own = None if isinstance(sidecar, bool) else sidecar
        if own is not None:
            sidecar_at = file_params(own)
            params.sidecar, params.sidecar_fd, params.sidecar_offset = sidecar_at.path, sidecar_at.fd, sidecar_at.offset
            params.sidecar_length = _length(own)
        check(lib.eg_model_open(params, out, err), err)
        model = cls(out[0], path_of(path), None if mmproj is None else path_of(mmproj), own)
        if any(isinstance(source, FileDescriptor) for source in (path, mmproj, own)):
            model.measure_weights(path, mmproj, own or model.sidecar)  # while the descriptors are open
        return model

    def close(self) -> None:
        """Closes the model, its sessions and streams. Further calls do nothing."""
        for child in list(self._children):
            child.close()
        self.tokenizer.detach()
        super().close()

    def __repr__(self) -> str:
        """Names the file."""
        return f"<Model {self.config.name or self.path.name}: {self.config.parameters / 1e6:,.0f} M parameters>"

    def memory(self) -> dict[str, int]:
        """Bytes: `mapped` of the file, `resident` of these in memory now, `tables` on the heap, and `workspace`, that of its
        sessions for as many calls as ran at the same time so far."""
        out, err = new_struct("eg_memory"), new_struct("eg_error")
        check(lib.eg_model_get_memory(self.pointer, out, err), err)
        return {key: getattr(out, key) for key in ("mapped", "resident", "tables", "workspace")}

    def trim(self) -> None:
        """Gives back all memory that can be read or made again: pages of the files, and work spaces that no call is using. The
        next call is slower and has the same results. For a program that goes to the background; any thread, at any time."""
        err = new_struct("eg_error")
        check(lib.eg_model_trim(self.pointer, err), err)

    @property
    def weight_budget(self) -> int:
        """Bytes of weights that are in memory at once, of a model whose weights do not fit the memory limit; 0 if they do."""
        return int(self._info().weight_budget)

    @property
    def weight_least(self) -> int:
        """The least that `weight_budget` can be, however small the limit."""
        return int(self._info().weight_least)

    def _info(self) -> Any:
        info, err = new_struct("eg_model_info"), new_struct("eg_error")
        check(lib.eg_model_get_info(self.pointer, info, err), err)
        return info

    def weight_sizes(self) -> dict[str, int]:
        """Bytes of the files: `weights`, which every token reads; `rows`, tables of which it copies single rows; `encoder`,
        read where sound is heard; `image`; `vocabulary`, with all that is no tensor. Raises EdgeGemmaError."""
        if not self._parts:
            self.measure_weights(self.path, self.mmproj, self.sidecar)
        return dict(self._parts)

    def measure_weights(self, *sources: FileSource | None) -> None:
        """Internal: reads the sizes from the files of model, encoders and sidecar, given as paths or descriptors."""
        tensors: list[TensorInfo] = []
        for source in sources:
            if source is not None:
                with GGUFFile(source) as file:
                    tensors += file.tensors
        parts = file_parts(tensors)
        self._parts = {**parts, "vocabulary": max(self.memory()["mapped"] - sum(parts.values()), 0)}

    def estimate(self, context: int = 4096, kv: str = "f16") -> dict[str, int]:
        """Bytes that a session would take: its `kv` cache and `scratch`; and the model's `workspace`, which all sessions
        share as long as one of them computes at a time. Parts that are not touched never become resident."""
        params, out, err = new_struct("eg_session_params"), new_struct("eg_memory"), new_struct("eg_error")
        params.context = self._context(context)
        params.kv = kv_type(kv)
        check(lib.eg_session_estimate(self.pointer, params, out, err), err)
        return {"kv": out.kv, "scratch": out.scratch, "workspace": out.workspace}

    def session(
        self,
        context: int | None = None,
        kv: str | None = None,
        restore: str | os.PathLike[str] | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
    ) -> Session:
        """Opens a session: an empty timeline of up to `context` tokens, or the one saved in the file `restore`.

        `context`: None for 4096 (the model's own length if that is shorter), for as much as fits a memory limit, or for the
        saved one. `kv`: type of the
        cache, f32, f16 or q8; None for f16; a restored session keeps its own.

        `memory_limit`: bytes, or a size such as "1.5GB", which the process stays within, weights and all: then `context`
        (None: the model's own length) is what is wanted, and the session gets a q8 cache, or less of it, where it must.
        What is restored is not made smaller. A model without experts whose weights alone are above the limit that it was opened
        with reads them from the disk for every token, and a warning tells how much. Raises EdgeGemmaError: "memory" when
        nothing fits the limit.
        """
        if memory_limit is not None and restore is None:
            plan = fit(self, memory_limit, None if context is None else self._context(context), kv)
            context, kv = plan.context, plan.kv
            if self.weight_budget and not self.config.experts:
                weights, kept = self.weight_sizes()["weights"], self.weight_budget
                warnings.warn(
                    f"{self.path.name}: {format_bytes(weights)} of weights do not fit the memory limit. "
                    f"{format_bytes(max(weights - kept, 0))} are read from the disk for every token, which is slow.",
                    stacklevel=2,
                )
        out, err = ffi.new("eg_session **"), new_struct("eg_error")
        length = self._context(context) if context is not None else 0
        if restore is not None:
            check(lib.eg_session_restore(self.pointer, os.fsencode(restore), length, out, err), err)
        else:
            params = new_struct("eg_session_params")
            params.context = length
            params.kv = kv_type(kv or "f16")
            check(lib.eg_session_open(self.pointer, params, out, err), err)
        session = self.adopt(out[0])
        if memory_limit is not None and restore is not None:
            with contextlib.ExitStack() as failed:
                failed.callback(session.close)
                check_fits(session, memory_limit)
                failed.pop_all()
        return session

    def adopt(self, pointer: Any) -> Session:
        """Internal: a Session around an `eg_session *`, closed with the model at the latest."""
        session = Session(self, self.config, pointer, self.adopt, self.pointer)
        self._children.add(session)
        return session

    @property
    def has_audio(self) -> bool:
        """Whether the model was opened with an audio encoder."""
        return self.config.audio

    def encode_audio(self, samples: ArrayLike, left_context: int = 12) -> NDArray[np.float32]:
        """Soft tokens of a whole recording: 16 kHz mono samples (n,) in [-1, 1] -> (ceil(frames / 4), hidden_size) float32.

        `left_context`: tokens that a token sees, itself included, 12 or 13. Raises EdgeGemmaError: "unsupported" without an
        audio encoder, "argument" for less than 161 samples, one that is not finite, or another shape.
        """
        sound = sound_array(samples)
        with self.audio_encoder(left_context) as stream:
            if not self.audio_tokens(sound.size):
                raise EdgeGemmaValueError(
                    f"the recording has {sound.size} samples: it takes 161 (10 ms) at least.", "argument"
                )
            return np.concatenate([stream.push(sound), stream.finish()])

    def audio_tokens(self, samples: int) -> int:
        """Soft tokens of a recording of so many samples, without the two markers around them: one for every 40 ms."""
        return int(lib.eg_audio_token_count(self.pointer, max(samples, 0)))

    def audio_encoder(self, left_context: int = 12) -> AudioEncoder:
        """Opens the audio encoder alone, for sound as it comes. Raises EdgeGemmaError "unsupported" without an encoder."""
        stream = AudioEncoder(self, self.config.hidden_size, left_context)
        self._children.add(stream)
        return stream

    @property
    def has_vision(self) -> bool:
        """Whether the model was opened with a vision encoder."""
        return self.config.vision

    def image_tokens(self, width: int, height: int, max_tokens: int = 280) -> int:
        """Soft tokens of a picture of so many pixels, without the two markers around them.

        Raises EdgeGemmaError: "unsupported" without a vision encoder; "argument" for a side of 0, or a budget that is none of
        70, 140, 280, 560 and 1120.
        """
        return image_tokens(self.pointer, width, height, max_tokens)

    def encode_image(
        self, image: Any, max_tokens: int | str = 280, *, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Soft tokens of a picture: (n, hidden_size) float32.

        Args:
            image: a path, `bytes`, a file object, a PIL image or an (h, w, 3) array of RGB values.
            max_tokens: its budget: 70, 140, 280, 560 or 1120, "low", "auto" or "high"; see `Session.feed_image`.
            progress: called with the work that is done and all of it; what it raises ends the encoding.

        Raises EdgeGemmaError: "file" and "format" for a picture that cannot be read; "unsupported" without a vision encoder;
        "argument" for another budget.
        """
        from ..vision.feeding import encode_picture

        with self.image_encoder() as encoder:
            return encode_picture(encoder, image, max_tokens, progress)

    def image_encoder(self) -> ImageEncoder:
        """Opens the vision encoder alone. Raises EdgeGemmaError "unsupported" without an encoder."""
        encoder = ImageEncoder(self, self.config.hidden_size)
        self._children.add(encoder)
        return encoder

    def _context(self, context: int) -> int:
        if not 1 <= context <= self.config.context_length:
            raise EdgeGemmaValueError(
                f"context is {context}; this model takes 1 to {self.config.context_length} tokens.", "argument"
            )
        return context

    def chat(
        self,
        system: str | None = None,
        tools: Sequence[Callable[..., Any] | Mapping[str, Any] | Tool] | None = None,
        thinking: bool = False,
        context: int | None = None,
        kv: str | None = None,
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        max_rounds: int = 8,
        constrain: bool | None = None,
    ) -> Chat:
        """Opens a conversation; `Chat` describes the options."""
        from ..chat.conversation import Chat

        return Chat(
            self,
            system,
            tools,
            thinking,
            context,
            kv,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            memory_limit=memory_limit,
            template=template,
            template_options=template_options,
            max_rounds=max_rounds,
            constrain=constrain,
        )


def _length(source: FileSource | None) -> int:
    """The length that the engine needs of a file that may be absent: for a descriptor it is never 0, which means "none"."""
    if not isinstance(source, FileDescriptor):
        return 0
    return source.length or os.fstat(source.fd).st_size - source.offset
