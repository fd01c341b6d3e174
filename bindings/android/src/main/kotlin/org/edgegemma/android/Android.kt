package org.edgegemma.android

import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.AssetFileDescriptor
import android.content.res.AssetManager
import android.content.res.Configuration
import android.graphics.Bitmap
import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import org.edgegemma.Image
import org.edgegemma.Model
import org.edgegemma.ModelFile
import org.edgegemma.ModelOptions

/**
 * The place of an asset in the application's package. The asset must be stored uncompressed: `androidResources { noCompress
 * += "gguf" }`.
 */
public fun AssetFileDescriptor.toModelFile(): ModelFile =
    ModelFile.Descriptor(parcelFileDescriptor.fd, startOffset, length)

/**
 * Opens a model of the application's assets, which are mapped where they lie, without a copy. Throws
 * `java.io.FileNotFoundException` if there is no such asset or it is compressed, and what [Model.open] throws.
 *
 * @param model name of the asset
 * @param encoders name of the asset with the encoders; null: none
 * @param options everything else; its files are not used
 */
public suspend fun Model.Companion.openAsset(
    assets: AssetManager,
    model: String,
    encoders: String? = null,
    options: ModelOptions = ModelOptions(),
): Model = assets.openFd(model).use { file ->
    encoders?.let { assets.openFd(it) }.use { sound ->
        open(
            file.toModelFile(),
            ModelOptions(
                encoders = sound?.toModelFile(),
                useSidecar = false,
                threads = options.threads,
                memoryLimit = options.memoryLimit,
                handleDiskFailures = options.handleDiskFailures,
                log = options.log,
            ),
        )
    }
}

/**
 * Calls [Model.trim] whenever Android asks for memory, or the application goes to the background. Closing what is returned
 * ends that; the model may be closed before.
 */
public fun Model.trimWhenAsked(context: Context): AutoCloseable {
    val callbacks = object : ComponentCallbacks2 {
        override fun onTrimMemory(level: Int) {
            @Suppress("DEPRECATION") // Android 14 and later send higher levels only
            if (level >= ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL) trimIfOpen()
        }

        @Deprecated("Android 14 and later do not call it.")
        override fun onLowMemory() = trimIfOpen()

        override fun onConfigurationChanged(configuration: Configuration) = Unit

        private fun trimIfOpen() {
            try {
                trim()
            } catch (_: IllegalStateException) {
                // The model is closed.
            }
        }
    }
    val application = context.applicationContext
    application.registerComponentCallbacks(callbacks)
    return AutoCloseable { application.unregisterComponentCallbacks(callbacks) }
}

/** The pixels of a bitmap, copied. A bitmap of the configuration HARDWARE must be copied to another one first. */
public fun Bitmap.toImage(maxTokens: Int = 0): Image {
    val pixels = IntArray(width * height)
    getPixels(pixels, 0, width, 0, 0, width, height)
    return Image.fromPixels(pixels, width, height, maxTokens)
}

private const val RATE = 16_000
private const val BLOCK = 320 // 20 ms

/**
 * The microphone, for [org.edgegemma.Voice.listen]: blocks of 20 ms, 16 kHz mono, recorded while the flow is collected. The
 * application must have been granted `android.permission.RECORD_AUDIO`. Throws [IllegalStateException] where there is no
 * microphone, it is in use, or it may not be used.
 *
 * @param source of `MediaRecorder.AudioSource`
 */
public fun microphone(source: Int = MediaRecorder.AudioSource.VOICE_RECOGNITION): Flow<FloatArray> = flow {
    val encoding = AudioFormat.ENCODING_PCM_FLOAT
    val least = AudioRecord.getMinBufferSize(RATE, AudioFormat.CHANNEL_IN_MONO, encoding)
    check(least > 0) { "There is no microphone with 16 kHz." }
    val record = AudioRecord(source, RATE, AudioFormat.CHANNEL_IN_MONO, encoding, maxOf(least, RATE * Float.SIZE_BYTES))
    try {
        check(record.state == AudioRecord.STATE_INITIALIZED) { "The microphone cannot be used: is RECORD_AUDIO granted?" }
        record.startRecording()
        while (true) {
            val block = FloatArray(BLOCK)
            val n = record.read(block, 0, BLOCK, AudioRecord.READ_BLOCKING)
            check(n >= 0) { "The microphone has failed with the code $n." }
            emit(if (n == BLOCK) block else block.copyOf(n))
        }
    } finally {
        record.release()
    }
}.flowOn(Dispatchers.IO)
