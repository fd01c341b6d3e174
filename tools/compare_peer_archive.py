"""Measures how fast edge_gemma and llama.cpp (libmtmd, through llama-cpp-python) transcribe the same segments.

    python tools/compare_peer_archive.py MODEL.gguf MMPROJ.gguf [--segments 8] [--tokens 80] [--rounds 3] [--peer-python PYTHON]

The segments are the demo's commands, one after the other, 5 to 25 s each, in wav files. Runs alternate, each in a process of
its own that warms up on one segment. The model is open before the clock starts. Every answer has `--tokens` tokens: random
weights do not end theirs. llama.cpp hears one segment after the other; edge_gemma hears `--batch` together, by its own choice
if that is not given.

`others` is the number of cores that other work took during the run. The figures are reliable only if it is near 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
from compare_peer_audio import table

from edge_gemma.audio.source import SAMPLE_RATE, load_audio
from edge_gemma.cli.bench.process import cpu_of_others, run_json
from edge_gemma.demo.utterances import bundled
from edge_gemma.speech.prompts import asr_prompt

COMMON = """
import json, sys, time, wave
from pathlib import Path
import numpy as np
model, mmproj, folder, head, tail, tokens, threads, batch = sys.argv[1:]
tokens, threads, now = int(tokens), int(threads), time.perf_counter
paths = sorted(Path(folder).glob("*.wav"))
"""

PEER = """
import ctypes
import llama_cpp
from llama_cpp import mtmd_cpp as mtmd
m = llama_cpp.Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512,
                    flash_attn=True, verbose=False)
options = mtmd.mtmd_context_params_default()
options.use_gpu, options.n_threads = False, threads
encoder = mtmd.mtmd_init_from_file(mmproj.encode(), m.model, options)
text = head.encode() + mtmd.mtmd_default_marker() + tail.encode()
text = mtmd.mtmd_input_text(text, len(text), True, True)

def transcribe(path):
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    m.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(m.ctx), True)
    bitmap = mtmd.mtmd_bitmap_init_from_audio(samples.size, samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    chunks, position = mtmd.mtmd_input_chunks_init(), ctypes.c_int()
    assert mtmd.mtmd_tokenize(encoder, chunks, text, (ctypes.c_void_p * 1)(bitmap), 1) == 0
    assert mtmd.mtmd_helper_eval_chunks(encoder, m.ctx, chunks, 0, 0, 512, True, position) == 0
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    m.n_tokens = position.value
    for number in range(tokens):
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(m.ctx, -1), (m.n_vocab(),))
        if number < tokens - 1:
            m.eval([int(logits.argmax())])

def transcribe_all(paths):
    for path in paths:
        transcribe(path)
    return tokens * len(paths)
"""

OURS = """
import edge_gemma as eg
m = eg.Model.load(model, mmproj=mmproj, threads=threads)

def transcribe_all(paths):
    found = eg.transcribe_many(  # greedy answers of random weights repeat themselves, and are asked for twice
        paths, m, language="English", detector="none", guarded=False, max_tokens=tokens, batch=int(batch) or None,
        sampling=eg.Sampling(seed=0)
    )
    return sum(done.error is None for done in found) * tokens
"""

REPORT = """
transcribe_all(paths[:1])
start = now()
made = transcribe_all(paths)
took = now() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps(dict(took_s=took, tokens=made, peak_mb=peak)))
"""

PROGRAMS = {"llama.cpp": COMMON + PEER + REPORT, "edge_gemma": COMMON + OURS + REPORT}
COLUMNS = ["took_s", "real_time", "peak_mb", "others"]


def write(folder: Path, count: int) -> float:
    """Writes the segments. Returns their length in seconds."""
    random, sounds, total = np.random.default_rng(0), [load_audio(utterance.path) for utterance in bundled()], 0
    for number in range(count):
        size, parts = round(random.uniform(5, 25) * SAMPLE_RATE), list[np.ndarray]()
        while sum(map(len, parts)) < size:
            parts += [sounds[random.integers(len(sounds))], np.zeros(SAMPLE_RATE // 4, np.float32)]
        samples = np.concatenate(parts)[:size]
        with wave.open(str(folder / f"{number:03}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        total += size
    return total / SAMPLE_RATE


def main() -> None:
    """Runs the programs alternately and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--batch", type=int, default=0, help="of edge_gemma (default: its own choice)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has llama-cpp-python")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        seconds = write(Path(folder), options.segments)
        print(f"{options.segments} segments, {seconds:.0f} s of sound", file=sys.stderr)
        prompt = [f"<|turn>user\n{asr_prompt('English')}", "<turn|>\n<|turn>model\n"]
        settings = [*map(str, (options.tokens, options.threads, options.batch))]
        for _ in range(options.rounds):
            for name, code in PROGRAMS.items():
                start, before = time.perf_counter(), cpu_of_others() or 0.0
                python = options.peer_python if name == "llama.cpp" else sys.executable
                run = run_json([python, "-c", code, options.model, options.mmproj, folder, *prompt, *settings])
                others = ((cpu_of_others() or 0.0) - before) / (time.perf_counter() - start)
                run |= {"real_time": seconds / run["took_s"], "others": others}
                if run["tokens"] != options.tokens * options.segments:
                    sys.exit(
                        f"{name} transcribed only {run['tokens'] // options.tokens} of {options.segments} segments."
                    )
                runs[name].append(run)
                print(name, run, file=sys.stderr)
    print(table(runs, COLUMNS))


if __name__ == "__main__":
    main()
