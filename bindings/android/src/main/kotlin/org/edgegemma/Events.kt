package org.edgegemma

/** Why an answer has ended. */
public enum class Stop(internal val code: Int) {
    /** The model ended the text. */
    EOS(1),

    /** The model ended its turn. */
    TURN(2),

    /** The model waits for the results of tools. */
    TOOL_RESPONSE(3),

    /** One of [ChatOptions.stops]. */
    TEXT(4),

    /** [ChatOptions.maxTokens], or the context is full. */
    LENGTH(5),

    /** It was cancelled, or somebody spoke meanwhile. */
    CANCELLED(6),

    /** A reason that this version does not know. */
    UNKNOWN(-1),
}

/** What an answer is made of. */
public sealed interface AnswerEvent {
    /** A piece of the answer. */
    public data class Text(public val text: String) : AnswerEvent

    /** A piece of a thought. */
    public data class Thought(public val text: String) : AnswerEvent

    /**
     * The model calls a tool.
     *
     * @property name of the tool; there need not be such a tool
     * @property arguments a JSON object as the model wrote it; nobody has checked it against the declaration
     */
    public data class Call(public val name: String, public val arguments: String) : AnswerEvent

    /**
     * A call that was cut off or cannot be read. It must not be run, but wants a result all the same.
     *
     * @property name of the tool, or ""
     * @property text the call as it is written
     * @property problem why it is broken
     */
    public data class BrokenCall(public val name: String, public val text: String, public val problem: String) : AnswerEvent

    /**
     * The answer has ended, and is in the history.
     *
     * @property stop why
     * @property text the whole answer, without thoughts and calls
     */
    public data class Done(public val stop: Stop, public val text: String) : AnswerEvent
}

/** What a voice tells. Times are in seconds of sound since the voice was opened. */
public sealed interface VoiceEvent {
    /** A piece of work was done, and there is nothing to tell yet. [Voice.listen] leaves it out. */
    public data object Working : VoiceEvent

    /** Somebody began to speak at this time. */
    public data class Speech(public val time: Double) : VoiceEvent

    /** The words so far; each of these events replaces those before it. */
    public data class Partial(public val text: String) : VoiceEvent

    /** The speaker is silent since this time, perhaps for good. */
    public data class Pause(public val time: Double) : VoiceEvent

    /** The speaker goes on. */
    public data class Resume(public val time: Double) : VoiceEvent

    /** The turn is over: all of its words; "" if there were none, and then there is no answer. */
    public data class Words(public val text: String) : VoiceEvent

    /** A part of the answer. With [AnswerEvent.Done] the turn is done. */
    public data class Answer(public val event: AnswerEvent) : VoiceEvent
}

/**
 * An event of an answer: its kind and stop at `numbers[first]`, and its texts; null: there is none, or one of a later version.
 */
internal fun answerEvent(numbers: LongArray, first: Int, texts: Array<ByteArray?>): AnswerEvent? {
    val text = texts[0].fromNative()
    return when (numbers[first].toInt()) {
        1 -> AnswerEvent.Text(text)
        2 -> AnswerEvent.Thought(text)
        3 -> AnswerEvent.Call(texts[1].fromNative(), texts[2].fromNative())
        4 -> AnswerEvent.BrokenCall(texts[1].fromNative(), text, texts[3].fromNative())
        5 -> AnswerEvent.Done(Stop.entries.firstOrNull { it.code == numbers[first + 1].toInt() } ?: Stop.UNKNOWN, text)
        else -> null
    }
}

/** The result that a broken call gets. */
internal fun problemAsResult(problem: String): String {
    val escaped = StringBuilder()
    for (c in problem) {
        when {
            c == '"' || c == '\\' -> escaped.append('\\').append(c)
            c < ' ' -> escaped.append("\\u%04x".format(c.code))
            else -> escaped.append(c)
        }
    }
    return "{\"error\": \"$escaped\"}"
}
