"""From several channels to one: their mean, or where the channels cancel, the loudest of them.

The mean m of C channels c is m = (c1 + ... + cC) / C. Channels of opposite sign cancel in it: those of a telephone with two
microphones, or of a cable with swapped wires. And where one of many channels has sound, m is quieter by 20 log10(C) dB.
So the mean is compared with the channels, 20 ms at a time. Where it is more than 12 dB quieter than the loudest channel,
that channel is taken, until the mean comes within 6 dB of it. One silent channel of two (6 dB), and up to 15 equally loud
channels with different sounds, leave the mean. A change is faded over 20 ms, so it makes no click.

Loudness is measured twice: as the variance of the samples, which leaves out a constant offset, and as that of their
differences, which leaves out hum. Both may have the same sign in channels whose speech has opposite signs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NOTHING = np.zeros(0, np.float32)
_FORGET = 0.9  # how much of the power of one block counts in the next one: about 0.2 s
_LEAVE, _RETURN = 1 / 16, 1 / 4  # power of the mean and that of the loudest channel: -12 dB, -6 dB
_OTHER = 4.0  # how much more power another channel needs to be taken instead
_QUIET = 1e-10  # variance of a block that changes nothing: -100 dB of full scale
_AT_ONCE = 64  # blocks that are compared at a time


def mean(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, channels) -> (n,) the mean of the channels."""
    # Added channel by channel, so that the order of additions does not depend on the memory layout of the array.
    total = frames[:, 0].copy()
    for channel in range(1, frames.shape[1]):
        total += frames[:, channel]
    return total / np.float32(frames.shape[1])


def _powers(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """(blocks, size) samples -> (blocks, 2): their variance, and the mean square of their differences."""
    size = blocks.shape[1]
    steps = blocks[:, 1:] - blocks[:, :-1]
    square = np.einsum("ij,ij->i", blocks, blocks) / size
    variance = np.maximum(square - np.square(blocks.sum(axis=1) / size), 1e-6 * square)  # at least the rounding error
    return np.stack([variance, np.einsum("ij,ij->i", steps, steps) / size], axis=1)


class Mixer:
    """Makes one channel of a stream of several. The result does not depend on how the stream is cut."""

    def __init__(self, rate: float) -> None:
        """`rate`: frames a second."""
        self._block = max(16, round(rate / 50))  # frames
        self._incomplete: NDArray[np.float32] | None = None  # (k, channels), less than a block
        self._powers: list[list[float]] | None = None  # as `_choose` has them
        self._taken = -1  # the channel that is taken; -1 for the mean
        self._silent = True  # whether all blocks so far were silent

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, channels) float32 -> (k,) float32. Up to 20 ms wait for the next call."""
        if frames.shape[1] == 1:
            return np.ascontiguousarray(frames[:, 0])
        if self._incomplete is not None and len(self._incomplete):
            frames = np.concatenate([self._incomplete, frames])
        whole = len(frames) // self._block * self._block
        self._incomplete = frames[whole:].copy()
        step = self._block * _AT_ONCE
        parts = [self._mixed(frames[at : min(at + step, whole)]) for at in range(0, whole, step)]
        return np.concatenate(parts) if parts else _NOTHING

    def finish(self) -> NDArray[np.float32]:
        """Ends the sound: returns the (k,) samples that are still waiting. `push` must not be called again."""
        if self._incomplete is None or not len(self._incomplete):
            return _NOTHING
        return self._mixed(self._incomplete)

    def _mixed(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mixes whole blocks, or the last one, which may be shorter."""
        mono, size = mean(frames), min(self._block, len(frames))
        powers = np.stack([_powers(signal.reshape(-1, size)) for signal in (*frames.T, mono)], axis=-1)
        for number, now in enumerate(powers.tolist()):
            before, taken = self._choose(now)
            if before == taken < 0:
                continue
            block = slice(number * size, (number + 1) * size)
            new = mono[block] if taken < 0 else frames[block, taken]
            if before != taken:
                old = mono[block] if before < 0 else frames[block, before]
                new = old + (new - old) * (np.arange(1, size + 1, dtype=np.float32) / np.float32(size))
            mono[block] = new
        return mono

    def _choose(self, now: list[list[float]]) -> tuple[int, int]:
        """The channels that are taken before and after a block; -1 for the mean.

        `now`: two measures of the block, each of them for the channels and, in the last place, the mean.
        """
        before = self._taken
        if self._powers is not None:
            pairs = zip(self._powers, now, strict=True)
            now = [[_FORGET * a + (1 - _FORGET) * b for a, b in zip(old, new, strict=True)] for old, new in pairs]
        self._powers = now
        if not max(now[0]) > _QUIET:
            return before, before
        first, self._silent = self._silent, False
        # The measure by which the mean compares worst.
        *channels, of_mean = min(now, key=lambda measure: measure[-1] / max(*measure, 1e-30))
        loudest = max(channels)
        best = channels.index(loudest)
        if before < 0:
            if of_mean < loudest * _LEAVE:
                self._taken = best
        elif of_mean > loudest * _RETURN:
            self._taken = -1
        elif channels[before] * _OTHER < loudest:
            self._taken = best
        return (self._taken if first else before), self._taken  # after silence there is nothing to fade out
