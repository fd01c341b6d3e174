package org.edgegemma

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.channels.ChannelResult
import kotlinx.coroutines.channels.ReceiveChannel
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.produceIn
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext

/**
 * The voice turn: sound becomes words, and the words an answer of a conversation. Made by [Model.voice].
 *
 * [listen] is all that most applications need. [push], [step], [finish] and [answer] are what it is made of, for those who
 * own the loop.
 *
 * Sound is encoded while it is spoken. At a pause the words are transcribed and the answer is begun; both are kept when the
 * pause was the end of the turn, and dropped when the speaker goes on. Somebody who speaks during an answer interrupts it.
 *
 * Any coroutine may use a voice; calls wait for each other, and for those of its conversation.
 */
public class Voice private constructor(
    private val model: Model,
    private val chat: Chat?,
    private val conversation: Long,
    private val turn: Mutex,
    pointer: Long,
) : AutoCloseable {
    private val handle = NativeHandle(pointer, "voice", cancel = Native::voiceCancel, free = ::free)

    /** Where samples lie that do not come in a direct buffer; used by the call that holds [turn]. */
    private var samples: FloatBuffer = directFloats(0)

    private fun free(pointer: Long) {
        Native.voiceClose(pointer)
        chat?.handle?.leave()
    }

    /**
     * Takes sound: 16 kHz mono in -1..1, from the buffer's position to its limit, which stay as they are. Takes about as
     * long as encoding it, which is a small part of the time that it lasts.
     */
    public suspend fun push(sound: FloatBuffer) {
        turn.withLock {
            val direct = sound.isDirect && sound.order() == ByteOrder.nativeOrder()
            val (from, first) = if (direct) sound to sound.position() else copy(sound.duplicate()) to 0
            val n = sound.remaining()
            handle.cancellable(model.dispatcher) { Native.voicePush(it, from, first, n) }
        }
    }

    /** The same for an array. */
    public suspend fun push(sound: FloatArray): Unit = push(FloatBuffer.wrap(sound))

    /** The same for 16-bit samples, as most microphones give them. */
    public suspend fun push(sound: ShortArray): Unit = push(FloatArray(sound.size) { sound[it] / 32768f })

    private fun copy(sound: FloatBuffer): FloatBuffer {
        if (samples.capacity() < sound.remaining()) samples = directFloats(sound.remaining())
        samples.clear()
        samples.put(sound)
        return samples
    }

    /** The sound has ended, and so has a turn that is open. More sound may come, as after opening. */
    public suspend fun finish() {
        turn.withLock { handle.cancellable(model.dispatcher) { Native.voiceFinish(it) } }
    }

    /**
     * Does the next piece of work, which takes about as long as a token, and returns the next event; null: there is nothing
     * to do until more sound comes. Push all sound that waits before each step. After an error the turn is dropped.
     */
    public suspend fun step(sampling: Sampling = Sampling()): VoiceEvent? {
        val numbers = LongArray(4)
        val texts = arrayOfNulls<ByteArray>(4)
        val how = sampling.numbers
        turn.withLock {
            handle.cancellable(model.dispatcher) {
                Native.voiceStep(it, conversation, how, sampling.mask, sampling.check, model.maskWords, numbers, texts)
            }
        }
        return voiceEvent(numbers, texts)
    }

    /** The conversation has the results of the tools that were called: steps go on with its answer. */
    public suspend fun answer() {
        turn.withLock { handle.cancellable(model.dispatcher) { Native.voiceAnswer(it) } }
    }

    /**
     * What is said, and what is answered, for as long as [sound] flows; then what is left. Sound is taken as it comes, also
     * while an answer is computed. One collection at a time.
     *
     * When the collection ends early, because its coroutine was cancelled or by an operator such as `take`, the turn is
     * dropped; what was told of an answer stays in the history.
     *
     * @param sound blocks of any length, such as 20 ms: 16 kHz mono in -1..1. Up to 1,024 blocks wait; then the source waits
     * @param sampling how tokens of answers are drawn
     * @param runTool runs the tools that are called, and the flow goes on with the answer to their results. Sound waits
     *   meanwhile. null: the collector appends the results ([Chat.addResult]) after [AnswerEvent.Done] and calls [answer]
     */
    public fun listen(
        sound: Flow<FloatArray>,
        sampling: Sampling = Sampling(),
        runTool: ToolRunner? = null,
    ): Flow<VoiceEvent> = flow {
        var complete = false
        try {
            coroutineScope {
                val blocks = sound.buffer(WAITING).produceIn(this)
                val calls = Calls()
                var open = true
                while (true) {
                    open = open && take(blocks)
                    val event = step(sampling)
                    if (event == null) {
                        if (!open) break
                        open = accept(blocks.receiveCatching())
                        continue
                    }
                    if (event is VoiceEvent.Working) continue
                    emit(event)
                    val answer = (event as? VoiceEvent.Answer)?.event ?: continue
                    calls.note(answer)
                    if (answer is AnswerEvent.Done && runTool != null && chat != null && calls.run(chat, runTool)) answer()
                }
            }
            complete = true
        } finally {
            if (!complete) withContext(NonCancellable) { abandon() }
        }
    }

    /**
     * Pushes the sound that waits, but about a second at most, so that sound that comes too fast leaves time for steps. False:
     * there will be no more.
     */
    private suspend fun take(blocks: ReceiveChannel<FloatArray>): Boolean {
        var taken = 0
        while (taken < RATE) {
            val block = blocks.tryReceive()
            if (block.isFailure && !block.isClosed) return true
            if (!accept(block)) return false
            taken += block.getOrNull()?.size ?: 0
        }
        return true
    }

    private suspend fun accept(block: ChannelResult<FloatArray>): Boolean {
        block.exceptionOrNull()?.let { throw it }
        val samples = block.getOrNull()
        if (samples != null) push(samples) else finish()
        return samples != null
    }

    /** Drops the turn, and what would still be told of it. */
    private suspend fun abandon() {
        turn.withLock { if (!handle.isClosed) runCatching { handle.call(model.dispatcher) { Native.voiceAbandon(it) } } }
    }

    /**
     * Drops the turn and ends the answer; if it was being told, its end comes with [Stop.CANCELLED]. If there is no turn,
     * the next one is dropped that has begun by the next [step]. Returns at once; any thread.
     */
    public fun cancel(): Unit = handle.cancel()

    /**
     * Frees the voice, not its conversation. If a call is running on another thread, that call is cancelled, and the voice
     * is freed when it has returned: this function does not wait. A second call does nothing.
     */
    override fun close() {
        chat?.detach(this)
        handle.close()
    }

    internal companion object {
        private const val RATE = 16_000
        private const val WAITING = 1024 // blocks: 20 s from a microphone

        /** [make] opens it, of the pointers of a model and a conversation. */
        suspend fun open(model: Model, chat: Chat?, make: (Long, Long) -> Long): Voice {
            val turn = chat?.turn ?: Mutex()
            val voice = turn.withLock {
                opened(model.dispatcher) {
                    val conversation = chat?.handle?.enter() ?: 0L // until the voice is freed
                    try {
                        Voice(model, chat, conversation, turn, model.handle.now { make(it, conversation) })
                    } catch (e: Throwable) {
                        chat?.handle?.leave()
                        throw e
                    }
                }
            }
            chat?.attach(voice)
            if (chat?.handle?.isClosed == true) voice.close() // closed meanwhile
            return voice
        }
    }
}

private fun directFloats(n: Int): FloatBuffer =
    ByteBuffer.allocateDirect(Math.multiplyExact(n, Float.SIZE_BYTES)).order(ByteOrder.nativeOrder()).asFloatBuffer()

/** numbers: the kind, the bits of the time, and those of [answerEvent]. */
private fun voiceEvent(numbers: LongArray, texts: Array<ByteArray?>): VoiceEvent? {
    val time = Double.fromBits(numbers[1])
    return when (numbers[0].toInt()) {
        0 -> null
        2 -> VoiceEvent.Speech(time)
        3 -> VoiceEvent.Partial(texts[0].fromNative())
        4 -> VoiceEvent.Pause(time)
        5 -> VoiceEvent.Resume(time)
        6 -> VoiceEvent.Words(texts[0].fromNative())
        7 -> answerEvent(numbers, 2, texts)?.let { VoiceEvent.Answer(it) } ?: VoiceEvent.Working
        else -> VoiceEvent.Working // also what a later version tells
    }
}
