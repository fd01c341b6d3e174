"""Trains the demo model: the decoder on typed words, the encoder with a CTC head, the decoder on the encoder, then both.

    python train.py CLIPS HF

CLIPS is the folder that clips.py has written. HF is the folder with the tokenizer, which becomes a Hugging Face checkpoint.
The state is saved every few minutes to HF.state, from which an interrupted training continues. Every process computes its
own part of each batch, which is a third faster than one process with all processors.

CTC has to find the alignment of sounds and letters by itself. In its first thousand steps it learns only the frequency of
letters. So the training begins with a rough alignment: letters at equal distances between the begin and the end of speech.
Sixty steps of this are enough.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import math
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

import augment
import clips
import domain
import network
import tasks
from edge_gemma import kernels
from vocabulary import Pieces
from words import LANGUAGES

LETTERS = "_ abcdefghijklmnopqrstuvwxyzßáäéíñóöúü"  # of the CTC head; the first is its blank
BATCH = 32  # on all processors together
SAVE_EVERY = 240.0  # seconds


def letters(spoken: str) -> list[int]:
    """The target of the CTC head."""
    return [LETTERS.index(char) for char in spoken.lower() if char in LETTERS[1:]]


# ---- batches ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Batch:
    """Recordings of one language.

    Attributes:
        mel, mask: (n, frames, 128) log-mel frames, and (n, frames) whether a frame exists.
        letters, lengths: (n, longest) and (n,), the targets of the CTC head.
        numbers: indices of the clips in their split.
        clips: the clips. The process that trains fills them in, since sentences cannot be sent between processes.
    """

    mel: Tensor
    mask: Tensor
    letters: Tensor
    lengths: Tensor
    numbers: list[int]
    clips: list[clips.Clip] = dataclasses.field(default_factory=list)


class Recordings(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """An endless stream of batches, each with clips of similar length; `augmented` ones are changed at random."""

    def __init__(self, folder: Path, split: str, seed: int, size: int, augmented: bool = True) -> None:
        self.folder, self.split, self.seed, self.size, self.augmented = folder, split, seed, size, augmented

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        entries, samples = clips.load(self.folder, self.split)
        rng = random.Random(self.seed)
        noise = np.random.default_rng(self.seed)
        groups = {name: [at for at, clip in enumerate(entries) if clip.sentence.language == name] for name in LANGUAGES}
        while True:
            language = rng.choices(LANGUAGES, [len(groups[name]) for name in LANGUAGES])[0]
            size = self.size
            pool = rng.sample(groups[language], min(size * 8, len(groups[language]) // size * size))
            pool.sort(key=lambda at: entries[at].end - entries[at].begin)
            for first in rng.sample(range(0, len(pool), size), min(4, len(pool) // size)):
                yield self._batch(pool[first : first + size], entries, samples, noise)

    def _batch(self, numbers: list[int], entries: list[clips.Clip], samples: Any, noise: Any) -> Batch:
        chosen = [entries[at] for at in numbers]
        mels = [self._mel(clip, entries, samples, noise) for clip in chosen]
        frames = max(map(len, mels))
        mel = torch.zeros(len(mels), frames, mels[0].shape[1])
        mask = torch.zeros(len(mels), frames, dtype=torch.bool)
        for at, one in enumerate(mels):
            mel[at, : len(one)] = torch.from_numpy(one)
            mask[at, : len(one)] = True
        ids = [letters(clip.sentence.spoken) for clip in chosen]
        padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        for at, one in enumerate(ids):
            padded[at, : len(one)] = torch.tensor(one)
        return Batch(mel, mask, padded, torch.tensor([len(one) for one in ids]), numbers)

    def _mel(self, clip: clips.Clip, entries: list[clips.Clip], samples: Any, noise: np.random.Generator) -> Any:
        sound = samples[clip.begin : clip.end].astype(np.float32) / 32768
        if not self.augmented:
            return kernels.log_mel(augment.plain(sound, noise))
        other = entries[int(noise.integers(len(entries)))]
        sound = augment.augmented(sound, samples[other.begin : other.end].astype(np.float32) / 32768, noise)
        mel = kernels.log_mel(sound)
        if noise.random() < 0.6:
            mel = augment.other_voice(mel, noise)
        return augment.masked(mel, noise)


# ---- losses ----------------------------------------------------------------------------------------------------------


class Trainer:
    """The network, its CTC head, and their losses."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.pieces = Pieces(folder / "tokenizer.json")
        self.tasks = tasks.Tasks(self.pieces)
        self.model = network.build(self.pieces)
        network.speed_up(self.model)
        self.head = nn.Linear(network.WIDTH, len(LETTERS))
        self.rng = random.Random(seed)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Soft tokens (n, tokens, width), and the number of them that each clip has (n,)."""
        out = self.model.model.get_audio_features(batch.mel, batch.mask, return_dict=True)
        return out.pooler_output, out.attention_mask.sum(1)

    def ctc(self, soft: Tensor, counts: Tensor, batch: Batch) -> Tensor:
        scores = F.log_softmax(self.head(soft).float(), -1).transpose(0, 1)
        return F.ctc_loss(scores, batch.letters, counts, batch.lengths, zero_infinity=True)

    def equal_distances(self, soft: Tensor, counts: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of an alignment in which every letter has the same length. The sound must be free of noise."""
        goal = torch.full(soft.shape[:2], -100)
        for at, mel in enumerate(batch.mel):
            loudness = mel[batch.mask[at]].mean(1)
            loud = (loudness > loudness.min() + 0.35 * (loudness.max() - loudness.min())).nonzero()[:, 0]
            first, last = int(loud[0]) / 4, int(loud[-1]) / 4 + 1
            place = (torch.arange(int(counts[at])) + 0.5 - first) / (last - first)
            number = (place * int(batch.lengths[at])).long().clamp(0, int(batch.lengths[at]) - 1)
            goal[at, : len(place)] = torch.where((place >= 0) & (place < 1), batch.letters[at][number], 0)
        return F.cross_entropy(self.head(soft).float().flatten(0, 1), goal.flatten(), ignore_index=-100)

    def letter_errors(self, soft: Tensor, counts: Tensor, batch: Batch) -> float:
        """Edits per letter of the CTC head's best guesses."""
        best = self.head(soft).argmax(-1)
        edits = total = 0
        for at, guess in enumerate(best):
            row = [key for key, _ in itertools.groupby(guess[: counts[at]].tolist()) if key]
            truth = batch.letters[at, : batch.lengths[at]].tolist()
            edits, total = edits + distance(row, truth), total + len(truth)
        return edits / total

    def answers(
        self, request: tasks.Request, examples: list[tasks.Example], soft: Tensor | None, counts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the tokens that are to be learned, and the share of examples with all of them right.

        All examples have the same tokens before them. These are evaluated once, and their K/V are repeated.
        """
        language = self.model.model.language_model
        before = torch.tensor([request.before])
        cache = DynamicCache()
        language(input_ids=before, cache=cache, use_cache=True, logits_to_keep=1)
        for layer in cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys.expand(len(examples), -1, -1, -1)
                layer.values = layer.values.expand(len(examples), -1, -1, -1)

        rows, targets = [], []
        for at, example in enumerate(examples):
            heard = [self.pieces.id("<|audio|>")] * int(counts[at]) if counts is not None else list(example.words)
            rows.append([*heard, *request.after, *example.answer[:-1]])
            targets.append(
                [token if learn else -100 for token, learn in zip(example.answer, example.learn, strict=True)]
            )
        # The layers that share K/V are needed for the answers only. So all rows end together and are padded at the front.
        longest, kept = max(map(len, rows)), max(map(len, targets))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        goal = torch.tensor([[-100] * (kept - len(row)) + row for row in targets])
        empty = torch.tensor([longest - len(row) for row in rows])[:, None]
        there = torch.arange(longest)[None] >= empty
        place = len(request.before) + (torch.arange(longest)[None] - empty).clamp(min=0)
        audio = ids == self.pieces.id("<|audio|>")
        ids = ids.masked_fill(audio, self.pieces.id("<pad>"))
        inputs = language.embed_tokens(ids)
        if soft is not None and counts is not None:
            valid = torch.arange(soft.shape[1])[None] < counts[:, None]
            inputs = inputs.masked_scatter(audio[..., None], soft[valid].to(inputs.dtype))
        hidden = language(
            inputs_embeds=inputs,
            per_layer_inputs=language.get_per_layer_inputs(ids, inputs),
            attention_mask=torch.cat([torch.ones(len(rows), len(request.before), dtype=torch.bool), there], 1),
            position_ids=place,
            cache=cache,
            use_cache=True,
            logits_to_keep=kept,
        ).last_hidden_state
        where = goal != -100
        logits = self.model.lm_head(hidden[where]).float()
        logits = 30 * torch.tanh(logits / 30)
        wrong = torch.zeros(len(rows))
        wrong.index_add_(0, where.nonzero()[:, 0], (logits.argmax(-1) != goal[where]).float())
        return F.cross_entropy(logits, goal[where], label_smoothing=0.02), (wrong == 0).float().mean()

    def spoken(
        self, batch: Batch, soft: Tensor, counts: Tensor, count: int = 2
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The losses of `count` of the tasks that begin with speech, for the same encoded speech."""
        language = batch.clips[0].sentence.language
        for task in (
            self.rng.choices(["asr", "ast", "tool"], [4, 2, 2], k=count) if count < 3 else ["asr", "ast", "tool"]
        ):
            source = language if self.rng.random() < 0.6 else None
            if task == "asr":
                request = self.tasks.transcription(source)
                examples = [self.tasks.transcript(clip.sentence) for clip in batch.clips]
            elif task == "ast":
                target = self.rng.choice([name for name in LANGUAGES if name != language])
                request = self.tasks.translation(source, target)
                examples = [self.tasks.translated(clip.sentence, target) for clip in batch.clips]
            else:
                request = self.tasks.command()
                examples = [self.tasks.done(clip.sentence, self.rng) for clip in batch.clips]
            yield task, *self.answers(request, examples, soft, counts)

    def typed(self, size: int, held_out: bool = False) -> tuple[str, Tensor, Tensor]:
        """The loss of a task that begins with typed words."""
        command = self.rng.random() < 0.5
        language = self.rng.choice(LANGUAGES)
        examples = []
        if command:
            request = self.tasks.typed_command()
        else:
            target = self.rng.choice([name for name in LANGUAGES if name != language])
            request = self.tasks.typed_translation(language if self.rng.random() < 0.6 else None, target)
        while len(examples) < size:
            sentence = domain.draw(self.rng).sentence(self.rng.choice(LANGUAGES) if command else language, self.rng)
            if sentence.held_out == held_out:
                answer = (
                    self.tasks.done(sentence, self.rng) if command else self.tasks.answer(sentence.translations[target])
                )
                examples.append(self.tasks.typed(sentence.text, answer))
        return "typed", *self.answers(request, examples, None, None)


def distance(a: list[Any], b: list[Any]) -> int:
    """The edit distance."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, right in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (left != right))
    return row[-1]


# ---- training --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the training.

    Attributes:
        name: typed (decoder, typed words only), flat (encoder, letters at equal distances), encoder (CTC), decoder (with a
            fixed encoder), all.
        steps: number of steps.
        encoder, decoder: learning rates. They rise for 60 steps and then fall along a cosine.
    """

    name: str
    steps: int
    encoder: float
    decoder: float

    def factor(self, step: int) -> float:
        """The factor of the learning rates at a step."""
        return min(1.0, (step + 1) / 60) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


COURSE = [
    Stage("typed", 300, 0, 2e-3),
    Stage("flat", 60, 1.2e-3, 0),
    Stage("encoder", 1400, 1.2e-3, 0),
    Stage("decoder", 250, 0, 1.5e-3),
    Stage("all", 900, 5e-4, 1e-3),
    Stage("encoder", 3000, 1.2e-3, 0),
    Stage("all", 1500, 5e-4, 1e-3),
]


class Training:
    """The training in one process.

    Args:
        folder, recordings: HF and CLIPS.
        rank, ranks: the number of this process, and how many there are.
    """

    def __init__(self, folder: Path, recordings: Path, rank: int, ranks: int) -> None:
        self.rank, self.ranks, self.recordings = rank, ranks, recordings
        self.path = folder.with_suffix(".state")
        self.begun = time.monotonic()
        self.trainer = Trainer(folder, 5 + rank)
        self.model, self.head = self.trainer.model, self.trainer.head
        hearing = [self.model.model.audio_tower, self.model.model.embed_audio, self.head]
        self.hearing = [parameter for part in hearing for parameter in part.parameters()]
        names = {id(parameter) for parameter in self.hearing}
        self.speaking = [parameter for parameter in self.model.parameters() if id(parameter) not in names]
        groups = [{"params": self.hearing}, {"params": self.speaking}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
        self.stage = self.step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=False)
            self.model.load_state_dict(state["model"])
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.stage, self.step = state["stage"], state["step"]

    def log(self, text: str) -> None:
        """Prints a line, in the first process."""
        if self.rank == 0:
            print(f"{(time.monotonic() - self.begun) / 60:6.1f} min  {text}", flush=True)

    def save(self) -> None:
        """Writes the state, in the first process."""
        if self.rank == 0:
            parts = {"model": self.model, "head": self.head, "optimizer": self.optimizer}
            state = {name: part.state_dict() for name, part in parts.items()} | {"stage": self.stage, "step": self.step}
            torch.save(state, self.path.with_suffix(".part"))
            os.replace(self.path.with_suffix(".part"), self.path)

    def run(self) -> None:
        """Trains the stages that are left."""
        sizes = [network.parameters(part) / 1e6 for part in (self.model, self.model.model.audio_tower)]
        self.log("{:.2f} M parameters, {:.2f} M of them in the encoder".format(*sizes))
        entries, _ = clips.load(self.recordings, "train")
        saved, average = time.monotonic(), dict[str, float]()
        while self.stage < len(COURSE):
            stage = COURSE[self.stage]
            batches = self._batches(augmented=stage.name != "flat")
            while self.step < stage.steps:
                batch = None
                if stage.name != "typed":
                    batch = next(batches)
                    batch.clips = [entries[at] for at in batch.numbers]
                values = self.learn(stage, batch)
                for key, value in values.items():
                    average[key] = 0.97 * average.get(key, value) + 0.03 * value
                self.step += 1
                if self.step % 50 == 0:
                    figures = "  ".join(f"{key} {value:.3f}" for key, value in average.items())
                    self.log(f"{stage.name} {self.step} of {stage.steps}  {figures}")
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
            self.stage, self.step = self.stage + 1, 0
            average.clear()
            self.save()
            if self.rank == 0 and stage.name != "flat":
                for split in ("known", "unknown"):
                    self.log(f"after {stage.name}, {split}: {examine(self.trainer, self.recordings, split)}")
                finish(self.trainer)
            torch.distributed.barrier()

    def _batches(self, augmented: bool) -> Iterator[Batch]:
        seed = (1000 * self.stage + self.step + 7) * self.ranks + self.rank
        source = Recordings(self.recordings, "train", seed, BATCH // self.ranks, augmented)
        return iter(torch.utils.data.DataLoader(source, batch_size=None, num_workers=1, prefetch_factor=6))

    def learn(self, stage: Stage, batch: Batch | None) -> dict[str, float]:
        """Makes one step. Returns its losses, and its shares of right answers."""
        rates = ((self.hearing, stage.encoder), (self.speaking, stage.decoder))
        for group, (parameters, rate) in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * stage.factor(self.step)
            for parameter in parameters:
                parameter.requires_grad_(rate > 0)
        self.model.train()
        values: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        with torch.autocast("cpu", torch.bfloat16):
            answers = []
            if batch:
                with torch.set_grad_enabled(stage.encoder > 0):
                    soft, counts = self.trainer.encode(batch)
                if stage.name == "flat":
                    values["flat"] = self.trainer.equal_distances(soft, counts, batch)
                    losses.append(values["flat"])
                elif stage.encoder:
                    values["ctc"] = self.trainer.ctc(soft, counts, batch)
                    losses.append(values["ctc"] * (1.0 if stage.name == "encoder" else 0.3))
                if stage.decoder:
                    answers += self.trainer.spoken(batch, soft, counts)
            if stage.decoder and (not batch or self.step % 3 == 0):
                answers.append(self.trainer.typed(BATCH // self.ranks * (1 if batch else 2)))
            for task, entropy, right in answers:
                losses.append(entropy)
                values[task], values[task + "="] = entropy, right
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        self._average()
        nn.utils.clip_grad_norm_([*self.hearing, *self.speaking], 1.0)
        self.optimizer.step()
        return {key: float(value.detach()) for key, value in values.items()}

    def _average(self) -> None:
        """Averages the gradients over all processes."""
        moved = [parameter for parameter in (*self.hearing, *self.speaking) if parameter.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in moved])
        torch.distributed.all_reduce(flat)
        flat /= self.ranks
        for parameter, part in zip(moved, flat.split([p.numel() for p in moved]), strict=True):
            parameter.grad = part.view_as(parameter)


@torch.no_grad()
def examine(trainer: Trainer, recordings: Path, split: str, count: int = 10) -> str:
    """Measures on some batches of a test split, with teacher forcing: every token is predicted from the right ones before."""
    trainer.model.eval()
    sums: dict[str, list[float]] = {}
    batches = iter(Recordings(recordings, split, 3, 24, augmented=False))
    entries, _ = clips.load(recordings, split)
    for _ in range(count):
        batch = next(batches)
        batch.clips = [entries[at] for at in batch.numbers]
        soft, counts = trainer.encode(batch)
        language = batch.clips[0].sentence.language
        sums.setdefault("letters wrong " + language, []).append(trainer.letter_errors(soft, counts, batch))
        for task, _, right in trainer.spoken(batch, soft, counts, 3):
            sums.setdefault(f"{task} {language}", []).append(float(right))
    for _ in range(4):
        task, _, right = trainer.typed(48, held_out=True)
        sums.setdefault(task, []).append(float(right))
    return ", ".join(f"{key} {sum(values) / len(values):.3f}" for key, values in sorted(sums.items()))


def finish(trainer: Trainer) -> None:
    """Writes the checkpoint, in bfloat16."""
    model = copy.deepcopy(trainer.model)
    model.generation_config.update(
        eos_token_id=[trainer.pieces.id(token) for token in ("<eos>", "<turn|>", "<|tool_response>")],
        bos_token_id=trainer.pieces.id("<bos>"),
        pad_token_id=trainer.pieces.id("<pad>"),
    )
    model.to(torch.bfloat16).save_pretrained(trainer.folder)


def work(rank: int, ranks: int, meeting: str, folder: Path, recordings: Path) -> None:
    """The work of one process."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    Training(folder, recordings, rank, ranks).run()
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="1, 2 or 4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (options.processes, f"{meeting}/point", options.folder, options.recordings)
        torch.multiprocessing.spawn(work, arguments, options.processes)


if __name__ == "__main__":
    main()
