package org.edgegemma

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.IntBuffer

/**
 * The native methods of libedge_gemma_jni. Texts are UTF-8 bytes, objects are pointers. Nothing is checked on this side of
 * JNI but buffers: [NativeHandle] sees to it that no call meets an object that is closed.
 *
 * The property `edgegemma.library` names the file of the library where it is not found by its name, as on a computer.
 */
internal object Native {
    init {
        val file = System.getProperty("edgegemma.library")
        if (file != null) System.load(file) else System.loadLibrary("edge_gemma_jni")
    }

    @JvmStatic external fun version(): ByteArray
    @JvmStatic external fun isa(): ByteArray

    @JvmStatic external fun modelOpen(
        paths: Array<ByteArray?>, places: LongArray, flags: BooleanArray, threads: Int, memoryLimit: Long,
        log: Array<ByteArray?>,
    ): Long
    @JvmStatic external fun modelClose(model: Long)
    @JvmStatic external fun modelTrim(model: Long)
    @JvmStatic external fun modelSetThreads(model: Long, threads: Int)
    @JvmStatic external fun modelInfo(model: Long, numbers: LongArray, name: Array<ByteArray?>)
    @JvmStatic external fun modelMemory(model: Long, numbers: LongArray)
    @JvmStatic external fun modelEstimate(model: Long, context: Int, kv: Int, numbers: LongArray)
    @JvmStatic external fun imageTokens(model: Long, width: Int, height: Int, maxTokens: Int): Int

    @JvmStatic external fun chatOpen(
        model: Long, numbers: IntArray, system: ByteArray?, tools: ByteArray?, stops: Array<ByteArray>,
    ): Long
    @JvmStatic external fun chatClose(chat: Long)
    @JvmStatic external fun chatCancel(chat: Long)
    @JvmStatic external fun chatSeed(chat: Long, seed: Long)
    @JvmStatic external fun chatSetPriority(chat: Long, priority: Int)
    @JvmStatic external fun chatAddText(chat: Long, role: ByteArray, text: ByteArray)
    @JvmStatic external fun chatAddParts(chat: Long, texts: Array<ByteArray?>, buffers: Array<Buffer?>, shapes: IntArray)
    @JvmStatic external fun chatAddResult(chat: Long, name: ByteArray, json: ByteArray)
    @JvmStatic external fun chatAddJson(chat: Long, json: ByteArray)
    @JvmStatic external fun chatSetSystem(chat: Long, system: ByteArray?)
    @JvmStatic external fun chatCount(chat: Long): Int
    @JvmStatic external fun chatGet(chat: Long, index: Int): ByteArray?
    @JvmStatic external fun chatTruncate(chat: Long, n: Int)
    @JvmStatic external fun chatPrompt(chat: Long): ByteArray
    @JvmStatic external fun chatTokens(chat: Long): IntArray
    @JvmStatic external fun chatBegin(chat: Long)
    @JvmStatic external fun chatAbandon(chat: Long)
    @JvmStatic external fun chatNext(
        chat: Long, sampling: FloatArray?, mask: IntBuffer?, check: TokenCheck?, words: Int, event: LongArray,
        texts: Array<ByteArray?>,
    )

    @JvmStatic external fun voiceOpen(
        model: Long, chat: Long, context: Int, request: ByteArray?, numbers: FloatArray, detector: DetectorBridge?,
    ): Long
    @JvmStatic external fun voiceClose(voice: Long)
    @JvmStatic external fun voiceCancel(voice: Long)
    @JvmStatic external fun voicePush(voice: Long, samples: FloatBuffer, first: Int, n: Int)
    @JvmStatic external fun voiceFinish(voice: Long)
    @JvmStatic external fun voiceAbandon(voice: Long)
    @JvmStatic external fun voiceAnswer(voice: Long)
    @JvmStatic external fun voiceStep(
        voice: Long, chat: Long, sampling: FloatArray?, mask: IntBuffer?, check: TokenCheck?, words: Int, event: LongArray,
        texts: Array<ByteArray?>,
    )
}

/** Called by the library with blocks of 512 samples. */
internal class DetectorBridge(private val detector: SpeechDetector) {
    fun detect(block: ByteBuffer): Float =
        detector.probability(block.order(java.nio.ByteOrder.nativeOrder()).asFloatBuffer().asReadOnlyBuffer())
}

/** UTF-8 for the library, whose texts end at a zero. */
internal fun String.toNative(): ByteArray {
    require('\u0000' !in this) { "The text has a character U+0000, which the library takes for its end." }
    return encodeToByteArray()
}

internal fun ByteArray?.fromNative(): String = this?.decodeToString() ?: ""
