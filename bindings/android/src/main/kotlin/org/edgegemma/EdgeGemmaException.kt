package org.edgegemma

/** What kind of thing went wrong; the numbers are those of `eg_status`. */
public enum class Status(internal val code: Int) {
    /** A parameter is out of its range. */
    ARGUMENT(1),

    /** The system could not open, map or read a file. */
    FILE(2),

    /** A file, or JSON, is damaged, foreign, or lacks something. */
    FORMAT(3),

    /** The model cannot do this, such as hear, or a file uses something that this version does not know. */
    UNSUPPORTED(4),

    /** There is no memory. */
    MEMORY(5),

    /** The context is full. */
    CONTEXT(6),

    /** This is not possible now, such as an answer where nothing was asked. */
    STATE(7),

    /** The call was cancelled by something other than its coroutine. */
    CANCELLED(8),

    /** A later version of the library has told a number that this one does not know. */
    UNKNOWN(-1),
}

/**
 * The library has refused something.
 *
 * @property status what kind of thing went wrong
 * @property message a sentence that says what is wrong and what to do
 */
public class EdgeGemmaException(public val status: Status, override val message: String) : RuntimeException(message) {
    /** For the library, which finds it by its signature. */
    internal constructor(code: Int, sentence: ByteArray) :
        this(Status.entries.firstOrNull { it.code == code } ?: Status.UNKNOWN, sentence.decodeToString())
}
