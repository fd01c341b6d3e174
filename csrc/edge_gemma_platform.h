/* What compilers and languages need to know about the headers of edge_gemma, which include this one. */
#ifndef EDGE_GEMMA_PLATFORM_H
#define EDGE_GEMMA_PLATFORM_H

#if defined(_WIN32) && defined(EG_SHARED)
#ifdef EG_BUILD
#define EG_API __declspec(dllexport)
#else
#define EG_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define EG_API __attribute__((visibility("default")))
#else
#define EG_API
#endif

/* What Swift and Objective-C are told beyond C: which pointers may be NULL, which enums are flags or may grow, and short names. */
#if defined(__swift__) || defined(__OBJC__)
#define EG_NONNULL_BEGIN /* a pointer to a pointer is left open */ \
    _Pragma("clang diagnostic push") _Pragma("clang diagnostic ignored \"-Wnullability-completeness\"") \
        _Pragma("clang assume_nonnull begin")
#define EG_NONNULL_END _Pragma("clang assume_nonnull end") _Pragma("clang diagnostic pop")
#define EG_NULLABLE _Nullable
#define EG_ENUM __attribute__((enum_extensibility(open)))
#define EG_FLAGS __attribute__((enum_extensibility(open), flag_enum))
#define EG_NAMED(name) __attribute__((swift_name(#name)))
#else
#define EG_NONNULL_BEGIN
#define EG_NONNULL_END
#define EG_NULLABLE
#define EG_ENUM
#define EG_FLAGS
#define EG_NAMED(name)
#endif

/* Declares a variable of a struct of these headers: zeros, and its struct_size. C may as well write
 * `eg_error err = {.struct_size = sizeof err}`; compilers of C++ warn of the fields that are left out there. Both work
 * inside and outside of functions; C++ from C++11 on. */
#ifdef __cplusplus
#define EG_STRUCT(type, name) \
    type name = [] { \
        type eg_zeros{}; \
        eg_zeros.struct_size = sizeof eg_zeros; \
        return eg_zeros; \
    }()
#else
#define EG_STRUCT(type, name) type name = {.struct_size = sizeof name}
#endif

#endif
