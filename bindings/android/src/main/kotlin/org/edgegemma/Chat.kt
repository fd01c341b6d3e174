package org.edgegemma

import java.nio.Buffer
import java.nio.FloatBuffer
import java.util.concurrent.CopyOnWriteArrayList
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.FlowCollector
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext

/** A part of a user's message. */
public sealed interface Part {
    /** Text, which never becomes a control token whatever it looks like. */
    public data class Text(public val text: String) : Part

    /** A picture; the model must have been opened with an encoder that sees. */
    public class Picture(public val image: Image) : Part

    /** Samples, 16 kHz mono in -1..1, from the beginning of a direct buffer to its limit; the model must hear. */
    public class Sound(public val samples: FloatBuffer) : Part {
        init {
            require(samples.isDirect && samples.limit() > 0) { "The samples must be in a direct buffer, and more than none." }
        }
    }
}

/** Runs a tool that the model has called, and returns the result as JSON. What it throws ends the flow that has called it. */
public typealias ToolRunner = suspend (AnswerEvent.Call) -> String

/**
 * A conversation: instructions, tools, and a history of messages. Made by [Model.chat].
 *
 * Any coroutine may use it; calls wait for each other. An answer is a cold [Flow]: collecting it begins the answer, and each
 * event is computed when the collector asks for it. When the collection ends early, because its coroutine was cancelled or
 * by an operator such as `take`, the answer ends there, and what was said stays in the history.
 *
 * Functions throw [IllegalStateException] after [close], and [EdgeGemmaException] where the library refuses.
 */
public class Chat internal constructor(private val model: Model, pointer: Long) : AutoCloseable {
    internal val handle = NativeHandle(pointer, "conversation", cancel = Native::chatCancel, free = Native::chatClose)

    /** Held during each call, also of voices that use this conversation. */
    internal val turn = Mutex()
    private val voices = CopyOnWriteArrayList<Voice>()

    private suspend fun <T> call(block: (Long) -> T): T = turn.withLock { handle.call(model.dispatcher, block) }

    /** Appends what the user says. */
    public suspend fun addUser(text: String): Unit = add("user", text)

    /** Appends what the model is to have said before. */
    public suspend fun addAssistant(text: String): Unit = add("assistant", text)

    private suspend fun add(role: String, text: String) {
        val bytes = text.toNative()
        call { Native.chatAddText(it, role.toNative(), bytes) }
    }

    /** Appends a user's message of several parts. Pictures and sounds are copied. */
    public suspend fun addUser(parts: List<Part>) {
        val texts = arrayOfNulls<ByteArray>(parts.size)
        val buffers = arrayOfNulls<Buffer>(parts.size)
        val shapes = IntArray(SHAPE * parts.size)
        for ((i, part) in parts.withIndex()) {
            when (part) {
                is Part.Text -> texts[i] = part.text.toNative()
                is Part.Picture -> {
                    val image = part.image
                    buffers[i] = image.rgb
                    intArrayOf(image.width, image.height, image.stride, image.maxTokens).copyInto(shapes, SHAPE * i)
                }
                is Part.Sound -> {
                    buffers[i] = part.samples
                    shapes[SHAPE * i + SHAPE - 1] = part.samples.limit()
                }
            }
        }
        call { Native.chatAddParts(it, texts, buffers, shapes) }
    }

    /**
     * Appends the result of a tool that the last answer has called: one for each call, in their order.
     *
     * @param name of the tool
     * @param json the result, JSON of any type
     */
    public suspend fun addResult(name: String, json: String) {
        val (first, second) = name.toNative() to json.toNative()
        call { Native.chatAddResult(it, first, second) }
    }

    /** Appends a message as [messages] gives it: so a history is restored. */
    public suspend fun addJson(json: String) {
        val bytes = json.toNative()
        call { Native.chatAddJson(it, bytes) }
    }

    /** The history, each message as JSON text. Pictures and sounds are numbers there, and cannot be restored. */
    public suspend fun messages(): List<String> =
        call { chat -> List(Native.chatCount(chat)) { Native.chatGet(chat, it).fromNative() } }

    /** Number of messages in the history. */
    public suspend fun count(): Int = call(Native::chatCount)

    /** Shortens the history to its first [n] messages; 0: the conversation begins anew. */
    public suspend fun truncate(n: Int) {
        require(n >= 0) { "A history has no $n messages." }
        call { Native.chatTruncate(it, n) }
    }

    /** Replaces the instructions; null: none. The next answer reads the whole conversation again. */
    public suspend fun setSystem(system: String?) {
        val bytes = system?.toNative()
        call { Native.chatSetSystem(it, bytes) }
    }

    /** The same seed and the same calls after it give the same text on every device. */
    public suspend fun seed(seed: Long): Unit = call { Native.chatSeed(it, seed) }

    /** Who goes first where several conversations compute at the same time: the higher one, -1000 to 1000. 0 at first. */
    public suspend fun setPriority(priority: Int): Unit = call { Native.chatSetPriority(it, priority) }

    /** The prompt of the next answer, control tokens written out. For those who look for a mistake. */
    public suspend fun prompt(): String = call { Native.chatPrompt(it).fromNative() }

    /** The tokens that the model has read and written; -1 stands for one of a picture or of sound. */
    public suspend fun tokens(): IntArray = call(Native::chatTokens)

    /**
     * The answer to the last message, which is the user's or a tool's.
     *
     * Collecting throws [EdgeGemmaException]: with [Status.STATE] if there is no message to answer, with [Status.CONTEXT] if
     * the conversation does not fit and is not allowed to forget ([ChatOptions.overflow]).
     *
     * @param sampling how tokens are drawn
     * @param runTool runs the tools that are called; their results are appended, and the flow goes on with the next answer.
     *   null: the flow ends with [AnswerEvent.Done], and the collector appends the results ([addResult]) and asks for the
     *   next answer
     */
    public fun answer(sampling: Sampling = Sampling(), runTool: ToolRunner? = null): Flow<AnswerEvent> = flow {
        do {
            val calls = Calls()
            answerOnce(sampling, calls)
        } while (runTool != null && calls.run(this@Chat, runTool))
    }

    /** Appends what the user says, and answers: [addUser] and [answer]. The message is appended when the flow is collected. */
    public fun send(text: String, sampling: Sampling = Sampling(), runTool: ToolRunner? = null): Flow<AnswerEvent> =
        send(listOf(Part.Text(text)), sampling, runTool)

    /** The same with pictures and sounds. */
    public fun send(parts: List<Part>, sampling: Sampling = Sampling(), runTool: ToolRunner? = null): Flow<AnswerEvent> = flow {
        val text = parts.singleOrNull() as? Part.Text
        if (text != null) addUser(text.text) else addUser(parts)
        answer(sampling, runTool).collect { emit(it) }
    }

    private suspend fun FlowCollector<AnswerEvent>.answerOnce(sampling: Sampling, calls: Calls) {
        var done = false
        try {
            turn.withLock { handle.cancellable(model.dispatcher) { Native.chatBegin(it) } }
            while (!done) {
                val event = next(sampling) ?: continue
                done = event is AnswerEvent.Done
                calls.note(event)
                emit(event)
            }
        } finally {
            if (!done) withContext(NonCancellable) { abandon() }
        }
    }

    private suspend fun next(sampling: Sampling): AnswerEvent? {
        val numbers = LongArray(2)
        val texts = arrayOfNulls<ByteArray>(4)
        val how = sampling.numbers
        turn.withLock {
            handle.cancellable(model.dispatcher) {
                Native.chatNext(it, how, sampling.mask, sampling.check, model.maskWords, numbers, texts)
            }
        }
        return answerEvent(numbers, 0, texts)
    }

    /** Ends the answer, and uses up a request to cancel that came too late for the call it was meant for. */
    private suspend fun abandon() {
        turn.withLock { if (!handle.isClosed) runCatching { handle.call(model.dispatcher) { Native.chatAbandon(it) } } }
    }

    internal fun attach(voice: Voice) {
        voices += voice
    }

    internal fun detach(voice: Voice) {
        voices -= voice
    }

    /**
     * Frees the conversation, and closes the voices that it answers. If a call is running on another thread, that call is
     * cancelled, and the conversation is freed when it has returned: this function does not wait. A second call does nothing.
     */
    override fun close() {
        voices.forEach { it.close() }
        handle.close()
    }

    private companion object {
        const val SHAPE = 5
    }
}

/** The calls of an answer, until it is done and they are run. */
internal class Calls {
    private val waiting = mutableListOf<AnswerEvent>()
    private var stop: Stop? = null

    fun note(event: AnswerEvent) {
        if (event is AnswerEvent.Call || event is AnswerEvent.BrokenCall) waiting += event
        if (event is AnswerEvent.Done) stop = event.stop
    }

    /** Runs the tools and appends their results. False: there is nothing to go on with. */
    suspend fun run(chat: Chat, runTool: ToolRunner): Boolean {
        val calls = waiting.toList()
        waiting.clear()
        if (stop == Stop.CANCELLED) return false
        for (call in calls) {
            when (call) {
                is AnswerEvent.Call -> chat.addResult(call.name, runTool(call))
                is AnswerEvent.BrokenCall -> chat.addResult(call.name, problemAsResult(call.problem))
                else -> Unit
            }
        }
        return calls.isNotEmpty()
    }
}
