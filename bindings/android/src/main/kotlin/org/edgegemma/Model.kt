package org.edgegemma

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers

/** What the library is. */
public object EdgeGemma {
    /** Its version, as "major.minor.patch". */
    @JvmStatic
    public val version: String get() = Native.version().fromNative()

    /** The instructions that it uses, such as "neon_dotprod". */
    @JvmStatic
    public val isa: String get() = Native.isa().fromNative()
}

/**
 * The shape of a model.
 *
 * @property name its name, as the file has it
 * @property layers number of layers
 * @property hiddenSize numbers of a token's state
 * @property vocabSize number of tokens there are
 * @property contextLength the longest context that it was made for, in tokens
 * @property experts of a layer; 0: it has none
 * @property threads that compute
 * @property hears whether it was opened with an encoder of sound
 * @property sees whether it was opened with an encoder of pictures
 * @property hasSidecar whether it was opened with a leaner head
 * @property parameters weights in the file
 * @property decodeBytes bytes of weights that are read for one token
 * @property weightBudget bytes of weights that are in memory at once, where they do not fit the memory limit; else 0
 */
public data class ModelInfo(
    public val name: String,
    public val layers: Int,
    public val hiddenSize: Int,
    public val vocabSize: Int,
    public val contextLength: Int,
    public val experts: Int,
    public val threads: Int,
    public val hears: Boolean,
    public val sees: Boolean,
    public val hasSidecar: Boolean,
    public val parameters: Long,
    public val decodeBytes: Long,
    public val weightBudget: Long,
)

/**
 * Memory in bytes.
 *
 * @property mapped of the files in the address space; the system may drop these pages at will
 * @property resident of [mapped], those in memory now; 0 where the system does not tell
 * @property tables heap of the model
 * @property kv cache of keys and values of a conversation
 * @property scratch what a conversation holds beside that
 * @property workspace activations, which calls borrow from the model
 */
public data class Memory(
    public val mapped: Long,
    public val resident: Long,
    public val tables: Long,
    public val kv: Long,
    public val scratch: Long,
    public val workspace: Long,
)

/**
 * An open model. It never changes, and any number of threads may use it.
 *
 * Weights stay in the file and are mapped, so opening takes little time and memory. Conversations and voices keep what they
 * need of the model: it may be closed before them.
 */
public class Model private constructor(pointer: Long, internal val dispatcher: CoroutineDispatcher) : AutoCloseable {
    internal val handle = NativeHandle(pointer, "model", cancel = {}, free = Native::modelClose)

    /** Its shape and name. */
    public val info: ModelInfo = readInfo()

    /** Words of 32 bits in a mask of the vocabulary, see [TokenCheck]. */
    public val maskWords: Int get() = (info.vocabSize + 31) / 32

    private fun readInfo(): ModelInfo {
        val v = LongArray(12)
        val name = arrayOfNulls<ByteArray>(1)
        handle.now { Native.modelInfo(it, v, name) }
        return ModelInfo(
            name[0].fromNative(), v[0].toInt(), v[1].toInt(), v[2].toInt(), v[3].toInt(), v[4].toInt(), v[5].toInt(),
            v[6] != 0L, v[7] != 0L, v[8] != 0L, v[9], v[10], v[11],
        )
    }

    /** What the model holds now. [Memory.kv] and [Memory.scratch] are 0. Reads a file of the system, so not for inner loops. */
    public fun memory(): Memory = memoryOf { numbers -> handle.now { Native.modelMemory(it, numbers) } }

    /** What a conversation with these options would take; fields that say nothing about it are 0. */
    public fun estimate(options: ChatOptions): Memory =
        memoryOf { numbers -> handle.now { Native.modelEstimate(it, options.context, options.kv.code, numbers) } }

    /**
     * Gives back all memory that can be read or made again: pages of the files, and work spaces that no call is using. For
     * `onTrimMemory`. Results do not change; the next call is slower. Conversations keep their caches: close those that are
     * not needed.
     */
    public fun trim(): Unit = handle.now(Native::modelTrim)

    /**
     * From now on so many threads compute, at most as many as the model was opened with; 0: all of them. For a device that
     * gets hot. Results do not change.
     */
    public fun setThreads(threads: Int): Unit = handle.now { Native.modelSetThreads(it, threads) }

    /**
     * How many soft tokens a picture of this size becomes. Throws [EdgeGemmaException] with [Status.UNSUPPORTED] if the
     * model is blind.
     */
    public fun imageTokens(width: Int, height: Int, maxTokens: Int = 0): Int =
        handle.now { Native.imageTokens(it, width, height, maxTokens) }

    /**
     * Opens a conversation. Throws [EdgeGemmaException]: with [Status.FORMAT] if tools are no JSON, or use what cannot be
     * shown.
     */
    public suspend fun chat(options: ChatOptions = ChatOptions()): Chat {
        val numbers = intArrayOf(
            options.context, options.kv.code, options.overflow.code, options.maxTokens,
            if (options.thinking) 1 else 0, if (options.emptyThought) 1 else 0,
        )
        val system = options.system?.toNative()
        val tools = options.tools?.toNative()
        val stops = options.stops.map { it.toNative() }.toTypedArray()
        return opened(dispatcher) { handle.now { Chat(this, Native.chatOpen(it, numbers, system, tools, stops)) } }
    }

    /**
     * Opens a voice, which reads its request. Throws [EdgeGemmaException]: with
     * [Status.UNSUPPORTED] if the model was opened without an encoder of sound.
     *
     * @param chat answers what was said; null: the words alone are wanted. The voice and the conversation take turns, so
     *   both may be used at any time.
     */
    public suspend fun voice(chat: Chat? = null, options: VoiceOptions = VoiceOptions()): Voice {
        val numbers = floatArrayOf(options.silence, options.pause, options.minSpeech, options.maxSeconds, options.partial)
        val request = options.request?.toNative()
        val detector = options.detector?.let { DetectorBridge(it) }
        return Voice.open(this, chat) { model, conversation ->
            Native.voiceOpen(model, conversation, options.context, request, numbers, detector)
        }
    }

    /**
     * Gives the model up. Its memory is freed when its last conversation and voice are closed. A call that is running comes
     * to its end first. A second call does nothing.
     */
    override fun close(): Unit = handle.close()

    public companion object {
        /**
         * Opens a model, with its encoders if [options] name them.
         *
         * Throws [EdgeGemmaException]: [Status.FILE] if a file cannot be read, [Status.FORMAT] if it is damaged or another
         * kind of file, [Status.UNSUPPORTED] if it needs a later version.
         *
         * @param dispatcher where all calls run that compute; each of them blocks a thread for as long as it takes
         */
        public suspend fun open(
            file: ModelFile,
            options: ModelOptions = ModelOptions(),
            dispatcher: CoroutineDispatcher = Dispatchers.IO,
        ): Model {
            val files = listOf(file, options.encoders, options.sidecar)
            val paths = files.map { (it as? ModelFile.Path)?.path?.toNative() }.toTypedArray()
            val places = LongArray(9)
            for ((i, place) in files.withIndex()) {
                if (place !is ModelFile.Descriptor) continue
                require(place.offset >= 0 && place.length >= 0 && (i == 0 || place.length > 0)) {
                    "The place of a file in a descriptor needs an offset of 0 or more, and a length."
                }
                places[3 * i] = place.fd.toLong()
                places[3 * i + 1] = place.offset
                places[3 * i + 2] = place.length
            }
            val log = arrayOfNulls<ByteArray>(1)
            val model = opened(dispatcher) {
                val flags = booleanArrayOf(!options.useSidecar, !options.handleDiskFailures)
                Model(Native.modelOpen(paths, places, flags, options.threads, options.memoryLimit, log), dispatcher)
            }
            try {
                log[0].fromNative().lines().filter { it.isNotEmpty() }.forEach { options.log?.invoke(it) }
            } catch (e: Throwable) {
                model.close()
                throw e
            }
            return model
        }
    }
}

internal inline fun memoryOf(read: (LongArray) -> Unit): Memory {
    val v = LongArray(6)
    read(v)
    return Memory(v[0], v[1], v[2], v[3], v[4], v[5])
}
