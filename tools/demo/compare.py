"""Compares the engine's transcripts with those of transformers (on the checkpoint) and llama.cpp (on the GGUF files).

    python compare.py CLIPS HF MODEL.gguf MMPROJ.gguf [--count 40] [--peer-python PYTHON]

MODEL and MMPROJ are the checkpoint as GGUF files, in BF16 or quantized. For sentences that training did not contain, the
program prints how many greedy transcripts equal the engine's, and the error of the logits of their first token: the rms of
the difference over the rms of the engine's logits. PYTHON is an interpreter with llama-cpp-python; without it, llama.cpp is
left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Gemma4AudioFeatureExtractor, Gemma4ForConditionalGeneration

import clips
import edge_gemma as eg
from evaluate import LONGEST, RATE, Speaker, padded
from tasks import Request

PEER = """
import ctypes, json, sys, wave
import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd

job = json.load(open(sys.argv[1]))
m = llama_cpp.Llama(job["model"], n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
options = mtmd.mtmd_context_params_default()
options.use_gpu, options.n_threads = False, 1
encoder = mtmd.mtmd_init_from_file(job["mmproj"].encode(), m.model, options)

def logits():
    return np.array(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(m.ctx, -1), (m.n_vocab(),)))

results, first = [], []
for entry in job["entries"]:
    with wave.open(entry["wav"]) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    m.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(m.ctx), True)
    m.eval(entry["before"])
    bitmap = mtmd.mtmd_bitmap_init_from_audio(samples.size, samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    text = mtmd.mtmd_default_marker()
    text = mtmd.mtmd_input_text(text, len(text), False, True)
    chunks, position = mtmd.mtmd_input_chunks_init(), ctypes.c_int()
    assert mtmd.mtmd_tokenize(encoder, chunks, text, (ctypes.c_void_p * 1)(bitmap), 1) == 0
    at = len(entry["before"])
    for number in range(mtmd.mtmd_input_chunks_size(chunks)):
        position.value, chunk = at, mtmd.mtmd_input_chunks_get(chunks, number)
        assert mtmd.mtmd_helper_eval_chunk_single(encoder, m.ctx, chunk, at, 0, 512, True, position) == 0
        at = position.value
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    m.n_tokens = at
    m.eval(entry["after"])
    ids = []
    first.append(logits())
    while len(ids) < job["longest"]:
        ids.append(int(logits().argmax()))
        if ids[-1] in job["stops"]:
            ids.pop()
            break
        m.eval(ids[-1:])
    results.append(ids)
np.save(job["logits"], np.stack(first))
json.dump(results, open(job["results"], "w"))
"""

Heard = tuple[list[list[int]], NDArray[np.float32]]


def with_engine(speaker: Speaker, requests: list[Request], sounds: list[NDArray[np.float32]]) -> Heard:
    """Tokens of the engine's answers, and the logits (n, vocabulary) of their first tokens."""
    answers, first = [], []
    for request, sound in zip(requests, sounds, strict=True):
        session = speaker.ask(request, sound)
        first.append(np.array(session.logits()))
        answers.append(speaker.pieces.encode(speaker.answer(session)))
    return answers, np.stack(first)


@torch.no_grad()
def with_transformers(
    folder: Path, requests: list[Request], sounds: list[NDArray[np.float32]], stops: list[int]
) -> Heard:
    """The same by transformers, with its own log-mel front end and `generate`, in float32."""
    model = Gemma4ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    extract, soft = Gemma4AudioFeatureExtractor(), model.config.audio_token_id
    answers, first = [], []
    for request, sound in zip(requests, sounds, strict=True):
        features = extract([sound], sampling_rate=RATE, return_tensors="pt")
        mask = features["input_features_mask"]
        count = (int(mask.sum()) + 3) // 4
        ids = torch.tensor([[*request.before, *[soft] * count, *request.after]])
        out = model.generate(
            input_ids=ids,
            input_features=features["input_features"],
            input_features_mask=mask,
            do_sample=False,
            max_new_tokens=LONGEST,
            eos_token_id=stops,
            output_logits=True,
            return_dict_in_generate=True,
        )
        answer = out.sequences[0, ids.shape[1] :].tolist()
        answers.append(answer[:-1] if answer[-1] in stops else answer)
        first.append(out.logits[0][0].numpy())
    return answers, np.stack(first)


def with_peer(
    python: str, options: Any, requests: list[Request], sounds: list[NDArray[np.float32]], stops: list[int]
) -> Heard:
    """The same by llama.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for number, (request, sound) in enumerate(zip(requests, sounds, strict=True)):
            path = f"{folder}/{number}.wav"
            with wave.open(path, "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(np.rint(sound * 32768).astype("<i2").tobytes())
            # llama.cpp adds the audio markers itself.
            entries.append({"wav": path, "before": request.before[:-1], "after": request.after[1:]})
        job = {
            "model": options.model,
            "mmproj": options.mmproj,
            "entries": entries,
            "stops": stops,
            "longest": LONGEST,
            "logits": f"{folder}/logits.npy",
            "results": f"{folder}/results.json",
        }
        Path(folder, "job.json").write_text(json.dumps(job))
        done = subprocess.run([python, "-c", PEER, f"{folder}/job.json"], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"llama.cpp failed:\n{done.stderr[-2000:]}")
        return json.loads(Path(folder, "results.json").read_text()), np.load(f"{folder}/logits.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--peer-python")
    options = parser.parse_args()
    entries, samples = clips.load(options.recordings, "known")
    entries = entries[: options.count]
    with eg.Model.load(options.model, mmproj=options.mmproj) as model:
        speaker = Speaker(model)
        requests = [speaker.tasks.transcription(clip.sentence.language) for clip in entries]
        sounds = [padded(samples[clip.begin : clip.end]) for clip in entries]
        stops = [speaker.pieces.find(token) for token in ("<eos>", "<turn|>", "<|tool_response>")]
        ours = with_engine(speaker, requests, sounds)
        others = {"transformers": with_transformers(options.checkpoint, requests, sounds, stops)}
        if options.peer_python:
            others["llama.cpp"] = with_peer(options.peer_python, options, requests, sounds, stops)
        mine = _texts(speaker, ours[0])
        right = sum(text == clip.sentence.text for text, clip in zip(mine, entries, strict=True))
        print(f"engine: {right} of {len(entries)} transcripts right")
        for name, (answers, first) in others.items():
            same = sum(text == own for text, own in zip(_texts(speaker, answers), mine, strict=True))
            apart = np.sqrt(((first - ours[1]) ** 2).mean(1) / (ours[1] ** 2).mean(1))
            distance = f"logits apart by {np.median(apart):.2e}, at most {apart.max():.2e}"
            print(f"{name}: {same} of {len(entries)} transcripts equal; {distance}")


def _texts(speaker: Speaker, answers: list[list[int]]) -> list[str]:
    return [speaker.pieces.decode(answer) for answer in answers]


if __name__ == "__main__":
    main()
