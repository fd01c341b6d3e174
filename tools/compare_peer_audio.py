"""Measures the latency of answers to speech of edge_gemma and llama.cpp (libmtmd, through llama-cpp-python).

usage: python tools/compare_peer_audio.py MODEL.gguf MMPROJ.gguf SPEECH.wav [--rounds 3] [--threads 2] [--peer-python PYTHON]

The wav has 16 kHz, one channel, 16 bits and at most 30 s. Runs alternate, each in a process of its own that warms up on the
whole recording first. The instruction is in the context before the clock starts. `first_token_s` is the time from the last
sample to the first token of the answer. Three rows:

- llama.cpp: gets the whole recording at its end. `encode_s` includes the log-mel front end, `prefill_s` the soft tokens and
  the tokens after them;
- edge_gemma, offline: the same;
- edge_gemma, streamed: gets blocks of 20 ms in real time, so most of the work is done during the speech. `busy` is the share
  of that time spent in `push`. `encode_s` is the time of the encoder alone for pieces of 160 ms, the shortest that a session
  encodes.

`others` is the number of cores that other work took during the run. The figures are reliable only if it is near 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import wave
from collections.abc import Sequence
from typing import Any

from edge_gemma.cli.bench.process import cpu_of_others, run_json, summary

COMMON = """
import json, sys, time, wave
import numpy as np
model, mmproj, wav, head, tail, context, threads = sys.argv[1:]
context, threads, now = int(context), int(threads), time.perf_counter
with wave.open(wav) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
start = now()
"""

PEER = """
import ctypes
import llama_cpp
from llama_cpp import mtmd_cpp as mtmd
m = llama_cpp.Llama(model, n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512,
                    flash_attn=True, verbose=False)  # as llama.cpp itself does by default
options = mtmd.mtmd_context_params_default()
options.use_gpu, options.n_threads = False, threads
encoder = mtmd.mtmd_init_from_file(mmproj.encode(), m.model, options)
load = now() - start
prompt = m.tokenize(head.encode(), add_bos=True, special=True)
text = mtmd.mtmd_default_marker() + tail.encode()
text = mtmd.mtmd_input_text(text, len(text), False, True)
position = ctypes.c_int()

def run():
    m.reset()
    m.eval(prompt)
    start = now()
    bitmap = mtmd.mtmd_bitmap_init_from_audio(samples.size, samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    chunks = mtmd.mtmd_input_chunks_init()
    assert mtmd.mtmd_tokenize(encoder, chunks, text, (ctypes.c_void_p * 1)(bitmap), 1) == 0  # computes the log-mel features
    assert mtmd.mtmd_input_chunks_size(chunks) == 3  # the begin marker (already in the prompt), soft tokens, closing tokens
    audio, closing = mtmd.mtmd_input_chunks_get(chunks, 1), mtmd.mtmd_input_chunks_get(chunks, 2)
    assert mtmd.mtmd_encode_chunk(encoder, audio) == 0
    soft = mtmd.mtmd_get_output_embd(encoder)
    encoded = now()
    assert mtmd.mtmd_helper_decode_image_chunk(
        encoder, m.ctx, audio, soft, len(prompt), 0, 512, position, mtmd.mtmd_helper_post_decode_callback(), None) == 0
    assert mtmd.mtmd_helper_eval_chunk_single(encoder, m.ctx, closing, position.value, 0, 512, True, position) == 0
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(m.ctx, -1), (m.n_vocab(),))
    token, end = int(logits.argmax()), now()
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    return dict(encode_s=encoded - start, prefill_s=end - encoded, first_token_s=end - start, first_token=token,
                positions=position.value)

run()
result = run()
"""

OURS = """
import edge_gemma as eg
m = eg.Model.load(model, mmproj=mmproj, threads=threads)
load = now() - start

def begin():
    session = m.session(context=context)
    session.feed_text(head, bos=True, special=True)
    return session

def answer(session):
    session.feed_text("<audio|>" + tail, special=True)
    return int(session.logits().argmax())
"""

OFFLINE = """
def run():
    session = begin()
    start = now()
    soft = m.encode_audio(samples)
    encoded = now()
    session.feed_embeddings(soft)
    token, end = answer(session), now()
    return dict(encode_s=encoded - start, prefill_s=end - encoded, first_token_s=end - start, first_token=token,
                positions=session.position)

run()
result = run()
"""

STREAMED = """
def cut(size):
    return [samples[i : i + size] for i in range(0, samples.size, size)]

def encode():
    stream, start = m.audio_encoder(), now()
    for piece in cut(2560):
        stream.push(piece)
    stream.finish()
    return now() - start

def run(rate):
    session, due, busy = begin(), now(), 0.0
    with session.stream_audio(markers=False) as audio:
        for block in cut(320):
            due += block.size / rate  # its last sample is spoken
            time.sleep(max(0.0, due - now()))
            start = now()
            audio.push(block)
            busy += now() - start
    token = answer(session)
    return dict(first_token_s=now() - due, busy=busy / (samples.size / 16000), first_token=token, positions=session.position)

run(1e9)
result = run(16000) | dict(encode_s=encode())
"""

REPORT = """
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps(dict(load_s=load, **result, peak_mb=peak)))
"""

PROGRAMS = {
    "llama.cpp": COMMON + PEER + REPORT,
    "edge_gemma, offline": COMMON + OURS + OFFLINE + REPORT,
    "edge_gemma, streamed": COMMON + OURS + STREAMED + REPORT,
}

COLUMNS = ["load_s", "encode_s", "encoder_rtf", "prefill_s", "first_token_s", "busy", "peak_mb", "others"]


def seconds_of(path: str) -> float:
    """Length of the wav in seconds. Ends the program if the format is wrong."""
    with wave.open(path) as file:
        form, seconds = file.getparams()[:3], file.getnframes() / file.getframerate()
    if form != (1, 2, 16000) or seconds > 30:
        sys.exit(f"{path}: give a wav of one channel, 16 bits, 16,000 Hz, at most 30 s.")
    return seconds


def table(runs: dict[str, list[dict[str, Any]]], keys: Sequence[str]) -> str:
    """A Markdown table: a row for each program, the median (range) of each key; a dash where it was not measured."""
    lines = ["| | " + " | ".join(keys) + " |", "|---" + "|---" * len(keys) + "|"]
    for name, rows in runs.items():
        values = ([row[key] for row in rows if key in row] for key in keys)
        lines.append(f"| {name} | " + " | ".join(summary(found) if found else "-" for found in values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs the three programs alternately and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("wav")
    parser.add_argument("--instruction", help="text before the audio; the English transcription prompt if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", help="file for every run and the settings")
    arguments = parser.parse_args()
    seconds = seconds_of(arguments.wav)
    if arguments.instruction is None:
        from edge_gemma.speech.prompts import asr_prompt

        arguments.instruction = asr_prompt("English")
    head, tail = f"<|turn>user\n{arguments.instruction}<|audio>", "<turn|>\n<|turn>model\n"
    values = [arguments.model, arguments.mmproj, arguments.wav, head, tail, "2048", str(arguments.threads)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for _ in range(arguments.rounds):
        for name, code in PROGRAMS.items():
            start, before = time.perf_counter(), cpu_of_others() or 0.0
            python = arguments.peer_python if name == "llama.cpp" else sys.executable
            run = run_json([python, "-c", code, *values])
            others = ((cpu_of_others() or 0.0) - before) / (time.perf_counter() - start)
            run |= {"encoder_rtf": run["encode_s"] / seconds, "others": others}
            runs[name].append(run)
            print(name, run, file=sys.stderr)
    if len({run["positions"] for rows in runs.values() for run in rows}) != 1:
        sys.exit("the programs did not evaluate the same number of tokens: compare `positions` above.")
    if arguments.json:
        settings = vars(arguments) | {"seconds": seconds, "machine": platform.machine(), "cores": os.cpu_count()}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"settings": settings, "runs": runs}, file, indent=1)
    print(table(runs, COLUMNS))


if __name__ == "__main__":
    main()
