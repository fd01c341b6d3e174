package org.edgegemma.sample

import android.Manifest
import android.app.Activity
import android.content.pm.PackageManager
import android.os.Bundle
import android.widget.ScrollView
import android.widget.TextView
import java.io.File
import java.text.DateFormat
import java.util.Date
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import org.edgegemma.AnswerEvent
import org.edgegemma.Chat
import org.edgegemma.ChatOptions
import org.edgegemma.EdgeGemmaException
import org.edgegemma.Model
import org.edgegemma.ModelFile
import org.edgegemma.ModelOptions
import org.edgegemma.Voice
import org.edgegemma.VoiceEvent
import org.edgegemma.android.microphone
import org.edgegemma.android.trimWhenAsked

/**
 * Listens while it is on the screen, and shows what was said and what the model answers. The model and its encoders lie in
 * the application's folder as `model.gguf` and `encoders.gguf`; `adb push` puts them there.
 */
class TalkActivity : Activity() {
    private val scope: CoroutineScope = MainScope()
    private val lines = mutableListOf("Opening the model ...")
    private lateinit var view: TextView
    private var model: Model? = null
    private var chat: Chat? = null
    private var voice: Voice? = null
    private var trimming: AutoCloseable? = null
    private var listening: Job? = null
    private var started = false

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        view = TextView(this).apply { setTextSize(20f) }
        setContentView(ScrollView(this).apply { addView(view) })
        show()
        if (!mayRecord()) requestPermissions(arrayOf(Manifest.permission.RECORD_AUDIO), 0)
        scope.launch {
            reporting { open() }
            listen()
        }
    }

    private suspend fun open() {
        val folder = getExternalFilesDir(null) ?: filesDir
        val opened = Model.open(
            ModelFile.Path(File(folder, "model.gguf").path),
            ModelOptions(encoders = ModelFile.Path(File(folder, "encoders.gguf").path)),
        )
        model = opened
        trimming = opened.trimWhenAsked(this)
        val conversation = opened.chat(ChatOptions(system = "You are brief. Answers are spoken aloud.", tools = TOOLS))
        chat = conversation
        voice = opened.voice(conversation)
        lines[0] = "Speak."
        show()
    }

    /** Begins to listen once everything is there: the model, the permission, and somebody who looks. */
    private fun listen() {
        val ear = voice ?: return
        if (!started || !mayRecord() || listening?.isActive == true) return
        listening = scope.launch {
            reporting { ear.listen(microphone(), runTool = ::runTool).collect(::show) }
        }
    }

    private fun runTool(call: AnswerEvent.Call): String = when (call.name) {
        "get_time" -> "\"${DateFormat.getTimeInstance(DateFormat.SHORT).format(Date())}\""
        else -> "{\"error\": \"There is no such tool.\"}"
    }

    private fun show(event: VoiceEvent) {
        when (event) {
            is VoiceEvent.Speech -> lines += ""
            is VoiceEvent.Partial -> lines[lines.lastIndex] = event.text + " ..."
            is VoiceEvent.Words -> {
                lines.removeAt(lines.lastIndex)
                if (event.text.isNotEmpty()) lines += event.text
            }
            is VoiceEvent.Answer -> {
                val text = (event.event as? AnswerEvent.Text)?.text ?: return
                if (!lines.last().startsWith(ANSWER)) lines += ANSWER
                lines[lines.lastIndex] += text
            }
            else -> Unit
        }
        show()
    }

    private fun show() {
        while (lines.size > 100) lines.removeAt(0)
        view.setText(lines.joinToString("\n"))
    }

    private suspend fun reporting(block: suspend () -> Unit) {
        try {
            block()
        } catch (e: EdgeGemmaException) {
            lines += "Error: ${e.message}"
        } catch (e: IllegalStateException) {
            if (e is kotlin.coroutines.cancellation.CancellationException) throw e
            lines += "Error: ${e.message}"
        }
        show()
    }

    private fun mayRecord(): Boolean =
        checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED

    override fun onRequestPermissionsResult(code: Int, permissions: Array<String>, results: IntArray) {
        super.onRequestPermissionsResult(code, permissions, results)
        listen()
    }

    override fun onStart() {
        super.onStart()
        started = true
        listen()
    }

    /** The microphone rests while nobody looks; the conversation stays. */
    override fun onStop() {
        started = false
        listening?.cancel()
        super.onStop()
    }

    override fun onDestroy() {
        scope.cancel()
        trimming?.close()
        chat?.close() // closes the voice as well
        model?.close()
        super.onDestroy()
    }

    private companion object {
        const val ANSWER = "> "
        const val TOOLS = """[{"name": "get_time", "description": "The time of day"}]"""
    }
}
