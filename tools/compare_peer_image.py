"""Measures how long edge_gemma and llama.cpp (libmtmd, through llama-cpp-python) take for a picture.

usage: python tools/compare_peer_image.py MODEL.gguf MMPROJ.gguf [--size 912x672] [--rounds 3] [--threads 2]
                                          [--peer-python PYTHON]

The picture is noise, in a size that neither program changes: both sides are multiples of 48. 912x672 are 266 tokens,
1824x1344 are 1,064. Runs alternate, each in a process of its own that warms up on the whole picture first. `encode_s` is the
time from pixels to soft tokens, `prefill_s` that of these and the tokens after them, `first_token_s` the sum. `peak_mb` is the
most memory of the process, `text_mb` that before the first picture. `others` is the number of cores that other work took
during the run. The figures are reliable only if it is near 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

from compare_peer_audio import table

from edge_gemma.cli.bench.process import cpu_of_others, run_json

COMMON = """
import json, sys, time
import numpy as np
model, mmproj, width, height, head, tail, threads = sys.argv[1:]
width, height, threads, context, now = int(width), int(height), int(threads), 2048, time.perf_counter
picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
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
load, text_mb = now() - start, peak()
text = head.encode() + mtmd.mtmd_default_marker() + tail.encode()
text = mtmd.mtmd_input_text(text, len(text), True, True)
position = ctypes.c_int()

def run():
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(m.ctx), True)
    start = now()
    data = picture.ctypes.data_as(ctypes.POINTER(ctypes.c_ubyte))
    bitmap = mtmd.mtmd_bitmap_init(width, height, data)
    chunks = mtmd.mtmd_input_chunks_init()
    assert mtmd.mtmd_tokenize(encoder, chunks, text, (ctypes.c_void_p * 1)(bitmap), 1) == 0
    n = mtmd.mtmd_input_chunks_size(chunks)
    encode, at = 0.0, 0
    for i in range(n):
        chunk = mtmd.mtmd_input_chunks_get(chunks, i)
        last = i == n - 1
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            assert mtmd.mtmd_helper_eval_chunk_single(encoder, m.ctx, chunk, at, 0, 512, last, position) == 0
        else:
            begin = now()
            assert mtmd.mtmd_encode_chunk(encoder, chunk) == 0
            soft = mtmd.mtmd_get_output_embd(encoder)
            encode += now() - begin
            assert mtmd.mtmd_helper_decode_image_chunk(
                encoder, m.ctx, chunk, soft, at, 0, 512, position, mtmd.mtmd_helper_post_decode_callback(), None) == 0
        at += mtmd.mtmd_input_chunk_get_n_tokens(chunk)
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(m.ctx, -1), (m.n_vocab(),))
    token, end = int(logits.argmax()), now()
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    return dict(encode_s=encode, prefill_s=end - start - encode, first_token_s=end - start, positions=at)
"""

OURS = """
import edge_gemma as eg
m = eg.Model.load(model, mmproj=mmproj, threads=threads)
session = m.session(context=context)
session.feed_text(head + tail, bos=True, special=True)
session.logits()
load, text_mb = now() - start, peak()

def run():
    session = m.session(context=context)
    start = now()
    soft = m.encode_image(picture, 280 if width * height <= 280 * 48 * 48 else 1120)
    encoded = now()
    session.feed_text(head + "<|image>", bos=True, special=True)
    session.feed_embeddings(soft, picture=True)
    session.feed_text("<image|>" + tail, special=True)
    session.logits().argmax()
    end = now()
    return dict(encode_s=encoded - start, prefill_s=end - encoded, first_token_s=end - start, positions=session.position)
"""

REPORT = """
run()
result = run()
print(json.dumps(dict(load_s=load, **result, text_mb=text_mb, peak_mb=peak())))
"""

PROGRAMS = {"llama.cpp": COMMON + PEER + REPORT, "edge_gemma": COMMON + OURS + REPORT}
COLUMNS = ["load_s", "encode_s", "prefill_s", "first_token_s", "text_mb", "peak_mb", "others"]


def main() -> None:
    """Runs the two programs alternately and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("--size", default="912x672", help="width and height of the picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", help="file for every run and the settings")
    arguments = parser.parse_args()
    head, tail = "<|turn>user\n", "What is in the picture?<turn|>\n<|turn>model\n"
    values = [arguments.model, arguments.mmproj, *arguments.size.split("x"), head, tail, str(arguments.threads)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for _ in range(arguments.rounds):
        for name, code in PROGRAMS.items():
            start, before = time.perf_counter(), cpu_of_others() or 0.0
            python = arguments.peer_python if name == "llama.cpp" else sys.executable
            run = run_json([python, "-c", code, *values])
            run["others"] = ((cpu_of_others() or 0.0) - before) / (time.perf_counter() - start)
            runs[name].append(run)
            print(name, run, file=sys.stderr)
    if arguments.json:
        settings = vars(arguments) | {"machine": platform.machine(), "cores": os.cpu_count()}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"settings": settings, "runs": runs}, file, indent=1)
    print(table(runs, COLUMNS))


if __name__ == "__main__":
    main()
