// Cancelling an answer: a request must end this answer, and no other.

import Foundation

/// One piece of work that computes and may be stopped from any thread.
final class Stoppable: @unchecked Sendable {
    private let lock = NSLock()
    private let cancel: () -> Void
    private var runs = false, stopped = false

    /// cancel: asks the engine to end the call that runs, or the next one.
    init(cancel: @escaping () -> Void) { self.cancel = cancel }

    /// Ends the work: at once if it runs, else before it begins. Does nothing when it is over.
    func stop() {
        lock.lock()
        defer { lock.unlock() }
        stopped = true
        if runs { cancel() }
    }

    /// False if it was stopped before.
    func begin() -> Bool {
        lock.lock()
        defer { lock.unlock() }
        runs = !stopped
        return runs
    }

    func end() {
        lock.lock()
        defer { lock.unlock() }
        runs = false
    }
}
