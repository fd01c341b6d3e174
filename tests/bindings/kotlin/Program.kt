/* What tests/bindings/test_kotlin.py runs on a JVM. The first argument names the part. */
package org.edgegemma.tests

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.IntBuffer
import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.asFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.edgegemma.AnswerEvent
import org.edgegemma.Chat
import org.edgegemma.ChatOptions
import org.edgegemma.EdgeGemma
import org.edgegemma.EdgeGemmaException
import org.edgegemma.Image
import org.edgegemma.Model
import org.edgegemma.ModelFile
import org.edgegemma.ModelOptions
import org.edgegemma.Part
import org.edgegemma.Sampling
import org.edgegemma.SpeechDetector
import org.edgegemma.Status
import org.edgegemma.Stop
import org.edgegemma.TokenCheck
import org.edgegemma.Voice
import org.edgegemma.VoiceEvent
import org.edgegemma.VoiceOptions

class Files(arguments: List<String>) {
    val model = arguments[0]
    val encoders = arguments[1]
    val tools = File(arguments[2]).readText()
    val system = arguments[3]
    val samples: FloatArray = ByteBuffer.wrap(File(arguments[4]).readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        .let { buffer -> FloatArray(buffer.remaining()).also { buffer.get(it) } }
    val blocks: List<FloatArray> = samples.asList().chunked(320) { it.toFloatArray() }

    // -Xcheck:jni warns of a handler of SIGBUS, which the JVM has for itself.
    suspend fun open() =
        Model.open(
            ModelFile.Path(model),
            ModelOptions(encoders = ModelFile.Path(encoders), threads = 2, handleDiskFailures = false),
        )
    fun options(context: Int = 2048) = ChatOptions(context = context, tools = tools, system = system)
}

/** The same lines as tests/c/use_voice.c. */
suspend fun voice(files: Files) {
    val model = files.open()
    val chat = model.chat(files.options())
    val voice = model.voice(chat)
    model.close() // conversation and voice keep it
    hear(voice, chat, files, false)
    println("tokens " + chat.tokens().joinToString(" "))
    chat.truncate(0) // a conversation of its own
    hear(voice, chat, files, true)
    voice.close()
    chat.close()
}

suspend fun hear(voice: Voice, chat: Chat, files: Files, cancel: Boolean) {
    for (block in files.blocks) {
        voice.push(block)
        act(voice, chat, cancel)
    }
    voice.finish()
    act(voice, chat, cancel)
}

suspend fun act(voice: Voice, chat: Chat, cancel: Boolean) {
    var called: String? = null
    while (true) {
        val event = voice.step(Sampling.GREEDY) ?: return
        when (event) {
            is VoiceEvent.Speech -> println("speech")
            is VoiceEvent.Partial -> println("partial ${event.text}")
            is VoiceEvent.Pause -> println("pause")
            is VoiceEvent.Words -> println("words ${event.text}")
            else -> Unit
        }
        val answer = (event as? VoiceEvent.Answer)?.event ?: continue
        if (answer is AnswerEvent.Call) println("call ${answer.name} ${answer.arguments}")
        if (answer is AnswerEvent.Call) called = answer.name
        if (answer is AnswerEvent.Done) println("done ${answer.stop.ordinal + 1} ${answer.text}")
        if (cancel && answer is AnswerEvent.Text) voice.cancel()
        if (answer !is AnswerEvent.Done || called == null) continue
        chat.addResult(called, "\"done\"")
        voice.answer()
        called = null
    }
}

/** The flow over the same sound: what was said, what was called, the last answer, and the tokens. */
suspend fun listen(files: Files) {
    files.open().use { model ->
        model.chat(files.options()).use { chat ->
            val voice = model.voice(chat)
            val called = mutableListOf<String>()
            voice.listen(files.blocks.asFlow(), Sampling.GREEDY) { call ->
                called += "${call.name} ${call.arguments}"
                "\"done\""
            }.collect { event ->
                if (event is VoiceEvent.Words) println("words ${event.text}")
                val answer = (event as? VoiceEvent.Answer)?.event
                if (answer is AnswerEvent.Done) println("done ${answer.stop.ordinal + 1} ${answer.text}")
            }
            called.forEach { println("call $it") }
            println("tokens " + chat.tokens().joinToString(" "))

            // A collection that ends early drops the turn; the next one is as if it had not been.
            val before = chat.messages()
            val early = voice.listen(files.blocks.asFlow(), Sampling.GREEDY).take(1).toList()
            check(early.single() is VoiceEvent.Speech) { early }
            check(chat.messages() == before)
            chat.truncate(0)
            val again = voice.listen(files.blocks.asFlow(), Sampling.GREEDY).toList()
            println("again " + again.filterIsInstance<VoiceEvent.Words>().joinToString { it.text })

            // So is one whose coroutine is cancelled while the sound flows.
            chat.truncate(0)
            runBlocking {
                val spoke = CompletableDeferred<Unit>()
                val job = launch(Dispatchers.Default) {
                    val endless = flow { while (true) files.blocks.forEach { emit(it) } }
                    voice.listen(endless, Sampling.GREEDY).collect { spoke.complete(Unit) }
                }
                spoke.await()
                withTimeout(60_000) { job.cancelAndJoin() }
                check(job.isCancelled)
            }
            chat.truncate(0)
            val last = voice.listen(files.blocks.asFlow(), Sampling.GREEDY).toList()
            println("again " + last.filterIsInstance<VoiceEvent.Words>().joinToString { it.text })

            // Sound that fails ends the flow with its own exception.
            val broken = runCatching { voice.listen(flow { error("unplugged") }).toList() }.exceptionOrNull()
            check(broken is IllegalStateException && broken.message == "unplugged") { "$broken" }
        }
    }
}

suspend fun <E : Throwable> fails(type: Class<E>, block: suspend () -> Unit): E {
    try {
        block()
    } catch (e: Throwable) {
        check(type.isInstance(e)) { e.stackTraceToString() }
        return type.cast(e)
    }
    error("nothing was thrown")
}

suspend fun refuses(status: Status, block: suspend () -> Unit): String {
    val e = fails(EdgeGemmaException::class.java, block)
    check(e.status == status && e.message.endsWith(".")) { "${e.status}: ${e.message}" }
    return e.message
}

suspend fun errors(files: Files) {
    println("version ${EdgeGemma.version} ${EdgeGemma.isa}")
    val plain = ModelOptions(handleDiskFailures = false)
    val path = "/nowhere/Grüße 🐴.gguf"
    check(path in refuses(Status.FILE) { Model.open(ModelFile.Path(path), plain) })
    refuses(Status.UNSUPPORTED) { Model.open(ModelFile.Path(files.encoders), plain) }
    fails(IllegalArgumentException::class.java) { Model.open(ModelFile.Path("a\u0000b"), plain) }
    refuses(Status.FILE) { Model.open(ModelFile.Descriptor(-1, 0, 100), plain) }
    val told = mutableListOf<String>()
    Model.open(ModelFile.Path(files.model), ModelOptions(handleDiskFailures = false, log = { told += it })).use { deaf ->
        check(told.isNotEmpty() && !deaf.info.hears && !deaf.info.sees)
        refuses(Status.UNSUPPORTED) { deaf.voice() }
        refuses(Status.UNSUPPORTED) { deaf.imageTokens(640, 480) }
    }
    val model = files.open()
    refuses(Status.FORMAT) { model.chat(ChatOptions(tools = "[")) }
    val chat = model.chat(files.options())
    refuses(Status.STATE) { chat.answer().toList() }
    refuses(Status.FORMAT) { chat.addJson("{\"role\": 1}") }
    refuses(Status.FORMAT) { chat.addResult("x", "no JSON") }
    refuses(Status.ARGUMENT) { chat.setPriority(5000) }
    fails(IllegalArgumentException::class.java) { chat.truncate(-1) }
    fails(IllegalArgumentException::class.java) { chat.addUser("zero \u0000") }
    fails(IllegalArgumentException::class.java) { Sampling(mask = IntBuffer.allocate(1)) }
    val short = Image(ByteBuffer.allocateDirect(8), 2, 2)
    refuses(Status.ARGUMENT) { chat.addUser(listOf(Part.Picture(short))) }
    val text = "Grüße, 🐴 \"quoted\"\n"
    chat.addUser(text)
    check("🐴" in chat.messages().single() && "🐴" in chat.prompt())
    val kept = chat.messages()
    chat.truncate(0)
    kept.forEach { chat.addJson(it) }
    check(chat.messages() == kept)
    model.chat(ChatOptions(context = 64, overflow = org.edgegemma.Overflow.FAIL)).use { small ->
        refuses(Status.CONTEXT) { small.send("word ".repeat(200)).toList() }
    }
    val voice = model.voice(chat)
    refuses(Status.ARGUMENT) { voice.push(floatArrayOf(Float.NaN)) }
    // An exception of the application comes through the library.
    val thrown = fails(ArithmeticException::class.java) {
        val options = VoiceOptions(detector = SpeechDetector { throw ArithmeticException("detector") })
        model.voice(options = options).use { it.push(files.samples) }
    }
    check(thrown.message == "detector")
    fails(ArithmeticException::class.java) {
        chat.send("Turn on the light.", Sampling(check = TokenCheck { throw ArithmeticException("check") })).toList()
    }
    val wrong = Sampling(check = TokenCheck { ByteBuffer.allocateDirect(4).asIntBuffer() })
    refuses(Status.ARGUMENT) { chat.send("Turn on the light.", wrong).toList() }

    chat.close()
    fails(IllegalStateException::class.java) { chat.count() }
    fails(IllegalStateException::class.java) { voice.step() } // closed with its conversation
    voice.cancel()
    voice.close()
    chat.close()
    model.close()
    model.close()
    fails(IllegalStateException::class.java) { model.trim() }
    fails(IllegalStateException::class.java) { model.chat() }
}

/** Descriptors, memory, threads, masks, pictures, a detector, words without a conversation. */
suspend fun more(files: Files) {
    val file = File(files.model)
    // As an asset lies in a package: somewhere in a larger file.
    val packed = File.createTempFile("package", ".bin")
    packed.writeBytes(ByteArray(4096 + 32) + file.readBytes() + ByteArray(7))
    val stream = packed.inputStream()
    val fd = stream.fd.let { d -> d.javaClass.getDeclaredField("fd").apply { isAccessible = true }.getInt(d) }
    val model = Model.open(
        ModelFile.Descriptor(fd, 4096 + 32, file.length()),
        ModelOptions(encoders = ModelFile.Path(files.encoders), threads = 2, handleDiskFailures = false),
    )
    stream.close()
    packed.delete()
    check(model.info.hears && model.info.vocabSize > 0 && model.info.threads == 2) { model.info }
    val chat = model.chat(files.options())
    val first = chat.send("Turn on the kitchen light.", Sampling.GREEDY).toList()
    check(model.memory().mapped > 0 && model.memory().workspace > 0 && model.estimate(files.options()).kv > 0)
    model.trim()
    check(model.memory().workspace == 0L)
    model.setThreads(1)
    chat.truncate(0)
    check(chat.send("Turn on the kitchen light.", Sampling.GREEDY).toList() == first)

    // A mask that allows one token, and a check that wants the same.
    val token = chat.tokens().last()
    val mask = ByteBuffer.allocateDirect(4 * model.maskWords).order(ByteOrder.nativeOrder()).asIntBuffer()
    mask.put(token / 32, 1 shl (token % 32))
    for (sampling in listOf(Sampling(mask = mask), Sampling(check = TokenCheck { id -> mask.takeIf { id != token } }))) {
        chat.send("And now?", sampling).take(2).toList()
        check(chat.tokens().last() == token)
    }
    // The same seed says the same.
    val said = List(2) {
        chat.truncate(0)
        chat.seed(7)
        chat.send("Turn off the heating.", Sampling(temperature = 2f)).toList()
    }
    check(said[0] == said[1] && (said[0].last() as AnswerEvent.Done).stop != Stop.UNKNOWN)

    if (model.info.sees) {
        val image = Image.fromPixels(IntArray(640 * 480) { it * 7 }, 640, 480, maxTokens = 70)
        check(model.imageTokens(640, 480, 70) in 1..70)
        chat.truncate(0)
        chat.send(listOf(Part.Picture(image), Part.Text("What is this?")), Sampling.GREEDY).toList()
        check(chat.tokens().count { it == -1 } == model.imageTokens(640, 480, 70))
    }
    val direct = ByteBuffer.allocateDirect(4 * files.samples.size).order(ByteOrder.nativeOrder()).asFloatBuffer()
    direct.put(files.samples).flip()
    chat.truncate(0)
    chat.send(listOf(Part.Text("Transcribe:"), Part.Sound(direct)), Sampling.GREEDY).toList()
    check(chat.tokens().count { it == -1 } > 20)

    var asked = 0
    val detector = SpeechDetector { block ->
        asked++
        if ((0 until block.remaining()).any { block[it] > 0.02f }) 1f else 0f
    }
    model.voice(options = VoiceOptions(detector = detector, partial = -1f)).use { words ->
        val shorts = ShortArray(files.samples.size) { (files.samples[it] * 32768f).toInt().coerceIn(-32768, 32767).toShort() }
        words.push(shorts)
        words.finish()
        while (true) {
            val event = words.step() ?: break
            if (event is VoiceEvent.Words) println("words ${event.text}")
            check(event !is VoiceEvent.Partial && event !is VoiceEvent.Answer)
        }
        check(asked > 50)
        words.push(direct)
    }
    chat.close()
    model.close()
}

fun problemOf(block: suspend () -> Unit): Throwable? = runCatching { runBlocking { block() } }.exceptionOrNull()

fun stopOf(event: AnswerEvent?): Stop? = (event as? AnswerEvent.Done)?.stop

/** A prompt that takes a while, so that a call can be met while it runs. */
suspend fun long(chat: Chat) {
    chat.truncate(0)
    chat.addUser("Turn on the kitchen light and the lamp. ".repeat(200))
}

suspend fun busy(files: Files) {
    val model = files.open()
    val options = files.options(4096)
    // A cancelled coroutine ends the call that runs, and leaves nothing behind.
    val chat = model.chat(options)
    val plain = chat.send("Turn on the kitchen light.", Sampling.GREEDY).toList()
    repeat(20) { round ->
        long(chat)
        runBlocking {
            val job = launch(Dispatchers.Default) { chat.answer(Sampling.GREEDY).collect { } }
            Thread.sleep(round * 3L)
            withTimeout(60_000) { job.cancelAndJoin() }
        }
        chat.truncate(0)
        check(chat.send("Turn on the kitchen light.", Sampling.GREEDY).toList() == plain)
    }
    // An answer whose collection ends early stays in the history as far as it was told.
    val start = chat.count()
    val first = chat.send("Turn on the lamp.", Sampling.GREEDY).take(1).toList()
    check(first.size == 1 && chat.count() <= start + 2)
    chat.close()

    // Close meets a call on another thread.
    repeat(20) { round ->
        val other = model.chat(options)
        long(other)
        val began = CountDownLatch(1)
        var end: Result<AnswerEvent>? = null
        val worker = thread {
            end = runCatching { runBlocking { began.countDown(); other.answer(Sampling.GREEDY).toList().last() } }
        }
        began.await()
        Thread.sleep(round * 3L)
        other.close()
        worker.join(60_000)
        check(!worker.isAlive)
        val problem = end?.exceptionOrNull()
        val closed = problem is IllegalStateException && "closed" in problem.message.orEmpty()
        check(closed || stopOf(end?.getOrNull()) == Stop.CANCELLED) { "$end" }
    }
    // And a voice, which is pushed, stepped and closed by three threads.
    repeat(10) { round ->
        val other = model.chat(options)
        val voice = model.voice(other)
        val ends = List(2) { CompletableDeferred<Throwable?>() }
        thread { ends[0].complete(problemOf { while (true) files.blocks.forEach { voice.push(it) } }) }
        thread { ends[1].complete(problemOf { while (true) voice.step(Sampling.GREEDY) }) }
        Thread.sleep(20 + round * 10L)
        if (round % 2 == 0) other.close() else voice.close()
        for (end in ends) check(withTimeout(60_000) { end.await() } is IllegalStateException)
        other.close()
    }
    // A coroutine that waits for its turn goes without touching the call of another.
    val shared = model.chat(options)
    long(shared)
    runBlocking {
        val holder = launch(Dispatchers.Default) { shared.answer(Sampling.GREEDY).take(1).toList() }
        Thread.sleep(5)
        val waiter = launch(Dispatchers.Default) { shared.count() }
        waiter.cancelAndJoin()
        holder.join()
        check(!holder.isCancelled)
    }
    shared.close()
    model.close()
    // What a cancelled coroutine has opened is closed.
    repeat(20) { round ->
        val job = CoroutineScope(Dispatchers.Default).launch { files.open().use { it.chat().close() } }
        Thread.sleep(round.toLong())
        job.cancelAndJoin()
    }
    check(File("/proc/self/maps").readLines().none { ".gguf" in it })
}

fun main(arguments: Array<String>) {
    val files = Files(arguments.drop(1))
    runBlocking {
        when (arguments[0]) {
            "voice" -> voice(files)
            "listen" -> listen(files)
            "errors" -> errors(files)
            "more" -> more(files)
            "busy" -> busy(files)
            else -> error("There is no part ${arguments[0]}.")
        }
    }
    println("end")
}
