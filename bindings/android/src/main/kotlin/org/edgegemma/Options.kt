package org.edgegemma

import java.nio.FloatBuffer
import java.nio.IntBuffer

/** Where a GGUF file is. */
public sealed interface ModelFile {
    /** A file of the file system; the first one of a split model. */
    public data class Path(public val path: String) : ModelFile

    /**
     * A part of an open file, such as an asset that is stored uncompressed in the application's package.
     *
     * The descriptor stays the caller's, and may be closed when [Model.open] has returned.
     *
     * @property fd a file descriptor
     * @property offset the byte at which the GGUF begins
     * @property length bytes of the GGUF; more than 0, but for the model itself, where 0 means up to the end of the file
     */
    public data class Descriptor(public val fd: Int, public val offset: Long, public val length: Long) : ModelFile
}

/**
 * How a model is opened.
 *
 * @property encoders the file with the encoders of sound and pictures ("mmproj"); null: the model neither hears nor sees
 * @property sidecar a file with a leaner head; null: `X.lean.gguf` beside `X.gguf`, if there is one
 * @property useSidecar false: the model as it is
 * @property threads how many threads compute; 0: one for each fast core
 * @property memoryLimit bytes that the process is to stay within; 0: what the system has. A model that is larger reads its
 *   weights as they are needed
 * @property handleDiskFailures a page of the files that cannot be read makes calls fail with [Status.FILE]; for this the
 *   library has a handler of SIGBUS while a model is open, which hands on what is not its own. false: such a page ends the
 *   process
 * @property log is told, once and in several lines, what was chosen: kernels, threads, sidecar, memory
 */
public class ModelOptions(
    public val encoders: ModelFile? = null,
    public val sidecar: ModelFile? = null,
    public val useSidecar: Boolean = true,
    public val threads: Int = 0,
    public val memoryLimit: Long = 0,
    public val handleDiskFailures: Boolean = true,
    public val log: ((String) -> Unit)? = null,
)

/** The numbers that the cache of keys and values keeps. */
public enum class KvType(internal val code: Int) {
    /** Floats of 16 bits. */
    F16(0),

    /** Floats of 32 bits: twice the memory. */
    F32(1),

    /** Integers of 8 bits: about half the memory. */
    Q8(2),
}

/** What happens when a conversation does not fit the context any more. */
public enum class Overflow(internal val code: Int) {
    /** Answers fail with [Status.CONTEXT]; the application shortens the history. */
    FAIL(0),

    /** The model is not shown the oldest turns, until a quarter of the context is free. */
    FORGET(1),
}

/**
 * How a conversation is opened.
 *
 * @property system instructions; null: none
 * @property tools JSON: a list of objects with `name`, `description` and `parameters` (JSON Schema); null: none
 * @property context tokens that there is room for; 0: 4096, or the model's own length if that is shorter
 * @property kv the kind of the cache
 * @property overflow what to do when the context is full
 * @property stops texts that end an answer, and are left out of it
 * @property maxTokens of an answer; 0: as many as there is room for
 * @property thinking let the model think before it answers
 * @property emptyThought without [thinking]: begin answers with an empty thought, as the larger models expect
 */
public class ChatOptions(
    public val system: String? = null,
    public val tools: String? = null,
    public val context: Int = 0,
    public val kv: KvType = KvType.F16,
    public val overflow: Overflow = Overflow.FORGET,
    public val stops: List<String> = emptyList(),
    public val maxTokens: Int = 0,
    public val thinking: Boolean = false,
    public val emptyThought: Boolean = false,
)

/**
 * How a voice is opened. Times are in seconds; 0 means the library's own choice, which the text names.
 *
 * @property request what the model is asked about the sound; null: to transcribe it
 * @property silence silence that ends a turn: 0.7
 * @property pause silence that makes a pause, at which the answer is prepared: 0.25
 * @property minSpeech the shortest speech: 0.1
 * @property maxSeconds the longest turn: 28
 * @property partial sound between two partial transcripts: 0.5; negative: none are made
 * @property context tokens for one utterance: 1536
 * @property detector tells speech from noise; null: a detector that compares the level with that of the noise
 */
public class VoiceOptions(
    public val request: String? = null,
    public val silence: Float = 0f,
    public val pause: Float = 0f,
    public val minSpeech: Float = 0f,
    public val maxSeconds: Float = 0f,
    public val partial: Float = 0f,
    public val context: Int = 0,
    public val detector: SpeechDetector? = null,
)

/** Tells speech from noise. */
public fun interface SpeechDetector {
    /**
     * The probability, from 0 to 1, that somebody speaks in a block of 512 samples (16 kHz mono). Called on the thread that
     * pushes sound, for one block after the other. The buffer is read-only, and valid during the call only.
     */
    public fun probability(block: FloatBuffer): Float
}

/** Says which tokens may stand next: a grammar. */
public fun interface TokenCheck {
    /**
     * Called with each token that was drawn. null: it may stand. Otherwise a direct buffer with one bit for each token of the
     * vocabulary, from the lowest bit of the first number on: the token is drawn anew among those whose bit is 1. The buffer
     * must not change until the next call.
     */
    public fun check(token: Int): IntBuffer?
}

/**
 * How tokens are drawn. The defaults are those that Gemma 4 is recommended with; [GREEDY] always takes the likeliest token.
 *
 * @property temperature 0: the likeliest token, and the next three have no effect
 * @property topK only so many likeliest tokens; 0: all
 * @property topP only the likeliest tokens that reach this probability together; 1: all
 * @property minP only tokens of at least this probability, relative to the likeliest; 0: all
 * @property repetitionPenalty logits of recent tokens are divided by it, or multiplied if negative; 1: off
 * @property presencePenalty is subtracted from the logits of recent tokens
 * @property frequencyPenalty is subtracted for each time that a recent token occurred
 * @property penaltyWindow how many last tokens are recent
 * @property mask a direct buffer with a bit for each token, as in [TokenCheck.check], for every token of the answer; null:
 *   all may stand
 * @property check is asked about each token; null: none
 */
public class Sampling(
    public val temperature: Float = 1f,
    public val topK: Int = 64,
    public val topP: Float = 0.95f,
    public val minP: Float = 0f,
    public val repetitionPenalty: Float = 1f,
    public val presencePenalty: Float = 0f,
    public val frequencyPenalty: Float = 0f,
    public val penaltyWindow: Int = 64,
    public val mask: IntBuffer? = null,
    public val check: TokenCheck? = null,
) {
    init {
        require(topK in 0..MOST && penaltyWindow in 0..MOST) { "topK and penaltyWindow are 0 to $MOST." }
        require(mask == null || mask.isDirect) { "The mask must be a direct buffer." }
    }

    /** In the order that the library's JNI reads them. */
    internal val numbers: FloatArray
        get() = floatArrayOf(
            temperature, topK.toFloat(), topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty,
            penaltyWindow.toFloat(),
        )

    public companion object {
        private const val MOST = 1 shl 24 // a float counts exactly up to here

        /** The likeliest token, always: the same answer every time. */
        @JvmField
        public val GREEDY: Sampling = Sampling(temperature = 0f)
    }
}
