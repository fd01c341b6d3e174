"""Trains the demo model: the decoder on typed words, the encoders with heads of their own, and then all together.

    python train.py CLIPS HF

CLIPS is the folder that clips.py has written. HF is the folder with the tokenizer, which becomes a Hugging Face checkpoint.
The state is saved every few minutes to HF.state, from which an interrupted training continues; without one it begins with the
weights of unfinished.npz, if there are such. Every process computes its own part of each batch, which is a third faster than
one process with all processors.

The audio encoder learns with CTC, which has to find the alignment of sounds and letters by itself. In its first thousand steps
it learns only the frequency of letters. So the training begins with a rough alignment: letters at equal distances between the
begin and the end of speech. Sixty steps of this are enough. The vision encoder's head is in sight.py.

Matrices are trained with Muon, which needs about two thirds of the steps that AdamW needs. AdamW trains what is left.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import itertools
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

import aim
import augment
import average
import clips
import domain
import muon
import network
import sight
import tasks
import unfinished
from edge_gemma import kernels
from edge_gemma.speech.languages import language_name
from vocabulary import SIDES, Pieces
from words import LANGUAGES

LETTERS = "_ abcdefghijklmnopqrstuvwxyzßáäéíñóöúü"  # of the CTC head; the first is its blank
BATCH = 32  # on all processors together
NOBODY = 0.1  # the share of recordings in which nobody speaks
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
        numbers: indices of the clips in their split; None where nobody speaks.
        clips: the clips. The process that trains fills them in, since sentences cannot be sent between processes.
    """

    mel: Tensor
    mask: Tensor
    letters: Tensor
    lengths: Tensor
    numbers: list[int | None]
    clips: list[clips.Clip | None] = dataclasses.field(default_factory=list)

    def find(self, entries: list[clips.Clip]) -> None:
        """Fills in the clips, of all entries of their split."""
        self.clips = [None if at is None else entries[at] for at in self.numbers]


class Recordings(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """An endless stream of batches, each with `size` clips of similar length; `augmented` ones are changed at random, and some
    become a sound in which nobody speaks.

    With the same seed, `ranks` processes share batches of `size` clips each: all get clips of the same length at the same time,
    since all wait for the last one.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        seed: int,
        size: int,
        augmented: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.folder, self.split, self.seed, self.size, self.augmented = folder, split, seed, size * ranks, augmented
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        entries, samples = clips.load(self.folder, self.split)
        rng = random.Random(self.seed)
        noise = np.random.default_rng((self.seed, self.rank))
        groups = {name: [at for at, clip in enumerate(entries) if clip.sentence.language == name] for name in LANGUAGES}
        while True:
            language = rng.choices(LANGUAGES, [len(groups[name]) for name in LANGUAGES])[0]
            size = self.size
            pool = rng.sample(groups[language], min(size * 8, len(groups[language]) // size * size))
            pool.sort(key=lambda at: entries[at].end - entries[at].begin)
            for first in rng.sample(range(0, len(pool), size), min(4, len(pool) // size)):
                yield self._batch(pool[first + self.rank : first + size : self.ranks], entries, samples, noise)

    def _batch(self, numbers: list[int], entries: list[clips.Clip], samples: Any, noise: Any) -> Batch:
        silent = [self.augmented and noise.random() < NOBODY for _ in numbers]
        mels = [
            self._mel(entries[at], entries, samples, noise, not none) for at, none in zip(numbers, silent, strict=True)
        ]
        frames = max(map(len, mels))
        mel = torch.zeros(len(mels), frames, mels[0].shape[1])
        mask = torch.zeros(len(mels), frames, dtype=torch.bool)
        for at, one in enumerate(mels):
            mel[at, : len(one)] = torch.from_numpy(one)
            mask[at, : len(one)] = True
        found = [None if none else at for at, none in zip(numbers, silent, strict=True)]
        ids = [[] if at is None else letters(entries[at].sentence.spoken) for at in found]
        padded = torch.zeros(len(ids), max(1, *map(len, ids)), dtype=torch.long)
        for at, one in enumerate(ids):
            padded[at, : len(one)] = torch.tensor(one)
        return Batch(mel, mask, padded, torch.tensor([len(one) for one in ids]), found)

    def _mel(
        self, clip: clips.Clip, entries: list[clips.Clip], samples: Any, noise: np.random.Generator, spoken: bool
    ) -> Any:
        if not spoken:
            return augment.masked(kernels.log_mel(augment.nobody(clip.end - clip.begin, noise)), noise)
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
        self.sight = sight.Head()
        self.sides = torch.tensor([self.pieces.find(str(side)) for side in SIDES])
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
        heard = [[self.pieces.find("<|audio|>")] * int(count) for count in counts] if counts is not None else None
        rows = [heard[at] if heard else list(example.words) for at, example in enumerate(examples)]
        sounds = None
        if soft is not None and counts is not None:
            sounds = soft[torch.arange(soft.shape[1])[None] < counts[:, None]]
        cache = self._read(self._embedded(torch.tensor([request.before])))
        loss, right, _, _ = self._answer(cache, len(examples), request, rows, examples, sounds)
        return loss, right.mean()

    def pictured(self, pictures: sight.Pictures, soft: Tensor) -> dict[str, Tensor]:
        """The mean losses of tasks about pictures: "shown" of the answers, "aim" of what is looked at, "near" and "side" of the
        sides of boxes; and with "=", the shares of right answers.

        A picture is read once, and its K/V are repeated for all of its tasks. Lists of boxes are several times as long as the
        other answers, so they are evaluated apart.
        """
        request, count = self.tasks.picture(), soft.shape[1]
        ids = torch.tensor([[*request.before, *[self.pieces.find("<|image|>")] * count]]).expand(len(soft), -1)
        cache = self._read(self._embedded(ids, soft.flatten(0, 1)))
        losses, aims, shares = [], [], dict[str, Tensor]()
        # Few tokens of a list do not follow from its form: they count as much as those of other answers.
        for weight, kinds in ((1, ("describe", "question", "question", "question")), (3, ("locate",) * 3)):
            examples = [
                self.tasks.about(self.tasks.shown(scene, self.rng, kind)) for scene in pictures.scenes for kind in kinds
            ]
            rows = [list(example.words) for example in examples]
            shown = [scene for scene in pictures.scenes for _ in kinds]
            goals = aim.goals(shown, [example.things for example in examples], pictures.columns, pictures.rows)
            loss, right, missed, (near, off) = self._answer(cache, len(kinds), request, rows, examples, None, goals)
            losses.append(weight * loss)
            aims.append(missed)
            by_kind = right.unflatten(0, (-1, len(kinds)))
            shares |= {f"{kind}=": by_kind[:, _where(kinds, kind)].mean() for kind in kinds}
        # The last ones are those of the boxes.
        return {
            "shown": torch.stack(losses).mean(),
            "aim": torch.stack(aims).mean(),
            "near": near,
            "side": off,
        } | shares

    def _embedded(self, ids: Tensor, soft: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings and per-layer embeddings of ids, with soft tokens in the places of `<|audio|>` and `<|image|>`."""
        language = self.model.model.language_model
        places = (ids == self.pieces.find("<|audio|>")) | (ids == self.pieces.find("<|image|>"))
        ids = ids.masked_fill(places, self.pieces.find("<pad>"))
        inputs = language.embed_tokens(ids)
        if soft is not None:
            inputs = inputs.masked_scatter(places[..., None], soft.to(inputs.dtype))
        return inputs, language.get_per_layer_inputs(ids, inputs)

    def _read(self, embedded: tuple[Tensor, Tensor]) -> DynamicCache:
        """The K/V of tokens from which nothing is to be learned."""
        cache = DynamicCache()
        self.model.model.language_model(
            inputs_embeds=embedded[0], per_layer_inputs=embedded[1], cache=cache, use_cache=True, logits_to_keep=1
        )
        return cache

    def _answer(
        self,
        cache: DynamicCache,
        copies: int,
        request: tasks.Request,
        rows: list[list[int]],
        examples: list[tasks.Example],
        soft: Tensor | None,
        goals: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The loss of the examples, whose tokens follow those in the cache; which of them are all right; the loss of what is
        looked at; the losses of the sides of boxes.

        Every timeline of the cache is repeated for `copies` examples, one after another. The cache stays as it is.
        `goals` are those of aim.goals.
        """
        language = self.model.model.language_model
        attention = language.layers[aim.LAYER].self_attn
        repeated = DynamicCache()
        for at, layer in enumerate(cache.layers):
            if layer.is_initialized:
                repeated.update(layer.keys.repeat_interleave(copies, 0), layer.values.repeat_interleave(copies, 0), at)
        read = cache.get_seq_length()
        rows = [[*row, *request.after, *example.answer[:-1]] for row, example in zip(rows, examples, strict=True)]
        targets = [
            [token if learn else -100 for token, learn in zip(example.answer, example.learn, strict=True)]
            for example in examples
        ]
        # The layers that share K/V are needed for the answers only. So all rows end together and are padded at the front.
        longest, kept = max(map(len, rows)), max(map(len, targets))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        goal = torch.tensor([[-100] * (kept - len(row)) + row for row in targets])
        empty = torch.tensor([longest - len(row) for row in rows])[:, None]
        there = torch.arange(longest)[None] >= empty
        place = read + (torch.arange(longest)[None] - empty).clamp(min=0)
        inputs, per_layer = self._embedded(ids, soft)
        with aim.Inputs(attention) as seen:
            hidden = language(
                inputs_embeds=inputs,
                per_layer_inputs=per_layer,
                attention_mask=torch.cat([torch.ones(len(rows), read, dtype=torch.bool), there], 1),
                position_ids=place,
                cache=repeated,
                use_cache=True,
                logits_to_keep=kept,
            ).last_hidden_state
        missed = torch.zeros(())
        if goals is not None:
            begin = len(request.before)
            keys = repeated.layers[aim.LAYER].keys[:, 0, begin : begin + goals.shape[2]]
            missed = aim.loss(attention, seen, keys, goals)
        where = goal != -100
        logits = self.model.lm_head(hidden[where]).float()
        logits = 30 * torch.tanh(logits / 30)
        wrong = torch.zeros(len(rows))
        wrong.index_add_(0, where.nonzero()[:, 0], (logits.argmax(-1) != goal[where]).float())
        # Every example counts the same, however long its answer is.
        share = 1 / (len(rows) * where.sum(1)[where.nonzero()[:, 0]])
        losses = F.cross_entropy(logits, goal[where], label_smoothing=0.02, reduction="none")
        return (losses * share).sum(), (wrong == 0).float(), missed, self._sides(logits, goal[where])

    def _sides(self, logits: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropy of the sides of boxes with those near the right ones, and the distance of their expectation from
        the right ones, as a share of the picture. The cross entropy of their pieces knows of no near ones, and leaves the most
        probable side a quarter farther off than the expectation."""
        at, side = (goal[:, None] == self.sides).nonzero(as_tuple=True)
        if not len(at):
            return logits.sum() * 0, logits.sum() * 0
        scores = logits[at][:, self.sides].log_softmax(-1)
        places = torch.arange(len(self.sides)).float()
        near = (-0.5 * ((places - side[:, None]) / NEAR) ** 2).softmax(-1)
        off = (scores.exp() @ places - side).abs().mean() / len(self.sides)
        return -(near * scores).sum(-1).mean(), off

    def spoken(
        self, batch: Batch, soft: Tensor, counts: Tensor, every: bool = False
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The losses of tasks that begin with speech: two tasks with half of the clips each, or every task with all."""
        language = next((clip.sentence.language for clip in batch.clips if clip), LANGUAGES[0])
        names = ["asr", "ast", "tool"] if every else self.rng.choices(["asr", "ast", "tool"], [4, 2, 2], k=2)
        for at, task in enumerate(names):
            part = slice(None) if every else slice(at, None, 2)
            heard = batch.clips[part]
            source = language if self.rng.random() < 0.6 else None
            write: Callable[[domain.Sentence], tasks.Example]
            if task == "asr":
                request = self.tasks.transcription(source)
                write = self.tasks.transcript
            elif task == "ast":
                target = self.rng.choice([name for name in LANGUAGES if name != language])
                request = self.tasks.translation(source, target)
                write = functools.partial(self.tasks.translated, target=target)
            else:
                request = self.tasks.command()
                write = functools.partial(self.tasks.done, rng=self.rng)
            examples = [write(clip.sentence) if clip else self.tasks.answer("") for clip in heard]
            yield task, *self.answers(request, examples, soft[part], counts[part])

    def typed(self, size: int, held_out: bool = False) -> tuple[str, Tensor, Tensor]:
        """The loss of a task that begins with typed words."""
        task = self.rng.choices(("command", "language", "translation"), (5, 1, 4))[0]
        language = self.rng.choice(LANGUAGES)
        examples = []
        if task == "command":
            request = self.tasks.typed_command()
        elif task == "language":
            request = self.tasks.typed_language()
        else:
            target = self.rng.choice([name for name in LANGUAGES if name != language])
            request = self.tasks.typed_translation(language if self.rng.random() < 0.6 else None, target)
        while len(examples) < size:
            drawn = language if task == "translation" else self.rng.choice(LANGUAGES)
            sentence = domain.draw(self.rng).sentence(drawn, self.rng)
            if sentence.held_out != held_out:
                continue
            if task == "command":
                answer = self.tasks.done(sentence, self.rng)
            else:
                answer = self.tasks.answer(
                    language_name(drawn) if task == "language" else sentence.translations[target]
                )
            examples.append(self.tasks.typed(sentence.text, answer))
        return "typed", *self.answers(request, examples, None, None)


def _where(names: tuple[str, ...], name: str) -> list[int]:
    return [at for at, one in enumerate(names) if one == name]


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
        name: typed (decoder, typed words only), flat (audio encoder, letters at equal distances), ears (audio encoder, CTC),
            eyes (vision encoder, its head), looking (decoder, pictures), all (everything), average (nothing: the model becomes
            the average of earlier stages).
        steps: number of steps.
        hearing, seeing, speaking: learning rates of the audio encoder, the vision encoder and the decoder. They rise for 60
            steps and then fall along a cosine.
        tokens: budgets of the pictures.
        turns: which steps have speech ("s") and which have pictures ("p"), again and again, where there are both.
    """

    name: str
    steps: int
    hearing: float = 0.0
    seeing: float = 0.0
    speaking: float = 0.0
    tokens: tuple[int, ...] = ()
    turns: str = "sp"

    def factor(self, step: int) -> float:
        """The factor of the learning rates at a step."""
        return min(1.0, (step + 1) / 60) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


SMALL, FULL = (16, 20, 25, 30, 70), (35, 70, 70, 70, 140, 280)
FINAL = (70, 70, 70, 70, 140, 280)  # what is printed can be read from 70 tokens on
COURSE = [
    Stage("typed", 250, speaking=2e-3),
    Stage("eyes", 1200, seeing=1.2e-3, tokens=SMALL),
    Stage("flat", 60, hearing=1.2e-3),
    Stage("ears", 1800, hearing=1.2e-3),
    Stage("all", 2000, 6e-4, 6e-4, 1.2e-3, FULL),
    Stage("ears", 1200, hearing=1.2e-3),
    Stage("eyes", 700, seeing=9e-4, tokens=(70, 70, 140)),
    # To find a thing by its label, the decoder needs many pictures: with few soft tokens, a step has more of them.
    Stage("looking", 600, speaking=1.2e-3, tokens=(25, 30, 35, 70)),
    Stage("eyes", 1500, seeing=1.2e-3, tokens=(70, 70, 70, 140)),
    Stage("looking", 400, speaking=1.2e-3, tokens=(25, 30, 35, 70)),
    Stage("looking", 250, speaking=1e-3, tokens=(25, 30, 35, 70)),
    Stage("ears", 1000, hearing=1.2e-3),
    Stage("eyes", 900, seeing=1.2e-3, tokens=(70, 70, 140, 280)),
    Stage("looking", 800, speaking=1.2e-3, tokens=(25, 30, 35, 70, 140)),
    Stage("ears", 400, hearing=1e-3),
    Stage("all", 2000, 4e-4, 6e-4, 1.2e-3, FINAL, "sps"),
    # Most boxes that were wrong were near the thing: the sides were off by 2% of the picture.
    Stage("eyes", 800, seeing=6e-4, tokens=(70, 140, 140, 280)),
    Stage("looking", 500, speaking=8e-4, tokens=(70, 70, 140, 280)),
    Stage("all", 900, 1e-4, 2e-4, 5e-4, (70, 140, 140, 280), "psp"),
    Stage("eyes", 300, seeing=4e-4, tokens=(70, 140, 140, 280)),
    Stage("looking", 550, speaking=6e-4, tokens=(70, 140, 140, 280)),
    Stage("all", 500, 5e-5, 1.5e-4, 4e-4, (70, 140, 140, 280), "psp"),
    Stage("average", 0),
    Stage("looking", 300, speaking=5e-4, tokens=(70, 140, 280, 280)),
    Stage("all", 750, 5e-5, 1.5e-4, 4e-4, (70, 140, 280, 280), "psp"),
    Stage("average", 0),
    # Pictures that are smaller than their budget.
    Stage("eyes", 250, seeing=4e-4, tokens=(70, 140, 280, 280)),
    Stage("looking", 300, speaking=5e-4, tokens=(70, 140, 280, 280)),
    Stage("all", 500, 5e-5, 1.5e-4, 4e-4, (70, 140, 280, 280), "psp"),
    Stage("average", 0),
    # Wide and tall pictures.
    Stage("eyes", 250, seeing=5e-4, tokens=(70, 140, 280, 280)),
    Stage("looking", 250, speaking=5e-4, tokens=(70, 140, 280, 280)),
    Stage("all", 400, 5e-5, 1.5e-4, 4e-4, (70, 140, 280, 280), "psp"),
    Stage("average", 0),
    # More tall pictures: sight.TALL.
    Stage("eyes", 250, seeing=5e-4, tokens=(70, 140, 280, 280)),
    Stage("looking", 250, speaking=5e-4, tokens=(70, 140, 280, 280)),
    Stage("all", 400, 5e-5, 1.5e-4, 4e-4, (70, 140, 280, 280), "psp"),
    Stage("average", 0),
]
NEAR = 1.5  # the deviation of what is near a side of a box, in hundredths of the picture
PATCHES = 5760  # of the pictures of a step, on all processors together
MUON = 2.5  # its learning rate as a factor of AdamW's


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
        self.model = self.trainer.model
        body = self.model.model
        hearing = [body.audio_tower, body.embed_audio, self.trainer.head]
        seeing = [body.vision_tower, body.embed_vision, self.trainer.sight]
        self.groups = {
            name: [parameter for part in parts for parameter in part.parameters()]
            for name, parts in (("hearing", hearing), ("seeing", seeing))
        }
        names = {id(parameter) for group in self.groups.values() for parameter in group}
        self.groups["speaking"] = [parameter for parameter in self.model.parameters() if id(parameter) not in names]
        outside = (
            *self.trainer.head.parameters(),
            *self.trainer.sight.parameters(),
            body.language_model.embed_tokens.weight,
        )
        others = {id(parameter) for parameter in (*outside, body.language_model.embed_tokens_per_layer.weight)}
        matrices, rest = [], []
        for parameters in self.groups.values():
            inner = [parameter.ndim == 2 and id(parameter) not in others for parameter in parameters]
            matrices.append([p for p, is_inner in zip(parameters, inner, strict=True) if is_inner])
            rest.append([p for p, is_inner in zip(parameters, inner, strict=True) if not is_inner])
        self.optimizers = {
            "muon": muon.Muon(({"params": group} for group in matrices), rank, ranks),
            "adamw": torch.optim.AdamW(
                [{"params": group} for group in rest], betas=(0.9, 0.98), weight_decay=0.01, foreach=True
            ),
        }
        self.parts = {"model": self.model, "head": self.trainer.head, "sight": self.trainer.sight, **self.optimizers}
        self.stage = self.step = 0
        if self.path.exists():
            self._go_on(torch.load(self.path, weights_only=False), self.parts)
        elif unfinished.FILE.exists():
            self._go_on(unfinished.read(), unfinished.PARTS)
            self._keep()

    def _go_on(self, state: dict[str, Any], parts: Iterable[str]) -> None:
        for name in parts:
            self.parts[name].load_state_dict(state[name])
        self.stage, self.step = state["stage"], state["step"]

    def log(self, text: str) -> None:
        """Prints a line, in the first process."""
        if self.rank == 0:
            print(f"{(time.monotonic() - self.begun) / 60:6.1f} min  {text}", flush=True)

    def save(self) -> None:
        """Writes the state, in the first process."""
        if self.rank == 0:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            torch.save(state | {"stage": self.stage, "step": self.step}, self.path.with_suffix(".part"))
            os.replace(self.path.with_suffix(".part"), self.path)

    def run(self) -> None:
        """Trains the stages that are left."""
        parts = (self.model, self.model.model.audio_tower, self.model.model.vision_tower)
        sizes = [network.parameters(part) / 1e6 for part in parts]
        self.log("{:.2f} M parameters, {:.2f} M in the audio encoder, {:.2f} M in the vision encoder".format(*sizes))
        entries, _ = clips.load(self.recordings, "train")
        saved, means = time.monotonic(), dict[str, float]()
        while self.stage < len(COURSE):
            stage = COURSE[self.stage]
            if stage.name == "average":
                self._average_stages()
            speech, pictures = self._streams(stage)
            while self.step < stage.steps:
                batch: Batch | sight.Pictures | None = None
                turn = stage.turns[self.step % len(stage.turns)]
                if pictures is not None and (speech is None or turn == "p"):
                    batch = next(pictures)
                elif speech is not None:
                    batch = next(speech)
                    batch.find(entries)
                values = self.learn(stage, batch)
                for key, value in values.items():
                    means[key] = 0.97 * means.get(key, value) + 0.03 * value
                self.step += 1
                if self.step % 50 == 0:
                    figures = "  ".join(f"{key} {value:.3f}" for key, value in means.items())
                    self.log(f"{stage.name} {self.step} of {stage.steps}  {figures}")
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
            self.stage, self.step = self.stage + 1, 0
            means.clear()
            self._keep()
            if self.rank == 0 and stage.name != "flat":
                self.log(f"after {stage.name}: {examine(self.trainer, self.recordings, stage)}")
                finish(self.trainer)
            if self.ranks > 1:
                torch.distributed.barrier()

    def _keep(self) -> None:
        """Writes the state after a stage, twice if it will be averaged."""
        self.save()
        if self.rank == 0 and not self.step and self.stage - 1 in average.KEPT:
            shutil.copy(self.path, self._after(self.stage - 1))

    def _after(self, stage: int) -> Path:
        """The file of the state after a stage."""
        return self.path.with_name(f"{self.path.name}.{stage}")

    def _average_stages(self) -> None:
        stages, shares = average.AVERAGES[self.stage]
        states = [torch.load(self._after(stage), weights_only=False)["model"] for stage in stages]
        self.model.load_state_dict(average.average(states, shares))

    def _streams(self, stage: Stage) -> tuple[Iterator[Batch] | None, Iterator[sight.Pictures] | None]:
        """The batches of speech and of pictures of a stage."""
        seed = 1000000 * self.stage + self.step + 7

        def stream(source: Any) -> Iterator[Any]:
            return iter(torch.utils.data.DataLoader(source, batch_size=None, num_workers=1, prefetch_factor=6))

        speech = pictures = None
        if stage.hearing:
            augmented = stage.name != "flat"
            part = BATCH // self.ranks
            speech = stream(Recordings(self.recordings, "train", seed, part, augmented, self.rank, self.ranks))
        if stage.tokens:
            pictures = stream(sight.Drawings(seed, stage.tokens, PATCHES // self.ranks, rank=self.rank))
        return speech, pictures

    def learn(self, stage: Stage, batch: Batch | sight.Pictures | None) -> dict[str, float]:
        """Makes one step. Returns its losses, and its shares of right answers."""
        rates = {"hearing": stage.hearing, "seeing": stage.seeing, "speaking": stage.speaking}
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
                group["lr"] = rate * stage.factor(self.step) * (MUON if name == "muon" else 1)
        for name, parameters in self.groups.items():
            for parameter in parameters:
                parameter.requires_grad_(rates[name] > 0)
        self.model.train()
        values: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        alone = 1.0 if not stage.speaking else 0.3  # the weight of the encoders' own heads
        with torch.autocast("cpu", torch.bfloat16, enabled=muon.BFLOAT16):
            answers: list[tuple[str, Tensor, Tensor]] = []
            if isinstance(batch, sight.Pictures):
                states, soft = network.see(self.model, batch.patches, batch.columns, batch.rows)
                found = self.trainer.sight.losses(states, soft, batch)
                values |= found
                losses += [alone * value for key, value in found.items() if key.isalpha()]
                if stage.speaking:
                    values |= (found := self.trainer.pictured(batch, soft))
                    losses += [found["shown"], aim.WEIGHT * found["aim"]]
                    losses += [found["near"], 2 * sight.PRECISION * found["side"]]
            elif batch:
                soft, counts = self.trainer.encode(batch)
                lossy = self.trainer.equal_distances if stage.name == "flat" else self.trainer.ctc
                values["flat" if stage.name == "flat" else "ctc"] = loss = lossy(soft, counts, batch)
                losses.append(alone * loss)
                if stage.speaking:
                    answers += self.trainer.spoken(batch, soft, counts)
            if stage.speaking and (not batch or self.step % 3 == 0):
                answers.append(self.trainer.typed(BATCH // self.ranks * (1 if batch else 2)))
            for task, entropy, right in answers:
                losses.append(entropy)
                values[task], values[task + "="] = entropy, right
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        if self.ranks > 1:
            self._average()
        nn.utils.clip_grad_norm_([parameter for group in self.groups.values() for parameter in group], 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {key: float(value.detach()) for key, value in values.items()}

    def _average(self) -> None:
        """Averages the gradients over all processes."""
        moved = [p for group in self.groups.values() for p in group if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in moved])
        torch.distributed.all_reduce(flat)
        flat /= self.ranks
        for parameter, part in zip(moved, flat.split([p.numel() for p in moved]), strict=True):
            parameter.grad = part.view_as(parameter)


@torch.no_grad()
def examine(trainer: Trainer, recordings: Path, stage: Stage, count: int = 8) -> str:
    """Measures what a stage trains on some batches for tests, with teacher forcing: every token is predicted from the right
    ones before."""
    trainer.model.eval()
    sums: dict[str, list[float]] = {}

    def note(name: str, value: Any) -> None:
        sums.setdefault(name, []).append(float(value))

    for split in ("known", "unknown") if stage.hearing else ():
        batches = iter(Recordings(recordings, split, 3, 24, augmented=False))
        entries, _ = clips.load(recordings, split)
        for _ in range(count):
            batch = next(batches)
            batch.find(entries)
            soft, counts = trainer.encode(batch)
            language = next(clip.sentence.language for clip in batch.clips if clip)
            note(f"{split} letters wrong {language}", trainer.letter_errors(soft, counts, batch))
            for task, _, right in trainer.spoken(batch, soft, counts, every=True) if stage.speaking else ():
                note(f"{split} {task} {language}", right)
    for budget in (20, 70, 280) if stage.seeing else ():
        drawings = iter(sight.Drawings(3, (budget,), 2 * PATCHES, held_out=True))
        for _ in range(3):
            pictures = next(drawings)
            states, soft = network.see(trainer.model, pictures.patches, pictures.columns, pictures.rows)
            for name, value in trainer.sight.losses(states, soft, pictures).items():
                if not name.isalpha():
                    note(f"{budget} {name}", value)
            for name, value in (trainer.pictured(pictures, soft) if stage.speaking else {}).items():
                note(f"{budget} {name}", value)
    for _ in range(4 if stage.speaking else 0):
        task, _, right = trainer.typed(48, held_out=True)
        note(task, right)
    return ", ".join(f"{key} {sum(values) / len(values):.3f}" for key, values in sorted(sums.items()))


def finish(trainer: Trainer) -> None:
    """Writes the checkpoint, in bfloat16."""
    model = copy.deepcopy(trainer.model)
    model.generation_config.update(
        eos_token_id=[trainer.pieces.find(token) for token in ("<eos>", "<turn|>", "<|tool_response>")],
        bos_token_id=trainer.pieces.find("<bos>"),
        pad_token_id=trainer.pieces.find("<pad>"),
    )
    model.to(torch.bfloat16).save_pretrained(trainer.folder)


def work(rank: int, ranks: int, meeting: str, folder: Path, recordings: Path) -> None:
    """The work of one process of several."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    Training(folder, recordings, rank, ranks).run()
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="1, 2 or 4")
    options = parser.parse_args()
    if options.processes == 1:  # in this process, which can be stopped and continued by its number
        torch.set_num_threads(1)
        Training(options.folder, options.recordings, 0, 1).run()
        return
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (options.processes, f"{meeting}/point", options.folder, options.recordings)
        torch.multiprocessing.spawn(work, arguments, options.processes)


if __name__ == "__main__":
    main()
