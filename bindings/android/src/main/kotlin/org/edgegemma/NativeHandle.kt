package org.edgegemma

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * Opens something on another thread. A coroutine that was cancelled meanwhile does not get what is returned, so that is closed.
 */
internal suspend fun <T : AutoCloseable> opened(dispatcher: CoroutineDispatcher, open: () -> T): T {
    var made: T? = null
    try {
        return withContext(NonCancellable + dispatcher) { open().also { made = it } }
    } catch (e: Throwable) {
        made?.close()
        throw e
    }
}

/**
 * A pointer to an object of the library, and who is using it.
 *
 * [close] forbids new calls. If one is running, it is cancelled, and the object is freed by the last call that leaves.
 *
 * @param what the object's name in sentences, such as "conversation"
 * @param cancel ends the call that runs on the object, or the next one; it must return at once
 * @param free frees the object; nothing uses it then
 */
internal class NativeHandle(
    private val pointer: Long,
    private val what: String,
    private val cancel: (Long) -> Unit,
    private val free: (Long) -> Unit,
) {
    private var users = 0
    private var closed = false

    val isClosed: Boolean
        @Synchronized get() = closed

    /** Counts a user, and gives the pointer, which is good until [leave]. */
    @Synchronized
    fun enter(): Long {
        check(!closed) { "The $what is closed." }
        users++
        return pointer
    }

    fun leave() {
        val last = synchronized(this) { --users == 0 && closed }
        if (last) free(pointer)
    }

    fun close() {
        val last = synchronized(this) {
            if (closed) return
            closed = true
            if (users > 0) cancel(pointer)
            users == 0
        }
        if (last) free(pointer)
    }

    /** Ends the call that runs, or the next one, unless the object is closed. */
    @Synchronized
    fun cancel() {
        if (!closed) cancel(pointer)
    }

    /** A call that is short and never waits, on the thread of the caller. */
    inline fun <T> now(block: (Long) -> T): T {
        val entered = enter()
        try {
            return block(entered)
        } finally {
            leave()
        }
    }

    /** A call on another thread that comes to its end also when the coroutine is cancelled meanwhile. */
    suspend fun <T> call(dispatcher: CoroutineDispatcher, block: (Long) -> T): T =
        withContext(NonCancellable + dispatcher) { now(block) }

    /**
     * A call that ends early when its coroutine is cancelled. The coroutine goes on, or ends, when the call has returned. A
     * request that came too late for the call is met by the next one, whoever makes it.
     */
    suspend fun <T> cancellable(dispatcher: CoroutineDispatcher, block: (Long) -> T): T = coroutineScope {
        ensureActive()
        val lock = Any()
        var runs = true
        val watch = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
            try {
                awaitCancellation()
            } finally {
                synchronized(lock) { if (runs) cancel() }
            }
        }
        try {
            this@NativeHandle.call(dispatcher) { pointer ->
                try {
                    block(pointer)
                } finally {
                    synchronized(lock) { runs = false }
                }
            }
        } catch (e: EdgeGemmaException) {
            if (e.status == Status.CANCELLED) {
                ensureActive()
                check(!isClosed) { "The $what was closed during the call." }
            }
            throw e
        } finally {
            watch.cancel()
        }
    }
}
