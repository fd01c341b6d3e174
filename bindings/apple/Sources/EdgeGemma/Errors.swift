// Errors of the engine, and the small things that all files here need of C.

import CEdgeGemma
import Foundation

/// What went wrong: a code to act on, and a sentence that says what is wrong and what to do.
public struct EdgeGemmaError: Error, Equatable, Sendable, LocalizedError, CustomStringConvertible {
    public enum Code: String, Sendable {
        /// A parameter is out of its range.
        case argument
        /// The operating system could not open, map, read or write a file.
        case file
        /// A file is damaged, foreign, or lacks something.
        case format
        /// A well-formed file uses something that this version does not know.
        case unsupported
        /// Out of memory.
        case memory
        /// The context is full.
        case context
        /// Not possible now.
        case state
        /// The call was cancelled.
        case cancelled
    }

    public let code: Code
    public let message: String

    public var description: String { message }
    public var errorDescription: String? { message }
}

extension EdgeGemmaError.Code {
    init(_ status: eg_status) {
        switch status {
        case .argument: self = .argument
        case .file: self = .file
        case .format: self = .format
        case .unsupported: self = .unsupported
        case .memory: self = .memory
        case .context: self = .context
        case .cancelled: self = .cancelled
        default: self = .state
        }
    }
}

/// Calls C, and throws the error that it tells.
func check(_ call: (UnsafeMutablePointer<eg_error>) -> eg_status) throws {
    var error = eg_error()
    error.struct_size = sizeOf(eg_error.self)
    let status = call(&error)
    guard status != .ok else { return }
    let message = withUnsafeBytes(of: &error.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    throw EdgeGemmaError(code: .init(status), message: message)
}

/// What a struct's `struct_size` is to be.
func sizeOf<T>(_ type: T.Type) -> UInt32 { UInt32(MemoryLayout<T>.stride) }

/// The text at a pointer of so many bytes, or up to its zero. Bytes that are not UTF-8 become U+FFFD.
func text(_ pointer: UnsafePointer<CChar>?, _ length: Int? = nil) -> String {
    guard let pointer else { return "" }
    let bytes = UnsafeRawBufferPointer(start: pointer, count: length ?? strlen(pointer))
    return String(decoding: bytes, as: UTF8.self)
}

/// Calls with C texts that live as long as the call; nil stays nil.
func withTexts<R>(_ texts: [String?], _ body: ([UnsafePointer<CChar>?]) throws -> R) rethrows -> R {
    let copies = texts.map { $0.map { strdup($0) } }
    defer { copies.forEach { free($0 ?? nil) } }
    return try body(copies.map { $0.map { UnsafePointer($0!) } })
}
